"""Files that are never half written: temporary name in the target folder, fsync, rename.

A temporary name is `.{name}.{host}.{pid}.{random}.tmp`. What a killed process leaves behind is
therefore recognizable, and `remove_stale` deletes it once that process is gone. Process numbers are
those of a namespace: containers of one host may share its name, so the name holds both.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import socket
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

TEMPORARY_SUFFIX = ".tmp"
LOCK = ".lock"


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that takes its final name only if the block ends well; on any failure
    nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unique = f".{path.name}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    temporary = path.with_name(unique)
    # Write and sync under the temporary name, then rename.
    try:
        with temporary.open("xb") as stream:
            yield stream
            try:
                stream.flush()
                os.fsync(stream.fileno())
            except OSError as error:  # of a descriptor: it does not know the name
                error.filename = error.filename or str(path)
                raise
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's bytes, or the renames inside a directory, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # CIFS and some FUSE file systems sync files only
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            error.filename = str(path)  # of a descriptor: it does not know the name
            raise
    finally:
        os.close(descriptor)


class HashingStream:
    """A write-only stream that keeps the sha256 and the length of what passes through."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.sha256, self.bytes = stream, hashlib.sha256(), 0

    def write(self, data: bytes | memoryview) -> int:
        self.sha256.update(data)
        self.bytes += memoryview(data).nbytes
        return self.stream.write(data)


class BoundedReads:
    """A stream without reads of more than `most` bytes, which a foreign file may declare, and which
    would be allocated before a byte is read.
    """

    def __init__(self, stream: Any, most: int = 1 << 28) -> None:
        self.stream, self.most = stream, most

    def read(self, size: int = -1) -> bytes:
        if size > self.most:
            raise ValueError(f"a header declares {size:,} bytes")
        data: bytes = self.stream.read(size)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def zip_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the members of a zip that others may have made.

    Raises ValueError if two share a name, or one is neither stored nor deflated: other methods
    take as much memory as a few bytes of the file ask for.
    """
    # Of two members of one name a reader takes whichever comes first.
    members = archive.infolist()
    if len({info.filename for info in members}) < len(members):
        raise ValueError("it holds two files of one name")
    for info in members:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{info.filename} is neither stored nor deflated")
    return members


def write_json(path: Path, value: Any) -> None:
    """Write a value, msgspec types and dataclasses included, as indented JSON, atomically. NaN and
    infinities become null.
    """
    with atomic_write(path) as stream:
        stream.write(json_text(value, indent=2))


def json_text(value: Any, indent: int | None = None) -> bytes:
    """Return a value as JSON with a newline: on one line, or indented."""
    # msgspec knows the types, the json module the layout.
    plain = json.loads(msgspec.json.encode(value, enc_hook=_plain))
    return (json.dumps(plain, indent=indent) + "\n").encode()


def _plain(value: Any) -> Any:
    if isinstance(value, float):  # numpy's, which msgspec does not take for one
        return float(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise OSError(errno.EINVAL, "not a file", str(path))
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Busy(ValueError):
    """Another process is at work in a directory."""


def lock_stream(stream: IO[bytes], wait: bool = True) -> bool:
    """Lock an open file for this process until it is closed; False if another process holds it.

    The lock ends with the process, however that ends.
    """
    from filelock import lock_descriptor

    try:
        return lock_descriptor(stream.fileno(), blocking=wait)
    except OSError as error:  # some network file systems have no locks: one process alone is safe
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return True


@contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file, created if missing; waits while another process holds it."""
    with path.open("ab") as stream:
        lock_stream(stream)
        yield


@contextmanager
def locked(folder: Path, work: str) -> Iterator[None]:
    """Hold the lock of a directory, which is created if need be. Raises Busy while another process
    does its `work` there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("wb") as stream:
        if not lock_stream(stream, wait=False):
            time.sleep(0.1)  # `is_locked` of another process holds it for an instant
            if not lock_stream(stream, wait=False):
                raise Busy(f"another process is {work} in {folder}")
        yield


def is_locked(folder: Path) -> bool:
    """Check whether a process holds the lock of a directory."""
    try:
        with (folder / LOCK).open("rb") as stream:
            return not lock_stream(stream, wait=False)
    except FileNotFoundError:
        return False


def clean_folders(*folders: Path) -> None:
    """Create directories that are missing, and delete what gone processes left half-written."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)


def remove_stale(folder: Path) -> None:
    """Delete temporary files in `folder` whose process, on this host, no longer lives."""
    # Names of other hosts and namespaces say nothing about processes here.
    host = _host()
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        _, _, tail = path.name.rpartition(f".{host}.")
        pid = tail.partition(".")[0]
        if tail != path.name and pid.isdigit() and not _lives(int(pid)):
            path.unlink(missing_ok=True)


def _host() -> str:
    """Return the host's name and this process's PID namespace, as one word without dots."""
    host = socket.gethostname().replace(".", "-")
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # pid:[4026531836]
    except OSError:  # not Linux, where there are none
        return host
    return f"{host}-{namespace.strip('pid:[]')}"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # a process that was killed answers until its parent has taken note
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return True
    return state not in (b"Z", b"X")


def check_disk(folder: Path, needed: int, remedy: str = "choose another `out`") -> None:
    """Raise ValueError if the disk of `folder`, which need not exist, has less than `needed` bytes
    free; `remedy` is what to do other than making room.
    """
    # The nearest parent that exists is on the same disk.
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ValueError(
            f"{folder} needs {needed:,} more bytes and its disk has {free:,} free: "
            f"make room or {remedy}"
        )
