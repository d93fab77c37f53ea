"""How commands end when the machine is to blame."""

import errno
import importlib
import re

import pytest
import torch

COMMANDS = {
    "cifar5m.commands.generate": ["--n", "10", "--out", "set"],
    "cifar5m.commands.label": ["set", "--labeler", "tiny"],
    "cifar5m.commands.audit": ["set", "--cifar10", "data"],
    "cifar5m.commands.finetune_labeler": ["--data", "data"],
    "worlds.commands.train": ["--arch", "mlp_3x128", "--data", "set", "--out", "runs"],
}


def failing(module, error, monkeypatch):
    """The command, of which every attempt to work raises `error`."""

    def fail(*_):
        raise error

    command = importlib.import_module(module)
    monkeypatch.setattr(command, "run" if hasattr(command, "run") else "_run", fail)
    return command


@pytest.mark.parametrize("module", COMMANDS)
def test_the_advice_for_a_full_device_is_an_option_of_the_command(module, monkeypatch, capsys):
    command = failing(module, torch.OutOfMemoryError("CUDA out of memory"), monkeypatch)
    assert command.main(COMMANDS[module]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    advised = re.findall(r"--[\w-]+", lines[0])
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert advised
    assert set(advised) <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))


def test_a_full_disk_names_the_folder_and_what_to_do(monkeypatch, capsys):
    full = OSError(errno.ENOSPC, "No space left on device")
    command = failing("cifar5m.commands.generate", full, monkeypatch)
    assert command.main(COMMANDS["cifar5m.commands.generate"]) == 1
    error = capsys.readouterr().err
    assert error == (
        "cifar5m-generate: the disk of set is full; what is finished is safe: make room, run "
        "again\n"
    )
