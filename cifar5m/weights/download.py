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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from worlds.runtime.files import check_disk, held_lock, sync
from worlds.runtime.http import TIMEOUT, Retries, Transfer, TransferError
from worlds.runtime.progress import OnProgress, Progress, ignore

CACHE_VARIABLE: Final = "DEEP_BOOTSTRAP_CACHE"
_ASKING: Final = 5.0  # seconds to find out whether a server answers


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


def ask_size(url: str) -> int | None:
    """Return the size of the file at `url` in bytes, None if the server does not say it.

    Raises FetchError if the server is out of reach or does not serve the file.
    """
    import httpx2

    try:
        plain = {"Accept-Encoding": "identity"}
        answer = httpx2.head(url, headers=plain, timeout=_ASKING, follow_redirects=True)
        answer.raise_for_status()
    except (httpx2.HTTPError, httpx2.InvalidURL):
        raise FetchError(f"out of reach: download {url} elsewhere") from None
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def fetch(
    remote: RemoteFile,
    folder: Path,
    on_progress: OnProgress | None = None,
    *,
    timeout: float = TIMEOUT,  # seconds without a byte
    attempts: int = 6,  # in a row that bring nothing new
    backoff: float = 0.5,  # seconds before the first retry, doubled at each
) -> Path:
    """Return the path of the file in `folder`, downloaded unless it exists.

    An existing file is verified, and refused (not replaced) if its hash is wrong. Raises FetchError
    if the server does not serve the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / remote.name
    with held_lock(folder / f".{remote.name}.lock"):
        if target.exists():
            try:
                check_file(target, remote)
            except FetchError as error:
                hint = "delete it or put the right file there"
                raise FetchError(f"{folder}: {error}; {hint}") from None
            return target
        # Only one process comes here; the others find the file when the lock is free.
        retries = Retries(attempts, backoff)
        part = _Part(remote, target, on_progress or ignore)
        try:
            part.complete({"retries": retries, "timeout": timeout, "offline_is_final": True})
        except TransferError as error:
            raise FetchError(
                f"{remote.url}: {error}; download {remote.url} by hand and put it at {target}"
            ) from None
        return target


class _Part:
    """NAME.part on its way to NAME, with NAME.part.json beside it."""

    def __init__(self, remote: RemoteFile, target: Path, on_progress: OnProgress) -> None:
        self.remote, self.target, self.on_progress = remote, target, on_progress
        self.path = target.with_name(f"{remote.name}.part")
        self.version_file = target.with_name(f"{remote.name}.part.json")
        self.length = self.path.stat().st_size if self.path.exists() else 0
        self.total: int | None = None  # bytes, if the server says it

    def complete(self, options: dict[str, Any]) -> None:
        """Fill the part, verify and rename it; after a wrong hash once more from the start."""
        # Without a hash, only the server's name for the version tells that a part may be resumed.
        if not (self.remote.hashes or self._version()):
            self.delete()
        for is_last in (False, True):
            begun: dict[str, Any] = {"position": self.length, "version": self._version()}
            self._fill(Transfer(self.remote.url, on_note=self.note, **begun, **options))
            try:
                check_file(self.path, self.remote)
                break
            except FetchError as error:
                self.delete()
                if is_last:
                    raise TransferError(f"{error}; nothing was kept") from None
                self.note(f"{error}; deleted, starting over")
        sync(self.path)
        os.replace(self.path, self.target)
        self.version_file.unlink(missing_ok=True)

    def _fill(self, transfer: Transfer) -> None:
        """Write the blocks as they come, so that a cut loses nothing."""
        known = None
        try:
            # A new answer may start over, or be of another version of the file.
            with self.path.open("ab", buffering=0) as file:
                for offset, block in transfer.blocks():
                    if known != (transfer.total, transfer.version):
                        known = transfer.total, transfer.version
                        self._note_version(transfer, offset)
                    try:
                        file.truncate(offset)
                        file.write(block)
                    except OSError as error:
                        raise FetchError(
                            f"{self.path} cannot be written ({error.strerror}): make room or set "
                            f"{CACHE_VARIABLE} to another disk; the same command resumes"
                        ) from error
                    self.length = offset + len(block)
                    self.on_progress(Progress("download", self.length, self.total, "B"))
        except (TransferError, FetchError):
            if not self.length:
                self.delete()
            raise

    def _note_version(self, transfer: Transfer, offset: int) -> None:
        """Write down which version of the file comes; FetchError if the disk cannot hold it."""
        self.total = transfer.total
        try:
            remedy = f"set {CACHE_VARIABLE} to another disk"
            check_disk(self.target.parent, (self.total or 0) - offset, remedy)
        except ValueError as error:
            raise FetchError(str(error)) from None
        version = {"url": self.remote.url, "validator": transfer.version}
        self.version_file.write_text(json.dumps(version))

    def note(self, event: str) -> None:
        """Report a cut, a retry, a new start."""
        line = f"{self.remote.name}: {event}"
        self.on_progress(Progress("download", self.length, self.total, "B", note=line))

    def delete(self) -> None:
        """Start over."""
        self.length, self.total = 0, None
        # Nothing of a wrong file may be resumed.
        for path in (self.path, self.version_file):
            path.unlink(missing_ok=True)

    def _version(self) -> str:
        """Return the server's name for the version that the part was read from, "" if unknown."""
        try:
            version = json.loads(self.version_file.read_text())
            return str(version["validator"]) if version["url"] == self.remote.url else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""
