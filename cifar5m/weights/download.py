"""Download a file once and exactly: resumed after a cut, hashed while it is read, renamed last.

    WEIGHTS = RemoteFile("model.ckpt", ("https://example.org/model.ckpt",), md5="1fa350b9...")
    path = fetch(WEIGHTS, cache_folder() / "downloads")

Until it is complete and its hash is right a file is called NAME.part, so that what lies under the
final name is always whole. A cut leaves NAME.part (and NAME.part.json, which says what the server
called this version of the file) for the next attempt, in this process or a later one; a wrong hash
leaves nothing. Several processes may fetch one file at once: one downloads, the others wait.
"""

import errno
import fcntl
import hashlib
import http.client
import json
import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

BLOCK: Final = 1 << 20


CACHE_VARIABLE: Final = "DEEP_BOOTSTRAP_CACHE"


class FetchError(OSError):
    """A file could not be had; the message is one line that says what to do by hand."""


@dataclass(frozen=True)
class RemoteFile:
    """What a file is: its name on disk, its mirrors in order of preference, its size and hashes.

    Every URL must hold the same bytes. Unknown size and hashes are None.
    """

    name: str
    urls: tuple[str, ...]
    size: int | None = None  # bytes
    md5: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name:
            raise ValueError(f"name must be a plain file name, got {self.name!r}")
        if not self.urls:
            raise ValueError(f"{self.name}: at least one url is needed")
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"{self.name}: a url must be http or https, got {url!r}")
        for kind, digits in (("md5", 32), ("sha256", 64)):
            value = getattr(self, kind)
            if value is not None and (len(value) != digits or set(value) - set("0123456789abcdef")):
                raise ValueError(f"{self.name}: {kind} must be {digits} hex digits, got {value!r}")

    @property
    def hashes(self) -> dict[str, str]:
        """The known hashes by kind."""
        known = {"md5": self.md5, "sha256": self.sha256}
        return {kind: value for kind, value in known.items() if value is not None}

    def wrong_hash(self, found: Mapping[str, str]) -> str | None:
        """What is wrong with hashes `found`, by kind; None where they are the known ones."""
        for kind, expected in self.hashes.items():
            if found[kind] != expected:
                return f"{kind} {found[kind]}, expected {expected}"
        return None


class Digests:
    """Hashes of one stream of bytes, of the kinds that somebody will look at."""

    def __init__(self, kinds: Iterable[str]) -> None:
        self.parts = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}

    def update(self, block: bytes) -> None:
        for digest in self.parts.values():
            digest.update(block)

    def hex(self) -> dict[str, str]:
        return {kind: digest.hexdigest() for kind, digest in self.parts.items()}


def cache_folder() -> Path:
    """Where downloads live: $DEEP_BOOTSTRAP_CACHE or ~/.cache/deep-bootstrap."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "deep-bootstrap"


def file_hashes(path: Path) -> dict[str, str]:
    """md5 and sha256 of a file, read once."""
    digests = Digests(("md5", "sha256"))
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digests.update(block)
    return digests.hex()


def check_file(path: Path, remote: RemoteFile) -> None:
    """FetchError, with both values, if a file is not the one that `remote` describes."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        raise FetchError(f"{path} has {size} bytes, expected {remote.size}")
    wrong = remote.wrong_hash(file_hashes(path)) if remote.hashes else None
    if wrong:
        raise FetchError(f"{path} is not {remote.name}: {wrong}")


RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP states that may pass
LONGEST_WAIT: Final = 30.0  # seconds, also where a server asks for more

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if known
Note = Callable[[str], None]  # one line on a cut, a retry, a change of mirror


def fetch(
    remote: RemoteFile,
    folder: Path,
    *,
    progress: Progress | None = None,
    note: Note | None = None,
    timeout: float = 30.0,  # seconds without a byte
    attempts: int = 6,  # in a row at one url that bring nothing new
    backoff: float = 0.5,  # seconds before the first retry, doubled at each
) -> Path:
    """The path of the file in `folder`, downloaded unless it is there; FetchError if that fails.

    A file that is there is hashed, and refused (not replaced) if its hash is wrong.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / remote.name
    with _locked_part(folder / f"{remote.name}.part", target) as part_file:
        if part_file is None:
            try:
                check_file(target, remote)
            except FetchError as error:
                raise FetchError(f"{error}; delete it or put the right file there") from None
            return target
        download = _Download(remote, target, part_file, progress, note, timeout)
        failures: list[str] = []
        for number, url in enumerate(remote.urls):
            if number:
                download.say(f"{remote.name}: {failures[-1]}; trying {url}")
            try:
                download.run(url, attempts, backoff)
                return download.finish()
            except _UrlFailed as error:
                failures.append(f"{url}: {error}")
        raise FetchError(
            f"{'; '.join(failures)}; download {remote.urls[0]} by hand and put it at {target}"
        )


class _UrlFailed(Exception):
    """This URL will not give the file; another one might."""


class _Cut(Exception):
    """This attempt ended early; another one may go on."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait  # seconds that the server asks for


class _Download:
    """NAME.part, its length and its hashes, always in step, and the requests that fill it."""

    def __init__(
        self,
        remote: RemoteFile,
        target: Path,
        file: BinaryIO,
        progress: Progress | None,
        note: Note | None,
        timeout: float,
    ) -> None:
        self.remote, self.target, self.file, self.timeout = remote, target, file, timeout
        self.report = progress or (lambda done, total: None)
        self.say = note or (lambda line: None)
        self.version_file = target.with_name(f"{remote.name}.part.json")
        self.version = _read_version(self.version_file)  # {"url": ..., "validator": ...}
        self.digests, self.length, self.total = Digests(remote.hashes), 0, remote.size
        self.file.seek(0)
        while block := self.file.read(BLOCK):
            self.digests.update(block)
            self.length += len(block)

    def run(self, url: str, attempts: int, backoff: float) -> None:
        """Fill the part from one URL and check its hash, or raise _UrlFailed."""
        fruitless, furthest, wrong_before = 0, self.length, False
        self._keep_only_what_can_be_resumed(url)
        while True:
            try:
                if not self._complete():
                    self._request(url)
                wrong = self._wrong()
                if wrong is None:
                    return
                self.clear()
                if wrong_before:
                    raise _UrlFailed(f"{wrong}; nothing was kept")
                self.say(f"{self.remote.name}: {wrong}; deleted, starting over")
                fruitless, furthest, wrong_before = 0, 0, True
            except _Cut as cut:
                fruitless = 0 if self.length > furthest else fruitless + 1
                furthest = max(furthest, self.length)
                if fruitless >= attempts:
                    raise _UrlFailed(f"{cut} ({attempts} attempts)") from None
                wait = min(max(cut.wait, backoff * 2**fruitless), LONGEST_WAIT)
                self.say(f"{self.remote.name}: {cut} at byte {self.length}; again in {wait:.1f} s")
                time.sleep(wait)

    def finish(self) -> Path:
        """Make the part durable and give it its final name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        os.replace(self.file.name, self.target)
        self.version_file.unlink(missing_ok=True)
        return self.target

    def clear(self) -> None:
        """Forget every byte."""
        self.file.seek(0)
        self.file.truncate()
        self.digests, self.length = Digests(self.remote.hashes), 0
        self.total = self.remote.size
        self._set_version(None)

    def _complete(self) -> bool:
        return self.total is not None and self.length == self.total

    def _wrong(self) -> str | None:
        if self.remote.size is not None and self.length != self.remote.size:
            return f"{self.length} bytes, expected {self.remote.size}"
        return self.remote.wrong_hash(self.digests.hex())

    def _keep_only_what_can_be_resumed(self, url: str) -> None:
        """Bytes that neither a hash nor the server's own version mark can vouch for start over."""
        too_long = self.remote.size is not None and self.length > self.remote.size
        vouched = bool(self.remote.hashes) or self._validator(url) is not None
        if self.length and (too_long or not vouched):
            self.clear()

    def _validator(self, url: str) -> str | None:
        return self.version["validator"] if self.version and self.version["url"] == url else None

    def _set_version(self, version: dict[str, str] | None) -> None:
        self.version = version
        if version is None:
            self.version_file.unlink(missing_ok=True)
        else:
            self.version_file.write_text(json.dumps(version))

    def _request(self, url: str) -> None:
        """One request; returns when the file is complete, raises _Cut or _UrlFailed otherwise."""
        headers = {"User-Agent": "deep-bootstrap", "Accept-Encoding": "identity"}
        if self.length:
            headers["Range"] = f"bytes={self.length}-"
            if validator := self._validator(url):
                headers["If-Range"] = validator
        try:
            request = urllib.request.Request(url, headers=headers)
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                self._accept(response, url)
                self._read(response)
        except urllib.error.HTTPError as error:
            self._refused(error)
        except urllib.error.URLError as error:
            if isinstance(error.reason, socket.gaierror):
                raise _UrlFailed(f"the name cannot be resolved ({error.reason})") from None
            raise _Cut(f"no connection ({error.reason})") from None
        except FetchError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise _Cut(f"connection cut ({type(error).__name__})") from None

    def _refused(self, error: urllib.error.HTTPError) -> None:
        error.close()
        if error.code == 416 and self.length:  # nothing there after what is here
            if error.headers.get("Content-Range") == f"bytes */{self.length}":
                self.total = self.length
                return
            self.clear()
            raise _Cut("HTTP 416 (what was here is not the start of the file)")
        if error.code not in RETRIED:
            raise _UrlFailed(f"HTTP {error.code} {error.reason}")
        after = error.headers.get("Retry-After", "")
        raise _Cut(f"HTTP {error.code} {error.reason}", float(after) if after.isdigit() else 0.0)

    def _accept(self, response: http.client.HTTPResponse, url: str) -> None:
        """Check the head of an answer; start over where the server sends the whole file."""
        kind = response.headers.get_content_type()
        if kind == "text/html" and not self.remote.name.endswith((".html", ".htm")):
            raise _UrlFailed("the server sent a web page, not the file")
        start, total = _range_of(response)
        if start != self.length:
            if start:
                raise _UrlFailed(f"asked from byte {self.length}, the server sent from {start}")
            self.say(f"{self.remote.name}: {url} cannot resume; starting over")
            self.clear()
        if self.remote.size is not None and total not in (None, self.remote.size):
            raise _UrlFailed(f"the file there has {total} bytes, expected {self.remote.size}")
        self.total = total if total is not None else self.remote.size
        if self.total is not None:
            _need_space(self.target, self.total - self.length)
        validator = response.headers.get("ETag", "")
        if not validator or validator.startswith("W/"):
            validator = response.headers.get("Last-Modified", "")
        version = {"url": url, "validator": validator} if validator else None
        if version != self.version:
            self._set_version(version)

    def _read(self, response: http.client.HTTPResponse) -> None:
        while block := response.read1(BLOCK):  # what has come, so that a cut loses nothing
            try:
                self.file.write(block)
                self.file.flush()
            except OSError as error:
                raise FetchError(_cannot_write(self.target, error)) from error
            self.digests.update(block)
            self.length += len(block)
            self.report(self.length, self.total)
        if self.total is not None and self.length < self.total:
            raise _Cut(f"connection cut before byte {self.total}")


@contextmanager
def _locked_part(part: Path, target: Path) -> Iterator[BinaryIO | None]:
    """NAME.part opened for this process alone, or None once the file lies under its final name."""
    while not target.exists():
        with part.open("a+b") as file:
            lock_file(file)
            # While this process waited, the one before it may have renamed or deleted the file.
            if target.exists() or not _is_file_of(part, file):
                continue
            try:
                yield file
            finally:
                if part.exists() and part.stat().st_size == 0:
                    part.unlink()
            return
    yield None


def lock_file(file: BinaryIO) -> None:
    """Wait until this process alone holds an open file; the lock ends when the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:  # some network file systems have no locks: one process alone is safe
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


def _is_file_of(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _range_of(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """First byte and size of the whole file, by the headers of a 200 or 206 answer."""
    if response.status == 206:
        span, _, whole = (
            response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        )
        first = span.partition("-")[0]
        if not first.isdigit():
            raise _UrlFailed("HTTP 206 without a usable Content-Range")
        return int(first), int(whole) if whole.isdigit() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _read_version(path: Path) -> dict[str, str] | None:
    try:
        version = json.loads(path.read_text())
        return {"url": str(version["url"]), "validator": str(version["validator"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # without it a resume is merely not possible


def _need_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise FetchError(
            f"{target.name} needs {needed:,} more bytes and {target.parent} has {free:,} free: "
            f"make room or set {CACHE_VARIABLE} to another disk"
        )


def _cannot_write(target: Path, error: OSError) -> str:
    return (
        f"{target}.part cannot be written ({error.strerror}): make room or set {CACHE_VARIABLE} "
        "to another disk; the same command resumes"
    )
