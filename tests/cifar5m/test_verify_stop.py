"""cifar5m-verify that is told to stop."""

import os
import signal

from small_set import make_set, shards_of

from cifar5m.commands import verify as command
from cifar5m.verify import verify_dataset


def test_a_signal_ends_it_with_one_line_and_the_signals_code(tmp_path, monkeypatch, capsys):
    folder = make_set(tmp_path / "set")
    seen = []

    def interrupted(folder, *, on_shard, **options):
        def on_shard_and_signal(report):
            seen.append(report.shard)
            os.kill(os.getpid(), signal.SIGINT)
            on_shard(report)

        return verify_dataset(folder, on_shard=on_shard_and_signal, **options)

    monkeypatch.setattr(command, "verify_dataset", interrupted)
    assert command.main([str(folder), "--workers", "2"]) == 128 + signal.SIGINT
    assert seen == shards_of(folder)[:1]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == "cifar5m-verify: stopped"
