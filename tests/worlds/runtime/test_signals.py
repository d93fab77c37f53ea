"""Signals that ask to stop."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser
from worlds.runtime.signals import PARENT, Stopped, StopSignal, restored_handlers


@pytest.fixture(autouse=True)
def _restored():
    with restored_handlers():
        yield


def handlers() -> list:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_remembered_and_the_second_is_the_systems(number):
    stop = StopSignal()
    stop.raise_if_set()
    os.kill(os.getpid(), number)
    with pytest.raises(Stopped) as caught:
        stop.raise_if_set()
    assert caught.value.number == number
    assert handlers() == [signal.SIG_DFL, signal.SIG_DFL]


def test_a_command_leaves_the_handlers_of_its_caller(tmp_path, capsys):
    before = handlers()

    def run() -> int:
        stop = StopSignal()
        os.kill(os.getpid(), signal.SIGTERM)
        stop.raise_if_set()
        return 0

    assert exit_code(Parser("any", "Any."), run, tmp_path) == 128 + signal.SIGTERM
    assert handlers() == before
    assert "stopped" in capsys.readouterr().err


def test_in_another_thread_no_handler_is_set():
    before, made = handlers(), []
    thread = threading.Thread(target=lambda: made.append(StopSignal()))
    thread.start()
    thread.join()
    made[0].raise_if_set()
    assert handlers() == before


def test_a_worker_whose_parent_has_gone_stops(monkeypatch):
    monkeypatch.setenv(PARENT, str(os.getpid()))  # which is not the parent of this process
    with pytest.raises(Stopped):
        StopSignal().raise_if_set()


def test_ctrl_c_while_a_command_imports_is_one_line():
    program = "import worlds.commands; raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    assert done.stderr == "stopped\n"
