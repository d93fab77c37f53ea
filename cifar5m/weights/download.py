"""Download a file once and exactly: resumed after a cut, verified, then renamed.

    WEIGHTS = RemoteFile("model.ckpt", ("https://example.org/model.ckpt",), md5="1fa350b9...")
    path = fetch(WEIGHTS, cache_folder() / "downloads")

Until it is complete and its hash is right a file is called NAME.part, so the final name always
holds the whole file. A cut leaves NAME.part, and NAME.part.json with the server's name for this
version of the file, for the next attempt in this process or a later one; a wrong hash leaves
nothing. If several processes fetch one file at once, one downloads and the others wait.
"""

import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from worlds.runtime.files import check_disk, lock_stream
from worlds.runtime.http import RETRIED, asked_wait, describe_status

if TYPE_CHECKING:
    import httpx2

CACHE_VARIABLE: Final = "DEEP_BOOTSTRAP_CACHE"
LONGEST_WAIT: Final = 300.0  # seconds, also where a server asks for more
HASHES: Final = {"md5": 32, "sha256": 64}  # hex digits

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if known
Note = Callable[[str], None]  # one line on a cut, a retry, a change of mirror


class FetchError(OSError):
    """A file could not be downloaded; the message is one line that says what to do by hand."""


@dataclass(frozen=True)
class RemoteFile:
    """A file's name on disk, its mirrors in order of preference, its size and hashes if known.

    Every URL must serve the same bytes.
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
        for kind, value in self.hashes.items():
            if not re.fullmatch(f"[0-9a-f]{{{HASHES[kind]}}}", value):
                raise ValueError(f"{self.name}: {kind} must be {HASHES[kind]} hex digits: {value}")

    @property
    def hashes(self) -> dict[str, str]:
        """The known hashes by kind."""
        return {kind: value for kind in HASHES if (value := getattr(self, kind)) is not None}


def cache_folder() -> Path:
    """Return the directory of downloads: $DEEP_BOOTSTRAP_CACHE or ~/.cache/deep-bootstrap."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/deep-bootstrap").expanduser()


def file_hashes(path: Path) -> dict[str, str]:
    """Return the md5 and sha256 of a file."""
    return {kind: _hash(path, kind) for kind in HASHES}


def _hash(path: Path, kind: str) -> str:
    with path.open("rb") as stream:
        new = hashlib.new(kind, usedforsecurity=False)
        return hashlib.file_digest(stream, lambda: new).hexdigest()


def check_file(path: Path, remote: RemoteFile) -> None:
    """Raise FetchError, with both values, if a file is not the one that `remote` describes."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        raise FetchError(f"{path.name} has {size} bytes, expected {remote.size}")
    for kind, expected in remote.hashes.items():
        if (found := _hash(path, kind)) != expected:
            raise FetchError(
                f"{path.name} is not {remote.name}: {kind} {found}, expected {expected}"
            )


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
    """Return the path of the file in `folder`, downloaded unless it exists.

    An existing file is verified, and refused (not replaced) if its hash is wrong. Raises FetchError
    if no mirror serves the file.
    """
    import httpx2

    folder.mkdir(parents=True, exist_ok=True)
    target = folder / remote.name
    headers = {"User-Agent": "deep-bootstrap", "Accept-Encoding": "identity"}
    options = {"headers": headers, "timeout": timeout, "follow_redirects": True}
    with _locked_part(target) as part, httpx2.Client(**options) as client:  # type: ignore[arg-type]
        if part is None:
            try:
                check_file(target, remote)
            except FetchError as error:
                raise FetchError(
                    f"{folder}: {error}; delete it or put the right file there"
                ) from None
            return target
        note = note or (lambda line: None)
        progress = progress or (lambda done, total: None)
        download = _Download(remote, target, part, client, progress, note)
        failures: list[str] = []
        for url in remote.urls:
            if failures:
                note(f"{remote.name}: {failures[-1]}; trying {url}")
            try:
                return download.run(url, attempts, backoff)
            except _Failed as error:
                failures.append(f"{url}: {error}")
    raise FetchError(
        f"{'; '.join(failures)}; download {remote.urls[0]} by hand and put it at {target}"
    )


@contextmanager
def _locked_part(target: Path) -> Iterator[BinaryIO | None]:
    """Open NAME.part for this process alone; None once the file exists under its final name."""
    part = target.with_name(f"{target.name}.part")
    while not target.exists():
        with part.open("a+b") as file:
            lock_stream(file)
            # While this process waited, the one before it may have renamed or deleted the file.
            if target.exists() or not os.fstat(file.fileno()).st_nlink:
                continue
            try:
                yield file
            finally:
                if part.exists() and part.stat().st_size == 0:
                    part.unlink()
            return
    yield None


class _Failed(Exception):
    """An attempt failed: worth another one after `wait` seconds; None: never at this URL."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass
class _Download:
    """NAME.part, and the requests that fill it."""

    remote: RemoteFile
    target: Path
    part: BinaryIO
    client: "httpx2.Client"
    progress: Progress
    note: Note

    def __post_init__(self) -> None:
        self.part_path = self.target.with_name(f"{self.remote.name}.part")
        self.version_file = self.target.with_name(f"{self.remote.name}.part.json")
        self.length, self.total = self.part.seek(0, os.SEEK_END), self.remote.size

    def run(self, url: str, attempts: int, backoff: float) -> Path:
        """Fill the part from one URL, verify and rename it. Raises _Failed if that fails."""
        trusted = self.remote.hashes or self._validator(url)  # else a resume could mix versions
        if not trusted or self.length > (self.remote.size or self.length):
            self._clear()
        wrong = ""
        for _ in range(2):
            if wrong:
                self.note(f"{self.remote.name}: {wrong}; deleted, starting over")
            self._fill(url, attempts, backoff)
            try:
                check_file(self.part_path, self.remote)
            except FetchError as error:
                wrong = str(error)
                self._clear()
            else:
                os.fsync(self.part.fileno())
                os.replace(self.part_path, self.target)
                self.version_file.unlink(missing_ok=True)
                return self.target
        raise _Failed(f"{wrong}; nothing was kept")

    def _fill(self, url: str, attempts: int, backoff: float) -> None:
        """Request until the part is complete, or `attempts` in a row have brought nothing new."""
        fruitless, furthest = 0, self.length
        while self.length != self.total:
            try:
                self._request(url)
                break
            except _Failed as cut:
                fruitless = 0 if self.length > furthest else fruitless + 1
                furthest = max(furthest, self.length)
                if cut.wait is None:
                    raise
                if fruitless >= attempts:
                    raise _Failed(f"{cut} ({attempts} attempts)") from None
                wait = min(max(cut.wait, backoff * 2**fruitless), LONGEST_WAIT)
                self.note(f"{self.remote.name}: {cut} at byte {self.length}; again in {wait:.1f} s")
                time.sleep(wait)

    def _request(self, url: str) -> None:
        """Ask for what the part lacks, and append what comes."""
        import httpx2

        headers = {"Range": f"bytes={self.length}-"} if self.length else {}
        if self.length and (validator := self._validator(url)):
            headers["If-Range"] = validator
        try:
            with self.client.stream("GET", url, headers=headers) as response:
                if self._accept(response, url):
                    for block in response.iter_raw():  # as it comes, so that a cut loses nothing
                        self._append(block)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            unknown = isinstance(_root(error), socket.gaierror)
            reason = "the name cannot be resolved" if unknown else "no connection"
            raise _Failed(f"{reason} ({error})", None if unknown else 0) from None
        except httpx2.TransportError as error:
            before = f" before byte {self.total}" if self.total else f" ({type(error).__name__})"
            raise _Failed(f"connection cut{before}", wait=0) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise _Failed(str(error)) from None
        if self.length < (self.total or 0):
            raise _Failed(f"connection cut before byte {self.total}", wait=0)

    def _accept(self, response: "httpx2.Response", url: str) -> bool:
        """Check the head of an answer; True if its body continues the part, which starts over
        where the server sends the whole file.
        """
        status, head = response.status_code, response.headers
        if status == 416 and head.get("Content-Range") == f"bytes */{self.length}":
            self.total = self.length
            return False
        if status not in (200, 206):
            if status == 416:  # the part is not the start of this file
                self._clear()
            reason = describe_status(status, response.reason_phrase)
            raise _Failed(reason, asked_wait(head) if status in RETRIED else None)
        if head.get("Content-Type", "").startswith("text/html"):
            raise _Failed("the server sent a web page, not the file")
        whole = f"bytes 0-/{head.get('Content-Length', '*')}"
        content = head.get("Content-Range", "") if status == 206 else whole
        span = re.fullmatch(r"bytes (\d+)-\d*/(\d+|\*)", content)
        start, total = (int(span[1]), span[2]) if span else (-1, "*")
        if start not in (0, self.length):
            raise _Failed(f"asked from byte {self.length}, the server sent from {start}")
        size = self.remote.size
        if size is not None and total not in ("*", str(size)):
            raise _Failed(f"the file there has {total} bytes, expected {size}")
        if self.length and not start:
            self.note(f"{self.remote.name}: {url} cannot resume; starting over")
            self._clear()
        self.total = size if total == "*" else int(total)
        try:
            needed = (self.total or 0) - self.length
            check_disk(self.target.parent, needed, f"set {CACHE_VARIABLE} to another disk")
        except ValueError as error:
            raise FetchError(str(error)) from None
        etag = head.get("ETag", "W/")
        validator = head.get("Last-Modified", "") if etag.startswith("W/") else etag
        self.version_file.write_text(json.dumps({"url": url, "validator": validator}))
        return True

    def _append(self, block: bytes) -> None:
        try:
            self.part.write(block)
            self.part.flush()
        except OSError as error:
            raise FetchError(
                f"{self.part_path} cannot be written ({error.strerror}): make room or set "
                f"{CACHE_VARIABLE} to another disk; the same command resumes"
            ) from error
        self.length += len(block)
        self.progress(self.length, self.total)

    def _clear(self) -> None:
        self.part.truncate(0)
        self.length, self.total = 0, self.remote.size
        self.version_file.unlink(missing_ok=True)

    def _validator(self, url: str) -> str:
        """Return the server's name for the version that the part was read from, "" if unknown."""
        try:
            version = json.loads(self.version_file.read_text())
            return str(version["validator"]) if version["url"] == url else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def _root(error: BaseException) -> BaseException:
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error
