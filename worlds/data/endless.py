"""Pools whose shards are made when they are first asked for, and made again after they are gone.

    store = open_store("generate:tiny", n=10**9, cache="shards", cache_bytes=10**9)
    worlds-train --data "generate:tiny?n=1000000&cache=shards" ...

A maker gives any stretch of indices the same bytes whenever it is asked. A process of its own makes
the shards that are waited for, and then those behind them, as files of a directory, of which the
least recently used go first; another run, or the same one after a stop, finds what is there. A
script that opens such a store needs the `__main__` guard, since that process is spawned.

So that few shards are needed at a time, loaders take such a pool in windows (`window_of`): a run
begins where (seed, trial) says, goes on in a row, and shuffles within each window.
"""

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Any, Final
from urllib.parse import parse_qsl

import numpy as np

from worlds.data.splits import MadeSplit, Split
from worlds.runtime.errors import first_line
from worlds.runtime.files import atomic_write, clean_folders
from worlds.runtime.processes import KILLED, start_process

_OPENERS: Final = "deep_bootstrap.stores"  # entry points: NAME = MODULE:FUNCTION
_TEST: Final = 1 << 32  # where the test split begins: behind any pool
_HEADER: Final = 1024  # bytes of a file beside its rows, at most
_PATIENCE, _AGAIN = 2.0, 60.0  # seconds of waiting until it is said, and until it is said again
Span = tuple[int, int]  # the indices [start, stop) of a shard
Make = Callable[[int, int], tuple[np.ndarray, np.ndarray]]  # images (N, H, W, 3), labels (N,)


@dataclass(frozen=True)
class Maker:
    """The maker of a pool; pickled to the process that works ahead."""

    fingerprint: str  # of all that decides the bytes
    class_names: tuple[str, ...]
    shape: tuple[int, ...]  # of an image
    shard_size: int

    def load(self) -> Make:
        """Load what makes the images and labels of a stretch of indices."""
        raise NotImplementedError


def find_opener(address: str) -> Callable[..., list[Split]] | None:
    """Return what opens NAME:..., an entry point of an installed package; None without one."""
    name, colon, _ = address.partition(":")
    points = entry_points(group=_OPENERS, name=name) if colon else ()
    return next((point.load() for point in points), None)


def parse_address(address: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return (what, options) of NAME:WHAT?OPTION=VALUE&..., numbers as such, with more options."""
    what, _, query = address.partition(":")[2].partition("?")
    return what, {key: _value(text) for key, text in parse_qsl(query)} | options


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class ShardCache:
    """Shards as files of a directory, made by a process that starts when the first one is missing.

    Of all runs that share the directory, its files have at most `most_bytes`.
    """

    def __init__(self, maker: Maker, folder: Path, most_bytes: int, window: int) -> None:
        self.maker, self.folder, self.most_bytes, self.window = maker, folder, most_bytes, window
        self.row = np.dtype([("image", np.uint8, maker.shape), ("label", np.uint8)])
        least = (2 * window + 1) * (maker.shard_size * self.row.itemsize + _HEADER)
        if most_bytes < least:
            raise ValueError(
                f"cache_bytes must be at least {least:,}, two windows of {window} shards and one "
                f"more, got {most_bytes:,}: give more, or a smaller window or shard_size"
            )
        self._waiting, self._asked = Lock(), list[Span]()
        self._connection: Connection | None = None
        # What is said of a wait: images handed out and made, and the seconds of it.
        self.taken, self._made, self._making, self._waited = 0, 0, 0.0, 0.0
        self._begun, self._told = time.monotonic(), 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process, another process works ahead, for the same directory."""
        return ShardCache, (self.maker, self.folder, self.most_bytes, self.window)

    def path(self, span: Span) -> Path:
        return self.folder / f"{self.maker.fingerprint[:16]}-{span[0]:010d}.npy"

    def find(self, span: Span) -> np.ndarray | None:
        """Return the rows of a shard, mapped, and note that they were used; None if missing."""
        path = self.path(span)
        try:
            os.utime(path)  # of two runs that share the directory the other may delete it
            rows: np.ndarray = np.load(path, mmap_mode="r")
            if rows.shape == (span[1] - span[0],) and rows.dtype == self.row:
                return rows
        except FileNotFoundError:
            return None
        except (ValueError, EOFError):
            pass
        path.unlink(missing_ok=True)  # damaged from outside: whole files alone take that name
        return None

    def rows(self, span: Span, ahead: Sequence[Span]) -> np.ndarray:
        """Return the rows of a shard, made if need be, while those `ahead` are made behind it."""
        while (rows := self.find(span)) is None:
            with self._waiting:  # one at a time: the latest wish is the one that counts
                if self.find(span) is None:
                    self._wait(span, ahead)
        if self._waiting.acquire(blocking=False):
            try:
                self._ask(ahead)
            finally:
                self._waiting.release()
        return rows

    def _ask(self, wanted: Sequence[Span]) -> None:
        """Send the missing ones of these to the process, unless it was asked for the same."""
        missing = [span for span in wanted if not self.path(span).exists()]
        if missing and missing != self._asked:
            if self._connection is None:
                self._connection = start_process(make_shards, self)
            self._hear(0)
            try:
                self._connection.send(missing)
            except ConnectionError:
                self._hear(0)  # says why it has ended
            self._asked = missing

    def _hear(self, seconds: float) -> None:
        """Note what the process has made, after up to `seconds`; RuntimeError if it has failed."""
        try:
            while self._connection is not None and self._connection.poll(seconds):
                news = self._connection.recv()
                if isinstance(news, str):
                    self._connection, self._asked = None, []
                    raise RuntimeError(f"no shard could be made: {news}")
                self._made, self._making = self._made + news[0], self._making + news[1]
                seconds = 0
        except (EOFError, ConnectionError):
            self._connection, self._asked = None, []
            raise RuntimeError(KILLED) from None

    def _wait(self, span: Span, ahead: Sequence[Span]) -> None:
        begun = time.monotonic()
        self._told = max(self._told, begun + _PATIENCE - _AGAIN)
        while self.find(span) is None:
            self._ask([span, *ahead])
            self._hear(0.02)
            if (now := time.monotonic()) > self._told + _AGAIN:
                self._told, self._asked = now, []  # asked for again, should it have been deleted
                warnings.warn(self._describe(now - begun), stacklevel=2)
        self._waited += time.monotonic() - begun

    def _describe(self, waiting: float) -> str:
        """Say the rate at which shards are made, and the one without any waiting."""
        rate = f"{self._made / self._making:,.1f}" if self._made else "no"
        busy = time.monotonic() - self._begun - self._waited - waiting
        needed = f"{self.taken / busy:,.0f} a second would be needed" if self.taken else "so far"
        return f"waiting for the generator: {rate} images a second are made, {needed}"


def make_shards(news: Connection, cache: ShardCache) -> None:
    """Make the missing shards of the latest wish that came through `news`, until it is closed; send
    (images, seconds) of each, or why none can be made.
    """
    wanted: list[Span] = []
    try:
        clean_folders(cache.folder)
        make = cache.maker.load()
        while True:
            while not wanted or news.poll():
                wanted = news.recv()
            start, stop = span = wanted.pop(0)
            if cache.path(span).exists():
                continue
            begun = time.monotonic()
            rows = np.empty(stop - start, cache.row)
            rows["image"], rows["label"] = make(start, stop)
            _make_room(cache.folder, cache.most_bytes - rows.nbytes - _HEADER)
            with atomic_write(cache.path(span)) as stream:
                np.save(stream, rows)
            news.send((len(rows), time.monotonic() - begun))
    except (EOFError, ConnectionError):  # nobody wants more
        return
    except Exception as error:
        news.send(first_line(error) or type(error).__name__)


def _make_room(folder: Path, most_bytes: int) -> None:
    """Delete the shards that were used least recently, until the others have `most_bytes`."""
    states = []
    for path in folder.glob("*.npy"):
        with suppress(FileNotFoundError):  # another run's process makes room as well
            states.append((path, path.stat()))
    total = sum(state.st_size for _, state in states)
    for path, state in sorted(states, key=lambda one: one[1].st_mtime_ns):
        if total <= most_bytes:
            break
        path.unlink(missing_ok=True)
        total -= state.st_size


class EndlessImages:
    """The images of `count` indices from `start` on, as worlds.data.images.Images."""

    dtype = np.dtype(np.uint8)

    def __init__(self, cache: ShardCache, start: int, count: int) -> None:
        self.cache, self.start = cache, start
        self.shape = (count, *cache.maker.shape)
        self.window = cache.window * cache.maker.shard_size

    def addresses(self, indices: np.ndarray) -> None:
        return None

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        self.fill("image", indices, out)
        self.cache.taken += len(indices)

    def fill(self, name: str, indices: np.ndarray, out: np.ndarray) -> None:
        """Write the images or labels at `indices` to `out`, (B, ...)."""
        size = self.cache.maker.shard_size
        numbers, indices = indices // size, indices.astype(np.int64)
        for number in np.unique(numbers).tolist():
            chosen = numbers == number
            behind = [self._span(number + k) for k in range(1, self.cache.window + 1)]
            rows = self.cache.rows(self._span(number), behind)
            out[chosen] = rows[name][indices[chosen] - number * size]

    def _span(self, number: int) -> Span:
        """The indices of a shard; behind the last one comes the first."""
        count, size = self.shape[0], self.cache.maker.shard_size
        first = number % -(-count // size) * size
        return self.start + first, self.start + min(first + size, count)


class EndlessLabels:
    """The labels of such images: `labels[indices]`."""

    def __init__(self, images: EndlessImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images.shape[0]

    def __getitem__(self, indices: Any) -> np.ndarray:
        asked = np.arange(len(self))[indices] if isinstance(indices, slice) else np.asarray(indices)
        out = np.empty(asked.size, np.int64)
        self.images.fill("label", asked.ravel(), out)
        return out.reshape(asked.shape)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise ValueError("labels of an endless pool are made with its images: ask for some of them")


def endless_splits(cache: ShardCache, n: int, test: int) -> list[Split]:
    """A training split of the indices below n, and a test split of those from 2^32 on."""
    splits: list[Split] = []
    for name, start, count in (("train", 0, n), ("test", _TEST, test)):
        if not 1 <= count < _TEST:
            given = "n" if name == "train" else name
            raise ValueError(f"{given} must be between 1 and {_TEST - 1:,} images, got {count:,}")
        images = EndlessImages(cache, start, count)
        labels: Any = EndlessLabels(images)
        digest = hashlib.sha256(f"{cache.maker.fingerprint} {start} {count}".encode()).hexdigest()
        splits.append(MadeSplit(name, images, labels, cache.maker.class_names, digest))
    return splits
