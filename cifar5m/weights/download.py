"""Download a file once and exactly: resumed after a cut, verified, then renamed.

    WEIGHTS = RemoteFile("model.ckpt", "https://example.org/model.ckpt", md5="1fa350b9...")
    path = fetch(WEIGHTS, cache_folder() / "downloads")

A file is called NAME.part until it is complete and its hash is right. A cut leaves NAME.part, and
NAME.part.json with the server's name for this version of the file, for the next attempt; a wrong
hash leaves nothing. Of several processes that fetch one file, one downloads and the others wait.
"""

import hashlib
import json
import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from worlds.runtime.files import check_disk, held_lock
from worlds.runtime.http import RETRIED, asked_wait, describe_status
from worlds.runtime.progress import OnProgress, Progress, ignore

if TYPE_CHECKING:
    import httpx2

CACHE_VARIABLE: Final = "DEEP_BOOTSTRAP_CACHE"
LONGEST_WAIT: Final = 300.0  # seconds, also where a server asks for more


class FetchError(OSError):
    """A file could not be downloaded; the message is one line that says what to do by hand."""


@dataclass(frozen=True)
class RemoteFile:
    """A file's name on disk, where it is, and its hashes if known."""

    name: str
    url: str
    md5: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{self.name}: a url must be http or https, got {self.url!r}")

    @property
    def hashes(self) -> dict[str, str]:
        """The known hashes by kind."""
        known = {"md5": self.md5, "sha256": self.sha256}
        return {kind: value for kind, value in known.items() if value is not None}


def cache_folder() -> Path:
    """Return the directory of downloads: $DEEP_BOOTSTRAP_CACHE or ~/.cache/deep-bootstrap."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/deep-bootstrap").expanduser()


def hash_file(path: Path, kind: str) -> str:
    """Return the md5 or sha256 of a file."""
    with path.open("rb") as stream:
        new = hashlib.new(kind, usedforsecurity=False)
        return hashlib.file_digest(stream, lambda: new).hexdigest()


def check_file(path: Path, remote: RemoteFile) -> None:
    """Raise FetchError, with both values, if a file is not the one that `remote` describes."""
    for kind, expected in remote.hashes.items():
        if (found := hash_file(path, kind)) != expected:
            raise FetchError(
                f"{path.name} is not {remote.name}: {kind} {found}, expected {expected}"
            )


def fetch(
    remote: RemoteFile,
    folder: Path,
    on_progress: OnProgress | None = None,
    *,
    timeout: float = 30.0,  # seconds without a byte
    attempts: int = 6,  # in a row that bring nothing new
    backoff: float = 0.5,  # seconds before the first retry, doubled at each
) -> Path:
    """Return the path of the file in `folder`, downloaded unless it exists.

    An existing file is verified, and refused (not replaced) if its hash is wrong. Raises FetchError
    if the server does not serve the file.
    """
    import httpx2

    folder.mkdir(parents=True, exist_ok=True)
    target = folder / remote.name
    headers = {"User-Agent": "deep-bootstrap", "Accept-Encoding": "identity"}
    client = httpx2.Client(headers=headers, timeout=timeout, follow_redirects=True)
    with held_lock(folder / f".{remote.name}.lock"), client:
        if not target.exists():
            download = _Download(remote, target, client, on_progress or ignore, attempts, backoff)
            return download.run()
        try:
            check_file(target, remote)
        except FetchError as error:
            raise FetchError(f"{folder}: {error}; delete it or put the right file there") from None
        return target


class _Failed(Exception):
    """An attempt failed: worth another one after `wait` seconds, None: never."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass
class _Download:
    """NAME.part, and the requests that fill it."""

    remote: RemoteFile
    target: Path
    client: "httpx2.Client"
    on_progress: OnProgress
    attempts: int
    backoff: float

    def __post_init__(self) -> None:
        self.part = self.target.with_name(f"{self.remote.name}.part")
        self.version_file = self.target.with_name(f"{self.remote.name}.part.json")
        self.length = self.part.stat().st_size if self.part.exists() else 0
        self.total: int | None = None  # bytes, where the server says

    def run(self) -> Path:
        """Fill the part, verify and rename it."""
        # Without a hash, only the server's name for the version tells that a part may be resumed.
        if not (self.remote.hashes or self._validator()):
            self._clear()
        try:
            for again in (True, False):
                self._fill()
                try:
                    check_file(self.part, self.remote)
                    break
                except FetchError as error:
                    self._clear()
                    if not again:
                        raise _Failed(f"{error}; nothing was kept") from None
                    self.note(f"{error}; deleted, starting over")
        except _Failed as error:
            raise FetchError(
                f"{self.remote.url}: {error}; download {self.remote.url} by hand and put it at "
                f"{self.target}"
            ) from None
        with self.part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self.part, self.target)
        self.version_file.unlink(missing_ok=True)
        return self.target

    def note(self, event: str) -> None:
        """Report a cut, a retry, a new start."""
        line = f"{self.remote.name}: {event}"
        self.on_progress(Progress("download", self.length, self.total, "B", note=line))

    def _fill(self) -> None:
        """Request until the part is complete, or several in a row have brought nothing new."""
        fruitless, furthest = 0, self.length
        while True:
            try:
                return self._request()
            except _Failed as cut:
                fruitless = 0 if self.length > furthest else fruitless + 1
                furthest = max(furthest, self.length)
                if cut.wait is None:
                    raise
                if fruitless >= self.attempts:
                    raise _Failed(f"{cut} ({self.attempts} attempts)") from None
                wait = min(max(cut.wait, self.backoff * 2**fruitless), LONGEST_WAIT)
                self.note(f"{cut} at byte {self.length}; again in {wait:.1f} s")
                time.sleep(wait)

    def _request(self) -> None:
        """Ask for what the part lacks, and append what comes."""
        import httpx2

        headers = {"Range": f"bytes={self.length}-"} if self.length else {}
        if self.length and (validator := self._validator()):
            headers["If-Range"] = validator
        try:
            with self.client.stream("GET", self.remote.url, headers=headers) as response:
                if self._accept(response):
                    self._append(response)
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

    def _accept(self, response: "httpx2.Response") -> bool:
        """Check the head of an answer; False if nothing is left to come. The part starts over where
        the server sends the whole file.
        """
        status, head = response.status_code, response.headers
        if status not in (200, 206):
            if status == 416 and head.get("Content-Range") == f"bytes */{self.length}":
                return False  # the part is all of the file
            if status == 416:  # the part is not the start of this file
                self._clear()
            reason = describe_status(status, response.reason_phrase)
            raise _Failed(reason, asked_wait(head) if status in RETRIED else None)
        if head.get("Content-Type", "").startswith("text/html"):
            raise _Failed("the server sent a web page, not the file")
        # Which bytes come, and of how many.
        whole = f"bytes 0-/{head.get('Content-Length', '*')}"
        content = head.get("Content-Range", "") if status == 206 else whole
        span = re.fullmatch(r"bytes (\d+)-\d*/(\d+|\*)", content)
        start, total = (int(span[1]), span[2]) if span else (-1, "*")
        if start not in (0, self.length):
            raise _Failed(f"asked from byte {self.length}, the server sent from {start}")
        if self.length and not start:
            self.note("the server cannot resume; starting over")
            self._clear()
        self.total = None if total == "*" else int(total)
        try:
            needed = (self.total or 0) - self.length
            check_disk(self.target.parent, needed, f"set {CACHE_VARIABLE} to another disk")
        except ValueError as error:
            raise FetchError(str(error)) from None
        etag = head.get("ETag", "W/")
        validator = head.get("Last-Modified", "") if etag.startswith("W/") else etag
        self.version_file.write_text(json.dumps({"url": self.remote.url, "validator": validator}))
        return True

    def _append(self, response: "httpx2.Response") -> None:
        """Write the body as it comes, so that a cut loses nothing."""
        with self.part.open("ab", buffering=0) as file:
            for block in response.iter_raw():
                try:
                    file.write(block)
                except OSError as error:
                    raise FetchError(
                        f"{self.part} cannot be written ({error.strerror}): make room or set "
                        f"{CACHE_VARIABLE} to another disk; the same command resumes"
                    ) from error
                self.length += len(block)
                self.on_progress(Progress("download", self.length, self.total, "B"))

    def _clear(self) -> None:
        self.length, self.total = 0, None
        for path in (self.part, self.version_file):
            path.unlink(missing_ok=True)

    def _validator(self) -> str:
        """Return the server's name for the version that the part was read from, "" if unknown."""
        try:
            version = json.loads(self.version_file.read_text())
            return str(version["validator"]) if version["url"] == self.remote.url else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def _root(error: BaseException) -> BaseException:
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error
