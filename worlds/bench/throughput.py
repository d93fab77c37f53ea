"""Measure loaders side by side: turns of a fixed time, one candidate after the other, so that what
else the machine does falls on all of them alike; medians, and ratios of neighbors.

Each turn begins with a fresh iterator and ends with its removal: some loaders work on in threads
of their own, which would slow the next candidate down and be ahead of the clock in their next turn.
One whose threads outlive it has its turns at the end.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from worlds.data.splits import Split
from worlds.data.stores import ArrayStore
from worlds.loaders.loaders import RealLoader

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


def random_split(count: int) -> Split:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return ArrayStore(images, rng.integers(0, 10, count)).train


def worlds_batches(split: Split, batch_size: int, **output: Any) -> Batches:
    """Full shuffled epochs of the whole split, practically without end."""
    loader = RealLoader(split, len(split), batch_size, steps=1 << 40, augment="crop+flip", **output)
    return iter(loader)


def augment(images: np.ndarray, generator: np.random.Generator) -> torch.Tensor:
    """uint8 (B, 32, 32, 3) to float32 (B, 3, 32, 32): the crop, flip and normalization in numpy."""
    count, height, width, channels = images.shape
    # 4 black pixels on each side, and one of 81 windows of each image.
    padded = np.zeros((count, height + 8, width + 8, channels), dtype=np.uint8)
    padded[:, 4:-4, 4:-4] = images
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    row, column = generator.integers(0, 9, (2, count))  # (B,) each
    cropped = windows[np.arange(count), row, column]
    flipped = generator.random(count) < 0.5
    cropped[flipped] = cropped[flipped, :, :, ::-1]
    return torch.from_numpy(cropped * np.float32(2 / 255) - np.float32(1))


class _Batched(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A map-style dataset that is asked for a whole batch at once."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        self.generator = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = np.asarray(indices)
        return (
            augment(self.images[chosen], self.generator),
            torch.from_numpy(self.labels[chosen]),
        )


def torch_batches(images: np.ndarray, labels: np.ndarray, batch_size: int) -> Batches:
    """Do the same by torch's DataLoader at its fastest: whole batches, numpy's augmentation."""
    data = _Batched(images, labels)
    loader = DataLoader(data, batch_size, shuffle=True, drop_last=True, collate_fn=lambda b: b)
    while True:
        yield from loader


class Rate(NamedTuple):
    """Samples a second: by the clock, and by the processor time of all threads of this process,
    which other programs on the machine hardly change.
    """

    wall: float
    processor: float


def samples_per_second(
    candidates: Mapping[str, Callable[[], Batches]],
    turns: int,
    seconds: float,
    last: frozenset[str] = frozenset(),
) -> dict[str, list[Rate]]:
    """Measure samples per second of each candidate in each turn. Its start-up and what it made
    ahead meanwhile are not timed: batches are taken untimed for a third of a turn. Those named in
    `last` have all their turns after everyone else.
    """
    rates: dict[str, list[Rate]] = {name: [] for name in candidates}
    # Turn by turn through all of them, those in `last` at the end.
    order = [name for name in candidates if name not in last] * turns
    for name in order + [name for name in candidates if name in last] * turns:
        batches = candidates[name]()
        # A start that is not timed, then the turn.
        next(batches)
        _rate(batches, seconds / 3)
        rates[name].append(_rate(batches, seconds))
        del batches
        gc.collect()
    return rates


def _rate(batches: Batches, seconds: float) -> Rate:
    _synchronize()
    samples, start, spent = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        samples += len(next(batches)[1])
    _synchronize()
    passed = time.perf_counter() - start
    return Rate(samples / passed, samples / (time.process_time() - spent))


def _synchronize() -> None:
    """Wait for a GPU in use: a launched batch is not made yet, and would fall on another's turn."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def median_rate(rates: list[Rate]) -> Rate:
    return Rate(*(median(column) for column in zip(*rates, strict=True)))


def median_ratio(rates: list[Rate], to: list[Rate]) -> Rate:
    """Return the median over the turns of how many times as fast one candidate was as another."""
    pairs = zip(rates, to, strict=True)
    return median_rate([Rate(a.wall / b.wall, a.processor / b.processor) for a, b in pairs])
