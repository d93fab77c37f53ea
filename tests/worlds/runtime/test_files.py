"""Atomic files, and what killed processes leave behind."""

import errno
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worlds.runtime.files import _host, atomic_write, remove_stale, sha256_of, sync, write_json

REPO = Path(__file__).resolve().parents[3]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def temporary_name(pid, host=None):
    host = host or _host()
    return f".file.tar.{host}.{pid}.0123abcd.tmp"


def test_a_file_appears_whole_and_alone(tmp_path):
    path = tmp_path / "new" / "file.bin"
    with atomic_write(path) as stream:
        stream.write(b"first ")
        assert not path.exists()
        stream.write(b"second")
    assert path.read_bytes() == b"first second"
    assert names(path.parent) == ["file.bin"]


def fail_half_way(path, error):
    with atomic_write(path) as stream:
        stream.write(b"half")
        raise error


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing_and_keeps_the_old_file(tmp_path, error):
    (tmp_path / "old").write_bytes(b"old")
    for name in ("old", "new"):
        with pytest.raises(error):
            fail_half_way(tmp_path / name, error)
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_a_folder_in_the_way_is_an_error_that_leaves_nothing(tmp_path):
    (tmp_path / "taken" / "inner").mkdir(parents=True)
    with pytest.raises(OSError, match="taken"), atomic_write(tmp_path / "taken") as stream:
        stream.write(b"content")
    assert names(tmp_path) == ["taken"]


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    with atomic_write(tmp_path / "file") as first, atomic_write(tmp_path / "file") as second:
        first.write(b"first")
        second.write(b"second")
    assert (tmp_path / "file").read_bytes() == b"first"  # the last to finish
    assert names(tmp_path) == ["file"]


def test_a_killed_process_leaves_one_temporary_file_that_is_removed(tmp_path):
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from worlds.runtime.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as stream:\n"
        "    stream.write(b'half'); stream.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "file.tar")]
    killed = subprocess.run(command, check=False, cwd=REPO, env=os.environ | {"PYTHONPATH": "."})
    assert killed.returncode == -signal.SIGKILL
    [left] = names(tmp_path)
    assert left.startswith(".file.tar.")
    assert left.endswith(".tmp")
    remove_stale(tmp_path)
    assert names(tmp_path) == []


def test_only_temporary_files_of_dead_processes_here_are_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    kept = [
        temporary_name(os.getpid()),
        temporary_name(os.getppid()),
        temporary_name(ended.pid, host="elsewhere"),
        "file.tar",
        ".hidden.tmp",
        f"notes.{socket.gethostname()}.{ended.pid}.tmp",
    ]
    for name in [*kept, temporary_name(ended.pid)]:
        (tmp_path / name).write_bytes(b"")
    remove_stale(tmp_path)
    assert names(tmp_path) == sorted(kept)


def test_sha256_is_of_the_bytes(tmp_path):
    data = os.urandom(1 << 20)
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_json_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {"a": object()})
    assert names(tmp_path) == []
    write_json(tmp_path / "file.json", {"b": 1, "a": [2]})
    assert (tmp_path / "file.json").read_text() == '{\n  "b": 1,\n  "a": [\n    2\n  ]\n}\n'


def test_a_killed_process_that_nobody_has_waited_for_counts_as_gone(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    left = tmp_path / f".shard.tar.{_host()}.{process.pid}.0123abcd.tmp"
    left.write_bytes(b"half")
    remove_stale(tmp_path)
    assert left.exists()  # it lives
    process.kill()
    deadline = time.monotonic() + 10
    while left.exists():
        remove_stale(tmp_path)
        assert time.monotonic() < deadline
    process.wait()


def test_a_disk_that_fails_while_syncing_is_named_by_its_file(monkeypatch, tmp_path):
    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with (
        pytest.raises(OSError, match=r"Input/output error: .*plan\.json"),
        atomic_write(tmp_path / "plan.json") as stream,
    ):
        stream.write(b"{}")
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match=f"Input/output error: '{tmp_path}'"):
        sync(tmp_path)
