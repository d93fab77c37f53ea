"""Where a split's images lie, and how some of them are fetched.

`ArrayImages` are uint8 arrays in memory or mapped from files: their bytes have addresses, so the
compiled kernel reads them in place. `TarImages` are encoded images inside tars: the offsets are
indexed once per shard, and a sample is one positioned read and a decode.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np

from worlds.shards import decode_image, tar_members


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
                raise ValueError(f"images must be uint8, got {part.dtype}")
        # Of a memory map this keeps the pages, not a copy.
        self.parts = [np.ascontiguousarray(part) for part in parts]
        self._starts = np.cumsum([0] + [len(part) for part in self.parts])
        self._bases = np.array([part.ctypes.data for part in self.parts], dtype=np.int64)

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


class TarImages:
    """Encoded images in tars of `{index:09d}.{extension}` and `.cls` members, shard after shard."""

    def __init__(self, tars: Sequence[Path], counts: Sequence[int]) -> None:
        self.tars, self.counts = list(tars), list(counts)
        self._starts = np.cumsum([0, *counts])
        self._spans: dict[int, np.ndarray] = {}
        self._descriptors: dict[int, int] = {}
        self._lock = Lock()
        height, width, channels = self._decode(0, 0).shape
        self.shape = (int(self._starts[-1]), height, width, channels)

    def addresses(self, indices: np.ndarray) -> np.ndarray | None:
        return None

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        for row, (index, shard) in enumerate(zip(indices.tolist(), shards.tolist(), strict=True)):
            image = self._decode(shard, index - int(self._starts[shard]))
            if image.shape != self.shape[1:]:
                raise ValueError(
                    f"{self.tars[shard]}: sample {index} is {image.shape}, the first of the split "
                    f"is {self.shape[1:]}; a store holds images of one size"
                )
            out[row] = image

    def _decode(self, shard: int, within: int) -> np.ndarray:
        descriptor, spans = self._opened(shard)
        offset, size = spans[within].tolist()
        return decode_image(os.pread(descriptor, size, offset))

    def _opened(self, shard: int) -> tuple[int, np.ndarray]:
        """A shard's file descriptor and the (offset, size) of its images, int64 (N, 2)."""
        with self._lock:
            if shard not in self._spans:
                path = self.tars[shard]
                found = [
                    (offset, size)
                    for name, offset, size in tar_members(path)
                    if not name.endswith(".cls")
                ]
                if len(found) != self.counts[shard]:
                    raise ValueError(
                        f"{path} holds {len(found)} images, its record says {self.counts[shard]}: "
                        "make the shard again"
                    )
                self._spans[shard] = np.array(found, dtype=np.int64)
                self._descriptors[shard] = os.open(path, os.O_RDONLY)
            return self._descriptors[shard], self._spans[shard]

    def __del__(self) -> None:
        for descriptor in getattr(self, "_descriptors", {}).values():
            os.close(descriptor)
