"""Random access to a split's tars: offsets are indexed once a shard, a sample is one read.

The first tars that are read stay open; the others of a large dataset are opened for each sample,
so that 600 shards do not take 600 of a process's descriptors.
"""

import os
import weakref
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np

from worlds.formats.shards import tar_members

_KEPT_OPEN: Final = 64  # tars


class TarMembers:
    """The encoded images in tars of `{index:09d}.{extension}` and `.cls`, shard after shard."""

    def __init__(self, tars: Sequence[Path], counts: Sequence[int]) -> None:
        self.tars, self.counts = list(tars), list(counts)
        self._starts = [0, *accumulate(counts)]
        self._spans: dict[int, np.ndarray] = {}
        self._descriptors: dict[int, int] = {}
        self._lock = Lock()
        weakref.finalize(self, _close, self._descriptors)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process the tars are opened, and indexed, again."""
        return TarMembers, ([tar.absolute() for tar in self.tars], self.counts)

    def __len__(self) -> int:
        return self._starts[-1]

    def tar_of(self, index: int) -> Path:
        return self.tars[self._shard(index)]

    def read(self, index: int) -> bytes:
        """The encoded image `index` of the split."""
        shard = self._shard(index)
        spans = self._indexed(shard)
        offset, size = spans[index - self._starts[shard]].tolist()
        if (descriptor := self._descriptors.get(shard)) is not None:
            return os.pread(descriptor, size, offset)
        with self.tars[shard].open("rb", buffering=0) as stream:
            return os.pread(stream.fileno(), size, offset)

    def decoded(self, index: int, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
        """The image `index` as `decode` gives it; ValueError names the tar if it is damaged."""
        data = self.read(index)
        try:
            return decode(data)
        except ValueError as error:
            raise ValueError(
                f"{self.tar_of(index)}: sample {index} cannot be decoded: make the shard again"
            ) from error

    def _shard(self, index: int) -> int:
        return bisect_right(self._starts, index) - 1

    def _indexed(self, shard: int) -> np.ndarray:
        """Return (offset, size) of a shard's images, int64 (N, 2)."""
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
                if len(self._descriptors) < _KEPT_OPEN:
                    self._descriptors[shard] = os.open(path, os.O_RDONLY)
            return self._spans[shard]


class RowMembers(TarMembers):
    """Some images of other members, by their indices (N,) there."""

    def __init__(self, members: TarMembers, indices: np.ndarray) -> None:
        self.members, self.indices = members, indices

    def __reduce__(self) -> tuple[Any, ...]:
        return RowMembers, (self.members, self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def tar_of(self, index: int) -> Path:
        return self.members.tar_of(int(self.indices[index]))

    def read(self, index: int) -> bytes:
        return self.members.read(int(self.indices[index]))


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
