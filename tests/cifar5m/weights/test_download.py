"""fetch() against real servers on loopback that cut, corrupt, refuse and misreport."""

import errno
import hashlib
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from cifar5m.weights.download import (
    FetchError,
    RemoteFile,
    cache_folder,
    check_file,
    fetch,
    hash_file,
)
from tests.cifar5m.loopback import BODY, servers


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with servers() as start:
        yield start


def remote(server, **known):
    return RemoteFile("file.bin", server.url, **known)


def md5(body=BODY):
    return hashlib.md5(body).hexdigest()


def quick(file, folder, lines=None, **options):
    """Fetch without long waits; notes go to `lines`, and progress reports before them."""
    return fetch(file, folder, lines and lines.append, backoff=0.005, timeout=2, **options)


class Reports(list):
    """Everything that a download reports."""

    def __bool__(self):
        return True

    @property
    def notes(self):
        return [each.note for each in self if each.note]


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("reset", [False, True])
def test_five_cuts_and_one_corrupted_byte_end_in_the_right_file(serve, tmp_path, reset):
    cuts = [{"cut": 100_000, "reset": reset} for _ in range(5)]
    server = serve(faults=[*cuts, {"flip": 600_000}])
    reports = Reports()
    path = quick(remote(server, md5=md5()), tmp_path, reports)
    assert path.read_bytes() == BODY
    assert names(tmp_path) == ["file.bin"]
    starts = [int(asked[6:-1]) if asked else 0 for asked in server.seen]
    assert len(starts) == 7
    assert starts == [*sorted(starts[:6]), 0]  # each attempt goes on, the corrupted one starts over
    if not reset:  # a reset may drop bytes that were sent and not yet read
        assert starts == [0, 100_000, 200_000, 300_000, 400_000, 500_000, 0]
    assert sum("cut" in line for line in reports.notes) == 5
    assert sum("md5" in line and "starting over" in line for line in reports.notes) == 1
    assert (reports[-1].done, reports[-1].total) == (len(BODY), len(BODY))
    assert all("\n" not in line for line in reports.notes)


def test_a_file_that_is_there_is_not_asked_for_again(serve, tmp_path):
    server = serve()
    file = remote(server, sha256=hashlib.sha256(BODY).hexdigest())
    assert quick(file, tmp_path) == quick(file, tmp_path) == tmp_path / "file.bin"
    assert len(server.seen) == 1


def test_a_wrong_hash_keeps_nothing_and_names_both(serve, tmp_path):
    server = serve(body=BODY[:-1] + b"x")
    with pytest.raises(FetchError) as error:
        quick(remote(server, md5=md5()), tmp_path)
    assert md5() in str(error.value)
    assert md5(BODY[:-1] + b"x") in str(error.value)
    assert "nothing was kept" in str(error.value)
    assert names(tmp_path) == []
    assert len(server.seen) == 2  # once more from zero, then no more


def test_a_later_process_goes_on_where_an_earlier_one_was_cut(serve, tmp_path):
    server = serve(faults=[{"cut": 300_000}, {"status": 404}])
    with pytest.raises(FetchError, match="HTTP 404"):
        quick(remote(server), tmp_path)
    assert names(tmp_path) == ["file.bin.part", "file.bin.part.json"]
    assert quick(remote(server), tmp_path).read_bytes() == BODY
    assert server.seen == [None, "bytes=300000-", "bytes=300000-"]
    assert names(tmp_path) == ["file.bin"]


def test_another_version_on_the_server_is_not_spliced_to_an_old_part(serve, tmp_path):
    server = serve(faults=[{"cut": 300_000}, {"status": 404}])
    with pytest.raises(FetchError):
        quick(remote(server), tmp_path)
    server.body, server.etag = BODY[::-1], '"2"'
    assert quick(remote(server), tmp_path).read_bytes() == BODY[::-1]


@pytest.mark.parametrize("known", [{}, {"md5": md5()}])
def test_a_part_that_nothing_vouches_for_is_dropped_or_hashed(serve, tmp_path, known):
    (tmp_path / "file.bin.part").write_bytes(b"from somewhere else")
    server = serve(etag=None)
    assert quick(remote(server, **known), tmp_path).read_bytes() == BODY
    assert server.seen == ([None] if not known else ["bytes=19-", None])


def test_a_part_that_is_already_whole_is_only_renamed(serve, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY)
    server = serve()
    assert quick(remote(server, md5=md5()), tmp_path).read_bytes() == BODY
    assert server.seen == [f"bytes={len(BODY)}-"]


def test_a_part_longer_than_the_file_starts_over(serve, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY + b"more")
    server = serve()
    assert quick(remote(server, md5=md5()), tmp_path).read_bytes() == BODY


def test_a_server_without_ranges_starts_over_and_says_so(serve, tmp_path):
    server = serve(ranges=False, faults=[{"cut": 400_000}])
    reports = Reports()
    assert quick(remote(server, md5=md5()), tmp_path, reports).read_bytes() == BODY
    assert any("cannot resume; starting over" in line for line in reports.notes)


def test_a_server_without_ranges_that_always_cuts_is_given_up(serve, tmp_path):
    server = serve(ranges=False, faults=[{"cut": 1000}] * 50)
    with pytest.raises(FetchError, match=r"connection cut .*4 attempts"):
        quick(remote(server), tmp_path, attempts=4)
    assert len(server.seen) == 5  # the first brought something new


def test_a_server_shorter_than_its_content_length_is_given_up_and_the_part_stays(serve, tmp_path):
    server = serve(faults=[{"cut": 639_999}] + [{"cut": 0}] * 50)
    with pytest.raises(FetchError, match=r"connection cut .*3 attempts"):
        quick(remote(server, md5=md5()), tmp_path, attempts=3)
    assert (tmp_path / "file.bin.part").stat().st_size == 639_999


def test_a_stream_without_length_ends_where_the_server_ends_it(serve, tmp_path):
    server = serve(length=False)
    assert quick(remote(server), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_state_that_may_pass_is_tried_again(serve, tmp_path, status):
    server = serve(faults=[{"status": status, "headers": {"Retry-After": "0"}}] * 2)
    assert quick(remote(server), tmp_path).read_bytes() == BODY
    assert len(server.seen) == 3


def test_retry_after_is_kept_but_never_above_the_longest_wait(serve, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr("worlds.runtime.http.time", SimpleNamespace(sleep=waits.append))
    server = serve(
        faults=[{"status": 503, "headers": {"Retry-After": after}} for after in ("7", "9999", "x")]
    )
    fetch(remote(server), tmp_path, backoff=0.5)
    assert waits == [7.0, 300.0, 4.0]


@pytest.mark.parametrize(
    "fault, message",
    [
        ({"status": 404}, "HTTP 404 Not Found"),
        ({"status": 403}, "HTTP 403 Forbidden"),
        ({"type": "text/html; charset=utf-8"}, "sent a web page, not the file"),
    ],
)
def test_a_refusal_is_one_line_that_says_what_to_put_where(serve, tmp_path, fault, message):
    server = serve(faults=[fault])
    with pytest.raises(FetchError, match=message) as error:
        quick(remote(server), tmp_path)
    line = str(error.value)
    assert "\n" not in line
    assert f"download {server.url} by hand and put it at {tmp_path / 'file.bin'}" in line
    assert names(tmp_path) == []
    assert len(server.seen) == 1


def test_no_server_at_all_is_one_line(tmp_path, serve):
    server = serve()
    server.shutdown()
    server.server_close()
    with pytest.raises(FetchError, match=r"no connection .*refused.* 2 attempts") as error:
        quick(remote(server), tmp_path, attempts=2)
    assert "\n" not in str(error.value)


def test_a_name_that_does_not_resolve_is_not_tried_again(tmp_path, monkeypatch):
    def unresolved(*_, **__):
        import socket

        calls.append(1)
        raise socket.gaierror(-2, "Name or service not known")

    calls = []
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("socket.getaddrinfo", unresolved)
    file = RemoteFile("file.bin", "http://weights.invalid/file")
    with pytest.raises(FetchError, match="the name cannot be resolved"):
        quick(file, tmp_path)
    assert len(calls) == 1


def test_a_server_that_sends_another_range_is_refused(serve, tmp_path):
    server = serve(faults=[{"cut": 1000}, {"shift": 5}])
    with pytest.raises(FetchError, match="asked from byte 1000, the server sent from 1005"):
        quick(remote(server), tmp_path)


def test_a_full_disk_is_said_before_the_first_byte(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(FetchError, match=r"needs 640,000 more bytes and .* has 1,000 free"):
        quick(remote(serve()), tmp_path)
    assert names(tmp_path) == []


def test_a_disk_that_fills_midway_is_one_line_and_the_same_command_resumes(
    serve, tmp_path, monkeypatch
):
    server = serve(faults=[{"cut": 300_000}])
    real, writes = Path.open, []

    def full(self, *args, **options):
        file = real(self, *args, **options)
        if not self.name.endswith(".part"):
            return file
        return Full(file, writes)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(FetchError, match=r"cannot be written .*No space left") as error:
            quick(remote(server), tmp_path)
    assert "\n" not in str(error.value)
    assert quick(remote(server), tmp_path).read_bytes() == BODY
    assert server.seen[-1].startswith("bytes=")


class Full:
    """A file on a disk that takes 300,000 bytes."""

    def __init__(self, file, writes):
        self.file, self.writes = file, writes

    def write(self, block):
        if sum(self.writes) + len(block) > 300_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.writes.append(len(block))
        return self.file.write(block)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_wrong_file_put_by_hand_is_refused_and_left_alone(serve, tmp_path):
    server = serve()
    (tmp_path / "file.bin").write_bytes(b"mine")
    with pytest.raises(FetchError, match="delete it or put the right file there") as error:
        quick(remote(server, md5=md5()), tmp_path)
    assert md5() in str(error.value)
    assert md5(b"mine") in str(error.value)
    assert (tmp_path / "file.bin").read_bytes() == b"mine"
    assert server.seen == []


def test_eight_fetches_at_once_ask_the_server_once(serve, tmp_path):
    server = serve()
    file, results = remote(server, md5=md5()), []
    threads = [
        threading.Thread(target=lambda: results.append(quick(file, tmp_path))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / "file.bin"] * 8
    assert len(server.seen) == 1
    assert names(tmp_path) == ["file.bin"]


def test_an_unreadable_version_note_only_costs_the_resume(serve, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY[:1000])
    for note in ("", "[]", json.dumps({"url": 1})):
        (tmp_path / "file.bin.part.json").write_text(note)
        server = serve()
        assert quick(remote(server), tmp_path).read_bytes() == BODY
        assert server.seen == [None]
        (tmp_path / "file.bin").rename(tmp_path / "file.bin.part")


def test_hashes_are_those_of_the_file(tmp_path):
    (tmp_path / "f").write_bytes(BODY)
    assert hash_file(tmp_path / "f", "md5") == md5()
    assert hash_file(tmp_path / "f", "sha256") == hashlib.sha256(BODY).hexdigest()
    with pytest.raises(FetchError, match=f"f is not g: md5 {md5()}, expected 00"):
        check_file(tmp_path / "f", RemoteFile("g", "http://h/f", md5="00"))


def test_a_remote_file_refuses_other_addresses():
    with pytest.raises(ValueError, match="must be http or https, got 'file:///etc/passwd'"):
        RemoteFile("f", "file:///etc/passwd")


def test_the_cache_follows_its_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DEEP_BOOTSTRAP_CACHE", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "deep-bootstrap"
    monkeypatch.setenv("DEEP_BOOTSTRAP_CACHE", "~/elsewhere")
    assert cache_folder() == tmp_path / "elsewhere"
