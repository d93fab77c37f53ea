"""cifar5m-verify that is told to stop, or whose workers are killed."""

import os
import signal

from cifar5m.commands import verify as command
from tests.cifar5m.small_set import shards_of
from worlds.cli.progress import ProgressBars
from worlds.runtime.processes import Workers


def test_a_signal_ends_it_with_one_line_and_the_signals_code(folder, monkeypatch, capsys):
    seen = []

    class Interrupted(ProgressBars):
        def __call__(self, progress):
            seen.append(progress.done)
            if progress.done:
                os.kill(os.getpid(), signal.SIGINT)
            super().__call__(progress)

    monkeypatch.setattr(command, "ProgressBars", Interrupted)
    assert command.main([str(folder), "--workers", "2"]) == 128 + signal.SIGINT
    assert seen == [0, len(shards_of(folder)[0])]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == "cifar5m-verify: stopped"


def test_a_killed_worker_is_one_line_and_no_verdict(folder, monkeypatch, capsys):
    begin = Workers.__enter__

    def begin_and_kill(workers):
        for process in list(workers._pool._processes.values()):
            process.kill()
            process.join()
        return begin(workers)

    monkeypatch.setattr(Workers, "__enter__", begin_and_kill)
    assert command.main([str(folder), "--workers", "2"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.splitlines()[-1]
    assert last.endswith("cifar5m-verify: a worker process was killed; run the command again")
