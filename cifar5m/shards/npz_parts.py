"""Arrays inside an .npz of any size, read by slices and never whole.

A member stored without compression is read in place, by any process; a deflated one only from its
beginning on, so it is one process that reads it and hands on pixels. With two writer processes, an
import of 1,000,448 stored images peaked at 154 MB for all its processes (sum of resident sizes), of
200,000 deflated ones at 397 MB; a further process adds 48 MB there, and a shard's pixels once or
twice more here.
"""

import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from worlds.formats.npz import find_member, member_offset, read_header
from worlds.runtime.errors import reading

_ARCHIVE = "an .npz of arrays"
_BLOCK = 1 << 20  # bytes at a time
_SPAN_IMAGES = 256  # images at a time, 0.8 MB of CIFAR

OnBytes = Callable[[int], None]  # bytes read since the last call


@dataclass(frozen=True)
class FileSpan:
    """`count` uint8 images of one shape in a file, one after the other, as raw pixels."""

    path: Path
    offset: int
    count: int
    shape: tuple[int, int, int]

    def __iter__(self) -> Iterator[np.ndarray]:
        size = int(np.prod(self.shape))
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            for first in range(0, self.count, _SPAN_IMAGES):
                wanted = min(_SPAN_IMAGES, self.count - first)
                data = stream.read(wanted * size)
                if len(data) != wanted * size:
                    raise ValueError(f"{self.path} is cut short: it changed while it was read")
                yield from np.frombuffer(data, np.uint8).reshape(wanted, *self.shape)


@dataclass(frozen=True)
class NpzArray:
    """One array of an .npz: what its header says, and where its elements begin."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    stored: bool  # without compression
    header: int  # bytes of the .npy before the first element
    offset: int  # of the .npy in the file

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def item_bytes(self) -> int:
        """Bytes of one element along the first axis."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def open(self) -> IO[bytes]:
        """Open the uncompressed .npy as a stream that checks its CRC at the end."""
        return zipfile.ZipFile(self.path).open(f"{self.name}.npy")

    def check(self, on_bytes: OnBytes = lambda count: None) -> None:
        """Read everything; ValueError where a byte is not what was written into the archive."""
        with reading(self.path, _ARCHIVE), self.open() as stream:
            while block := stream.read(_BLOCK):
                on_bytes(len(block))

    def blocks(self, length: int) -> Iterator[np.ndarray]:
        """Yield all elements in order, up to `length` at a time."""
        with reading(self.path, _ARCHIVE), self.open() as stream:
            stream.read(self.header)
            for start in range(0, len(self), length):
                wanted = min(length, len(self) - start)
                data = stream.read(wanted * self.item_bytes)
                yield np.frombuffer(data, self.dtype).reshape(wanted, *self.shape[1:])


def find_array(path: Path, name: str) -> NpzArray:
    """Find an array; ValueError if the file is cut short, or the array missing or not plain."""
    member = find_member(path, name)
    with reading(path, _ARCHIVE), zipfile.ZipFile(path) as archive, archive.open(member) as stream:
        shape, dtype = read_header(stream)
        header = stream.tell()
    stored = member.compress_type == zipfile.ZIP_STORED
    array = NpzArray(path, name, shape, dtype, stored, header, member_offset(path, member))
    if not shape or member.file_size != header + shape[0] * array.item_bytes:
        raise ValueError(f"{path}: {name!r} is cut short: its header promises {shape} of {dtype}")
    return array


class Slices:
    """Images [start, stop) of an array, as something that a worker process can iterate over.

    A deflated array is read from slice to slice, so slices are best asked for in rising order; each
    is pixels in memory, 31 MB for 10,000 images of CIFAR's size.
    """

    def __init__(self, array: NpzArray) -> None:
        self.array = array
        self._stream: IO[bytes] | None = None
        self._at = 0  # the image that the stream stands before

    def __call__(self, start: int, stop: int) -> FileSpan | np.ndarray:
        array = self.array
        shape = (array.shape[1], array.shape[2], array.shape[3])
        # Stored: the worker reads the file itself. Deflated: pixels are handed on.
        if array.stored:
            offset = array.offset + array.header + start * array.item_bytes
            return FileSpan(array.path, offset, stop - start, shape)
        with reading(array.path, _ARCHIVE):
            if self._stream is None or start < self._at:
                self._stream, self._at = array.open(), 0
                self._stream.read(array.header)
            skipped = (start - self._at) * array.item_bytes
            while skipped:
                skipped -= len(self._stream.read(min(skipped, _BLOCK)))
            data = self._stream.read((stop - start) * array.item_bytes)
            self._at = stop
        return np.frombuffer(data, np.uint8).reshape(-1, *shape)  # (N, H, W, 3)

    def close(self) -> None:
        """Let go of a deflated array's stream."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
