"""Files that others publish: names, mirrors, sizes, hashes; and where they are kept here."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
