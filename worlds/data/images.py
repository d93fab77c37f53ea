"""Where a split's images lie, and how some of them are fetched.

`ArrayImages` are uint8 arrays in memory or mapped from files: their bytes have addresses, so the
compiled kernel reads them in place. `TarImages` are encoded images inside tars (a sample is one
positioned read and a decode); those of many sizes are `worlds.data.photographs.PhotographImages`.
"""

from collections.abc import Sequence
from mmap import mmap
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from worlds.formats.shards import decode_image
from worlds.formats.tar_members import TarMembers


def resized_shape(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Return (height, width) with the shorter side `shorter`, the longer one rounded down."""
    if height <= width:
        return shorter, shorter * width // height
    return shorter * height // width, shorter


class Images(Protocol):
    """uint8 images of one size, (height, width, 3) each, by index."""

    @property
    def shape(self) -> tuple[int, int, int, int]: ...

    def addresses(self, indices: np.ndarray) -> np.ndarray | None:
        """Where each image's bytes lie in this process, uint64 (B,); None if they are not in memory
        as pixels.
        """

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        """Copy the images at `indices` to `out`, uint8 (B, height, width, 3)."""


class ArrayImages:
    """Images in one or more uint8 arrays (N, height, width, 3), one after the other."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        sizes = {part.shape[1:] for part in parts}
        if len(sizes) != 1 or len(next(iter(sizes))) != 3 or next(iter(sizes))[2] != 3:
            found = ", ".join(str(part.shape) for part in parts)
            raise ValueError(f"images must be (N, height, width, 3), all of one size, got {found}")
        for part in parts:
            if part.dtype != np.uint8:
                raise ValueError(f"images must be uint8, 0 to 255, got {part.dtype}")
        # Of a memory map this keeps the pages, not a copy.
        self.parts = [np.ascontiguousarray(part) for part in parts]
        self._starts = np.cumsum([0] + [len(part) for part in self.parts])
        self._bases = np.array([part.ctypes.data for part in self.parts], dtype=np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process a part that is mapped from a file is mapped again, not copied."""
        return _restored, ([_place(part) for part in self.parts],)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        _, height, width, channels = self.parts[0].shape
        return int(self._starts[-1]), height, width, channels

    def addresses(self, indices: np.ndarray) -> np.ndarray | None:
        _, height, width, channels = self.shape
        indices = indices.astype(np.int64)
        if len(self.parts) == 1:
            return (self._bases[0] + indices * (height * width * channels)).astype(np.uint64)
        part = np.searchsorted(self._starts, indices, side="right") - 1
        within = indices - self._starts[part]
        return (self._bases[part] + within * (height * width * channels)).astype(np.uint64)

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        if len(self.parts) == 1:
            np.take(self.parts[0], indices, axis=0, out=out, mode="clip")
            return
        part = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(part):
            rows = np.flatnonzero(part == number)
            out[rows] = self.parts[number][indices[rows] - self._starts[number]]


def _place(part: np.ndarray) -> Any:
    """(path, offset, shape) of an array that is mapped from a file; any other as it is."""
    mapped: Any = part
    while isinstance(mapped, np.ndarray) and not isinstance(mapped.base, mmap):
        mapped = mapped.base
    if not isinstance(mapped, np.memmap) or mapped.filename is None or mapped.mode == "c":
        return part
    offset = mapped.offset + part.ctypes.data - mapped.ctypes.data
    return str(mapped.filename), offset, part.shape


def _restored(places: Sequence[Any]) -> ArrayImages:
    return ArrayImages(
        [
            np.memmap(place[0], np.uint8, "r", place[1], place[2])
            if isinstance(place, tuple)
            else place
            for place in places
        ]
    )


class TarImages:
    """Encoded images of one size in tars, decoded one by one."""

    def __init__(self, tars: Sequence[Path], counts: Sequence[int]) -> None:
        self.members = TarMembers(tars, counts)
        self.shape = (len(self.members), *self.members.decoded(0, decode_image).shape)

    def addresses(self, indices: np.ndarray) -> np.ndarray | None:
        return None

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        for row, index in enumerate(indices.tolist()):
            image = self.members.decoded(index, decode_image)
            if image.shape != self.shape[1:]:
                raise ValueError(
                    f"{self.members.tar_of(index)}: sample {index} is {image.shape}, the first of "
                    f"the split is {self.shape[1:]}; a store holds images of one size"
                )
            out[row] = image
