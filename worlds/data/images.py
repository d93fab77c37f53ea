"""The images of a split: where they lie, and fetching some of them.

`ArrayImages` are arrays in memory or mapped from files: their bytes have addresses, so the compiled
kernel reads them in place. They may also hold float features or integer sequences. `TarImages` are
encoded images inside tars (a sample is one positioned read and a decode); those of many sizes are
worlds/data/photographs.py's.
"""

import math
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
    """Samples of one shape and type by index: uint8 images (height, width, channels), or others."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def addresses(self, indices: np.ndarray) -> np.ndarray | None:
        """Return the address of each image's bytes, uint64 (B,); None if they are not in memory
        as pixels.
        """

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        """Copy the samples at `indices` to `out`, (B, ...)."""


class ArrayImages:
    """Samples in one or more arrays of one type and shape, one after the other.

    uint8 arrays are images, (N, height, width) or (N, height, width, 1 or 3). Float arrays
    (N, ...) are features, other integers (N, ...) sequences.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        # One type and one shape for all parts.
        kinds = {(part.dtype, part.shape[1:]) for part in parts}
        if len(kinds) != 1:
            found = ", ".join(f"{part.dtype} {part.shape}" for part in parts)
            raise ValueError(f"arrays must share type and shape, got {found}")
        # Numbers, and images as bytes with their channels last.
        dtype, shape = next(iter(kinds))
        if dtype.kind not in "iuf" or not shape or 0 in shape:
            raise ValueError(f"samples must be numbers (N, ...), got {dtype} {parts[0].shape}")
        if dtype != np.uint8 and len(shape) == 3 and shape[2] in (1, 3):
            raise ValueError(
                f"images must be uint8, 0 to 255, got {dtype} {parts[0].shape}; features of that "
                "kind go planes first, (N, channels, height, width)"
            )
        if dtype == np.uint8 and len(shape) == 2:
            parts = [part[..., None] for part in parts]  # (N, H, W) => (N, H, W, 1)
        elif dtype == np.uint8 and (len(shape) != 3 or shape[2] not in (1, 3)):
            raise ValueError(
                f"images must be uint8 (N, height, width) or (N, height, width, 1 or 3), got "
                f'{parts[0].shape}; give layout="chw" for (N, channels, height, width)'
            )
        # The kernels read by address, so rows must be contiguous.
        # Of a memory map this keeps the pages, not a copy.
        self.parts = [np.ascontiguousarray(part) for part in parts]
        self._starts = np.cumsum([0] + [len(part) for part in self.parts])
        self._bases = np.array([part.ctypes.data for part in self.parts], dtype=np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name: another process maps a mapped file again, and gets no copy."""
        return _restored, ([_place(part) for part in self.parts],)

    @property
    def shape(self) -> tuple[int, ...]:
        return int(self._starts[-1]), *self.parts[0].shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return self.parts[0].dtype

    def addresses(self, indices: np.ndarray) -> np.ndarray | None:
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        indices = indices.astype(np.int64)  # uint32 would wrap at 4 GiB
        if len(self.parts) == 1:
            return (self._bases[0] + indices * size).view(np.uint64)
        # Which part each index is in, and where in it.
        part = np.searchsorted(self._starts, indices, side="right") - 1
        within = indices - self._starts[part]
        return (self._bases[part] + within * size).view(np.uint64)

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        if len(self.parts) == 1:
            np.take(self.parts[0], indices, axis=0, out=out, mode="clip")
            return
        # One copy a part that is asked for.
        part = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(part):
            rows = np.flatnonzero(part == number)
            out[rows] = self.parts[number][indices[rows] - self._starts[number]]


def _place(part: np.ndarray) -> Any:
    """Return (path, dtype, offset, shape) of a file-mapped array; any other as it is."""
    # Views of a map have other arrays between themselves and the file.
    mapped: Any = part
    while isinstance(mapped, np.ndarray) and not isinstance(mapped.base, mmap):
        mapped = mapped.base
    if not isinstance(mapped, np.memmap) or mapped.filename is None or mapped.mode == "c":
        return part
    offset = mapped.offset + part.ctypes.data - mapped.ctypes.data  # bytes in the file
    return str(mapped.filename), part.dtype, offset, part.shape


def _restored(places: Sequence[Any]) -> ArrayImages:
    return ArrayImages(
        [
            np.memmap(place[0], place[1], "r", place[2], place[3])
            if isinstance(place, tuple)
            else place
            for place in places
        ]
    )


class RowImages:
    """Some samples of other images, by their indices (N,) there."""

    def __init__(self, images: Images, indices: np.ndarray) -> None:
        self.images, self.indices = images, indices
        self.shape, self.dtype = (len(indices), *images.shape[1:]), images.dtype

    def addresses(self, indices: np.ndarray) -> np.ndarray | None:
        return self.images.addresses(self.indices[indices])

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        self.images.gather(self.indices[indices], out)


class TarImages:
    """Encoded images of one size in tars, decoded one by one."""

    dtype = np.dtype(np.uint8)

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
