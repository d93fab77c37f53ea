"""Pieces: the photographs of one split that one process reads, wherever they are."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

SPLITS: Final = ("train", "val")
FOLDERS: Final = {"train": ("train",), "val": ("val", "validation")}  # names of a split
SUFFIXES: Final = frozenset({".jpeg", ".jpg", ".png"})
WNID: Final = re.compile(r"n\d{8}")
_PIECE: Final = 256  # photographs

OnFile = Callable[[], None]  # called as files are listed, so that a caller may stop it


@dataclass(frozen=True)
class Piece:
    """Some photographs of one split that one process reads, one after the other."""

    split: str

    @property
    def key(self) -> str:
        """Hex digest that names the files, as they are now, and the places in them."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    @property
    def wnids(self) -> Sequence[str]:
        """The class of each photograph."""
        raise NotImplementedError

    def read(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield (wnid, name without extension, encoded image) of each."""
        raise NotImplementedError


class Span(NamedTuple):
    """One photograph: `size` bytes of a file."""

    wnid: str
    name: str
    path: str
    offset: int
    size: int


@dataclass(frozen=True)
class Spans(Piece):
    """A piece of photographs that are bytes in files, in tars or alone."""

    spans: tuple[Span, ...]
    changed: int  # when any of the files was last changed, nanoseconds

    @property
    def wnids(self) -> list[str]:
        return [span.wnid for span in self.spans]

    def read(self) -> Iterator[tuple[str, str, bytes]]:
        for span in self.spans:
            with open(span.path, "rb", buffering=0) as file:
                yield span.wnid, span.name, os.pread(file.fileno(), span.size, span.offset)


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


def cut_pieces(split: str, listed: Sequence[tuple[Span, int]]) -> list[Piece]:
    """Cut a list of photographs, with their times of change, into pieces."""
    parts = [listed[k : k + _PIECE] for k in range(0, len(listed), _PIECE)]
    return [
        Spans(split, tuple(span for span, _ in part), max(changed for _, changed in part))
        for part in parts
    ]
