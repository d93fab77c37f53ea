"""A checked set of images with labels, ready to be imported shard by shard."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Any, Final

import numpy as np

from cifar5m.shards.npz_parts import Slices
from worlds.formats.layout import CIFAR10_CLASSES
from worlds.formats.plan import SourceFile

MOST_CLASSES: Final = 1000
Remembered = Sequence[SourceFile]  # the `files` of a plan's `about`


@dataclass(frozen=True)
class Pictures:
    """The images of one shard: pieces that a worker process iterates over one after the other."""

    pieces: tuple[Iterable[np.ndarray], ...]

    def __iter__(self) -> Iterator[np.ndarray]:
        return chain.from_iterable(self.pieces)


Piece = Callable[[int, int], Iterable[np.ndarray]]  # images [start, stop) of one part


@dataclass(frozen=True)
class Source:
    """A checked set of images with labels, in the order in which it is imported."""

    form: str
    splits: tuple[tuple[str, int], ...]
    labels: np.ndarray = field(repr=False)  # integers (N,)
    parts: tuple[tuple[int, Piece], ...] = field(repr=False)  # length, how to read
    files: tuple[SourceFile, ...] = field(repr=False)
    class_names: tuple[str, ...] = CIFAR10_CLASSES
    image_shape: tuple[int, ...] = (32, 32, 3)
    probabilities: np.ndarray | None = field(default=None, repr=False)  # float16 (N, C)
    subsets: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # lines for people: which file is which split, what was skipped

    def pictures(self, start: int, stop: int) -> Pictures:
        """Return the images [start, stop) of all."""
        # A shard may span several parts of the source.
        pieces, ends = [], accumulate(length for length, _ in self.parts)
        for (length, read), end in zip(self.parts, ends, strict=True):
            first, last = max(start, end - length), min(stop, end)
            if first < last:
                pieces.append(read(first - (end - length), last - (end - length)))
        return Pictures(tuple(pieces))

    def close(self) -> None:
        """Let go of the files that are read as streams."""
        # Only deflated arrays hold a stream.
        for _, read in self.parts:
            if isinstance(read, Slices):
                read.close()
