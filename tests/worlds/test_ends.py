"""How writing commands end before their work: interrupted, or with a file in the way."""

import importlib

import pytest

COMMANDS = {
    "cifar5m.commands.generate": ["--n", "10", "--out", "set"],
    "worlds.commands.train": ["--arch", "mlp_3x128", "--data", "set", "--out", "runs"],
}


def raising(module, error, monkeypatch):
    def fail(*_):
        raise error

    command = importlib.import_module(module)
    monkeypatch.setattr(command, "run" if hasattr(command, "run") else "_run", fail)
    return command


@pytest.mark.parametrize("module", COMMANDS)
def test_ctrl_c_while_a_command_starts_is_one_line_and_code_130(module, monkeypatch, capsys):
    command = raising(module, KeyboardInterrupt(), monkeypatch)
    assert command.main(COMMANDS[module]) == 130
    error = capsys.readouterr().err
    assert error.endswith(": stopped\n")
    assert error.count("\n") == 1


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        (tmp_path / "file" / "runs").mkdir()
    command = raising("worlds.commands.train", caught.value, monkeypatch)
    assert command.main(COMMANDS["worlds.commands.train"]) == 1
    assert f"{tmp_path}/file/runs cannot be made where a file is" in capsys.readouterr().err
