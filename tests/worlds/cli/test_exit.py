"""How commands end when the machine is to blame."""

import errno
import importlib
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch

from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser
from worlds.cli.progress import ProgressBars
from worlds.runtime.progress import Progress

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


def test_an_interrupted_download_is_one_line_and_the_signals_code(monkeypatch, capsys):
    command = importlib.import_module("cifar5m.commands.weights")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("cifar5m.weights.ho_ema.install", interrupted)
    assert command.main(["fetch", "ho-ema"]) == 130
    assert capsys.readouterr().err.splitlines() == ["cifar5m-weights: stopped"]


@pytest.mark.parametrize("module", COMMANDS)
def test_a_key_pressed_before_the_work_begins_is_no_traceback(module, monkeypatch, capsys):
    command = failing(module, KeyboardInterrupt(), monkeypatch)
    assert command.main(COMMANDS[module]) == 130
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(": stopped")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_said_without_a_number(number, monkeypatch, capsys):
    error = OSError(number, os.strerror(number), "set/audit")
    command = failing("cifar5m.commands.audit", error, monkeypatch)
    assert command.main(COMMANDS["cifar5m.commands.audit"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("no permission to write set/audit: choose another directory")


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        (tmp_path / "file" / "runs").mkdir()
    command = failing("worlds.commands.train", caught.value, monkeypatch)
    assert command.main(COMMANDS["worlds.commands.train"]) == 1
    assert f"{tmp_path}/file/runs cannot be made where a file is" in capsys.readouterr().err


def test_control_sequences_of_foreign_names_do_not_reach_the_terminal(tmp_path, capsys):
    def run():
        raise ValueError("class \x1b[2J\x07cat is unknown")

    assert exit_code(Parser("worlds-train", "Train."), run) == 2
    assert capsys.readouterr().err == "worlds-train: class ?[2J?cat is unknown\n"

    def show():
        print("class \x1bc\x9b2J\u202ecat\udcff\tis\nthere")
        return 0

    assert exit_code(Parser("worlds-train", "Train."), show) == 0
    assert capsys.readouterr().out == "class ?c?2J?cat?\tis\nthere\n"


def test_a_command_runs_where_standard_output_is_closed(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    assert exit_code(Parser("worlds-train", "Train."), lambda: print("done") or 0) == 0
    sys.stdout.close()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "this machine's memory (or ulimit -v) is too small"),
        (ImportError("libtorch_cpu.so: failed to map segment"), "this machine's memory"),
        (RuntimeError("can't start new thread"), "no more threads can be started"),
        (KeyError("classes"), "unexpected KeyError ('classes'): please report it"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"), "a/b: No such file"),
    ],
)
def test_what_a_command_does_not_foresee_is_one_line(error, told, capsys):
    def run():
        raise error

    assert exit_code(Parser("worlds-train", "Train."), run, Path("out")) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"worlds-train: {told}")


def test_a_full_disk_without_a_directory_is_one_line(capsys):
    def run():
        raise OSError(errno.ENOSPC, "No space left on device")

    assert exit_code(Parser("worlds-train", "Train."), run) == 2
    assert capsys.readouterr().err.startswith("worlds-train: the disk is full; ")


def test_integers_of_more_than_64_bits_are_refused(capsys):
    parser = Parser("worlds-train", "Train.")
    parser.add_argument("--seed", type=int)
    assert parser.parse_args(["--seed", str(2**64 - 1)]).seed == 2**64 - 1
    with pytest.raises(SystemExit):
        parser.parse_args(["--seed", str(2**64)])
    assert (
        "argument --seed: must be below 2^64, got 18446744073709551616" in capsys.readouterr().err
    )
    assert exit_code(parser, lambda: range(2**64)[:].__len__()) == 2


def test_the_traceback_of_a_bug_is_shown_on_demand(monkeypatch):
    monkeypatch.setenv("DEEP_BOOTSTRAP_TRACEBACK", "1")
    with pytest.raises(KeyError):
        exit_code(Parser("worlds-train", "Train."), lambda: {}["classes"])


def test_an_argument_that_is_no_text_is_refused_before_the_work(capsys):
    with pytest.raises(SystemExit) as ended:
        Parser("worlds-train", "Train.").parse_args(["out\udcff"])
    assert ended.value.code == 2
    assert "'out\\udcff' is not UTF-8" in capsys.readouterr().err


def test_a_stopped_command_says_what_it_keeps(capsys):
    def run():
        with ProgressBars(quiet=True, kept="finished shards are kept") as on_progress:
            os.kill(os.getpid(), signal.SIGINT)
            on_progress(Progress("import", 1, 2))

    assert exit_code(Parser("cifar5m-import", "Import."), run, Path("out")) == 130
    assert capsys.readouterr().err == (
        "cifar5m-import: stopped; finished shards are kept; run the same command to resume\n"
    )
