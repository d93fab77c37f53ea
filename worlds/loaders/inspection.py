"""What a loader would yield, without training: how often samples are used, how they look."""

import numpy as np
import torch
from PIL import Image, ImageDraw

from worlds.loaders.base import Loader
from worlds.loaders.samplers import Sampler

_CHUNK = 1 << 22  # positions at a time
_ENLARGED = 96  # pixels a side, in the sheet
_CAPTION = 14


def use_counts(sampler: Sampler, steps: int) -> np.ndarray:
    """How often each sample of the pool is used in the first `steps` steps, int64 (pool,)."""
    end = sampler.span(steps - 1)[1]
    counts = np.zeros(sampler.pool, dtype=np.int64)
    for start in range(0, end, _CHUNK):
        used = sampler.at(np.arange(start, min(start + _CHUNK, end)))
        counts += np.bincount(used, minlength=sampler.pool)
    return counts


def reuse_histogram(counts: np.ndarray) -> dict[int, int]:
    """How many samples are used so often, for every number of uses that occurs."""
    histogram = np.bincount(counts)
    return {int(uses): int(histogram[uses]) for uses in np.flatnonzero(histogram)}


def contact_sheet(loader: Loader, rows: int, columns: int) -> Image.Image:
    """The first images that `loader` yields, as they come, under their labels."""
    images, labels = _first(loader, rows * columns)
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels = pixels.permute(0, 2, 3, 1)
    scale = max(1, _ENLARGED // max(pixels.shape[1:3]))
    height, width = pixels.shape[1] * scale, pixels.shape[2] * scale
    sheet = Image.new("RGB", (columns * (width + 4), rows * (height + _CAPTION + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    names = loader.dataset.class_names
    for k, (image, label) in enumerate(zip(pixels.numpy(), labels.tolist(), strict=True)):
        x, y = k % columns * (width + 4), k // columns * (height + _CAPTION + 4)
        draw.text((x + 2, y), names[label][:14], fill="black")
        enlarged = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (x, y + _CAPTION))
    return sheet


def _first(loader: Loader, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels, found = [], [], 0
    for x, y in loader:
        images.append(x.cpu())
        labels.append(y.cpu())
        found += len(y)
        if found >= count:
            break
    return torch.cat(images)[:count], torch.cat(labels)[:count]
