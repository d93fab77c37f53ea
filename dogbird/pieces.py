"""Pieces: the photographs of one split that one process reads, wherever they lie."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Protocol

SPLITS: Final = ("train", "val")
FOLDERS: Final = {"train": ("train",), "val": ("val", "validation")}  # by what names they go
SUFFIXES: Final = frozenset({".jpeg", ".jpg", ".png"})
WNID: Final = re.compile(r"n\d{8}")
_PIECE: Final = 256  # photographs

OnFile = Callable[[], None]  # called as files are listed, so that a caller may stop it


class Piece(Protocol):
    """Some photographs of one split that one process reads, one after the other."""

    @property
    def split(self) -> str: ...

    @property
    def wnids(self) -> Sequence[str]: ...

    @property
    def key(self) -> str:
        """Hex digest that names the files, as they are now, and the places in them."""

    def read(self) -> Iterator[tuple[str, str, bytes]]:
        """(wnid, name without extension, encoded image) of each."""


class Span(NamedTuple):
    """One photograph: `size` bytes of a file."""

    wnid: str
    name: str
    path: str
    offset: int
    size: int


@dataclass(frozen=True)
class Spans:
    """A piece of photographs that lie as bytes in files, in tars or alone."""

    split: str
    spans: tuple[Span, ...]
    changed: int  # when any of the files was last changed, nanoseconds

    @property
    def wnids(self) -> list[str]:
        return [span.wnid for span in self.spans]

    @property
    def key(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def read(self) -> Iterator[tuple[str, str, bytes]]:
        for span in self.spans:
            descriptor = os.open(span.path, os.O_RDONLY)
            try:
                yield span.wnid, span.name, os.pread(descriptor, span.size, span.offset)
            finally:
                os.close(descriptor)


@dataclass(frozen=True)
class ClassFilter:
    """Select photographs of `wnids`, by their names or by the list of validation labels."""

    wnids: frozenset[str]
    val_labels: Mapping[str, str]  # wnid by file name without extension
    on_file: OnFile
    listed: set[str] = field(default_factory=set)  # names that were looked up in the list

    def wnid_of(self, path: Path) -> str | None:
        """Return the class by the file's directory, its name, or the list of validation labels."""
        for text in (path.parent.name, path.name[:9], path.stem[-9:]):
            if WNID.fullmatch(text):
                return text
        self.listed.add(path.stem)
        return self.val_labels.get(path.stem)


def is_photograph(name: str) -> bool:
    """Return whether a file name is an image's; macOS writes companion files called ._NAME."""
    return not name.startswith("._") and Path(name).suffix.lower() in SUFFIXES


def cut(split: str, listed: Sequence[tuple[Span, int]]) -> list[Piece]:
    """Pieces of photographs that follow one another."""
    parts = [listed[k : k + _PIECE] for k in range(0, len(listed), _PIECE)]
    return [
        Spans(split, tuple(span for span, _ in part), max(changed for _, changed in part))
        for part in parts
    ]
