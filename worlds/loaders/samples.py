"""From positions in the training stream to batches of a dataset's own samples."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from worlds.data.samples import SampleSplit
from worlds.loaders.pipelines import Batch
from worlds.loaders.samplers import Sampler
from worlds.rng.philox import words
from worlds.rng.streams import AUGMENT
from worlds.runtime.errors import first_line


class SamplePipeline:
    """Items of a map-style dataset.

    Items are made in the trainer's thread, since random transforms draw from torch's global
    generator: that is seeded for each sample from its address, and put back as it was.
    """

    block_samples = 1
    background = False

    def __init__(self, split: SampleSplit, sampler: Sampler, device: torch.device) -> None:
        self.split, self.sampler, self.device = split, sampler, device

    def make(self, positions: np.ndarray, sizes: list[int]) -> list[Batch]:
        indices = self.sampler.at(positions)
        return [self._collated(*part) for part in _parts(positions, indices, sizes)]

    def finish(self, made: list[Batch]) -> Iterable[Batch]:
        return ((x.to(self.device), y.to(self.device)) for x, y in made)

    def _collated(self, positions: np.ndarray, indices: np.ndarray) -> Batch:
        drawn = words(
            self.sampler.seed, AUGMENT, self.sampler.trial, torch.from_numpy(positions), blocks=1
        )
        seeds, items = (drawn[:, 0] << 31 | drawn[:, 1] >> 1).tolist(), []
        with torch.random.fork_rng(devices=[]):
            for index, seed in zip(indices.tolist(), seeds, strict=True):
                torch.default_generator.manual_seed(seed)
                items.append(self.split.dataset[index])
        return collate(items, self.split)


def collate(items: list[Any], split: SampleSplit) -> Batch:
    """The batch (x, y) of some items. Raises ValueError if they are no pairs, or do not fit."""
    kind = type(split.dataset).__name__
    if not all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
        found = next(type(item).__name__ for item in items)
        raise ValueError(f"items of {kind} must be pairs (x, y), got {found}")
    for column in zip(*items, strict=True):
        types = {value.dtype for value in column if isinstance(value, torch.Tensor | np.ndarray)}
        if len(types) > 1:
            raise ValueError(f"{kind} mixes {' and '.join(sorted(map(str, types)))} in one batch")
    try:
        x, y = default_collate(items)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{kind} gives samples that make no batch: {first_line(error)}") from error
    if not (isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)):
        raise ValueError(f"items of {kind} must be tensors, arrays or numbers, got {type(x)}")
    return x, y.float() if y.dtype == torch.float64 else y


def _parts(
    positions: np.ndarray, indices: np.ndarray, sizes: list[int]
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    borders = np.cumsum(sizes)[:-1]
    return zip(np.split(positions, borders), np.split(indices, borders), strict=True)
