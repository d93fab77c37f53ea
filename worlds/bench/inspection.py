"""Look at what a loader yields, without training: how often samples are used, how they look."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from worlds.cli.sheets import Cell, Row, draw_sheet
from worlds.loaders.base import Loader
from worlds.loaders.samplers import Sampler

if TYPE_CHECKING:
    from PIL.Image import Image

_CHUNK = 1 << 22  # positions at a time


def use_counts(sampler: Sampler, steps: int) -> np.ndarray:
    """Count how often each sample of the pool is used in the first `steps` steps, int64 (pool,)."""
    # In chunks: a long run has billions of positions.
    end = sampler.span(steps - 1)[1]
    counts = np.zeros(sampler.pool, dtype=np.int64)
    for start in range(0, end, _CHUNK):
        used = sampler.at(np.arange(start, min(start + _CHUNK, end)))
        counts += np.bincount(used, minlength=sampler.pool)
    return counts


def reuse_histogram(counts: np.ndarray) -> dict[int, int]:
    """Count the samples that are used so often, for every number of uses that occurs."""
    histogram = np.bincount(counts)  # by number of uses
    return {int(uses): int(histogram[uses]) for uses in np.flatnonzero(histogram)}


def contact_sheet(loader: Loader, rows: int, columns: int) -> "Image":
    """Return the first images that `loader` yields, in order, each with its label."""
    images, labels = _first(loader, rows * columns)
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    names = loader.dataset.class_names
    cells = [
        Cell(image, names[label][:14])
        for image, label in zip(pixels.permute(0, 2, 3, 1).numpy(), labels.tolist(), strict=True)
    ]
    starts = range(0, len(cells), columns)
    return draw_sheet([Row("", "", cells[start : start + columns]) for start in starts])


def _first(loader: Loader, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels, found = [], [], 0  # samples so far
    for x, y in loader:
        images.append(x.cpu())
        labels.append(y.cpu())
        found += len(y)
        if found >= count:
            break
    return torch.cat(images)[:count], torch.cat(labels)[:count]
