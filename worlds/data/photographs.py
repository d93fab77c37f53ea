"""Photographs: JPEGs of any size in tars, decoded when they are asked for, as 224 x 224 pixels or
as many as their plan says (ImageNet at 32 px).

    store = open_store("dogbird")                       # what dogbird-build wrote
    RealLoader(store.train, n=10_000, batch_size=128, steps=9_375, augment="crop+flip")

Without augmentation a photograph is the usual evaluation: its shorter side resized to 8/7 of the
crop, 256, and the center. The crop of "crop+flip" is torchvision's RandomResizedCrop: a box of 8 to
100 % of the area and of a ratio from 3/4 to 4/3, in up to ten attempts, resized to fill the image.
Attempt k reads block k of the Philox words of (seed, trial, global position in the stream):

    word 0, word 1   area, uniform; ratio, log-uniform
    word 2, word 3   row and column of the box, among the places it fits

so no worker, batch size, rank or device changes a crop. The flip is that of
worlds/loaders/augment.py.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from worlds.data.images import resized_shape
from worlds.formats.layout import CROP
from worlds.formats.shards import MOST_PIXELS, decode_image
from worlds.formats.tar_members import TarMembers
from worlds.rng.philox import words
from worlds.rng.streams import DECODE

AREA: Final = (0.08, 1.0)
RATIO: Final = (3 / 4, 4 / 3)
ATTEMPTS: Final = 10
_COLORS: Final = ("YCbCr", "Gray", "RGB")  # of a JPEG, which simplejpeg decodes as Pillow does

Box = tuple[int, int, int, int]  # top, left, height, width


class PhotographImages:
    """The photographs of one split: `Images` whose pixels are those of a center crop."""

    dtype = np.dtype(np.uint8)

    def __init__(self, tars: Sequence[Path], counts: Sequence[int], crop: int = CROP) -> None:
        self.members, self.crop = TarMembers(tars, counts), crop
        self.shape = (len(self.members), crop, crop, 3)

    @property
    def shorter(self) -> int:
        """Return the length that the shorter side is resized to before the center is cropped."""
        return round(self.crop * 8 / 7)

    def addresses(self, indices: np.ndarray) -> np.ndarray | None:
        return None

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        """The centers, uint8 (B, crop, crop, 3), of the photographs with their side resized."""
        from worlds.data.resampling import resample

        for row, image in zip(out, self.whole(indices), strict=True):
            height, width = resized_shape(image.shape[0], image.shape[1], self.shorter)
            if (height, width) != image.shape[:2]:
                smaller = np.empty((height, width, 3), np.uint8)
                resample(image, (0, 0, *image.shape[:2]), smaller)
                image = smaller
            top, left = center(height, width, self.crop)
            row[:] = image[top : top + self.crop, left : left + self.crop]

    def gather_crops(
        self, indices: np.ndarray, positions: np.ndarray, seed: int, trial: int, out: np.ndarray
    ) -> None:
        """The boxes of global `positions`, int64 (B,), resized to uint8 (B, crop, crop, 3)."""
        from worlds.data.resampling import resample

        # (B, 40) words: four for each attempt at a box.
        drawn = words(seed, DECODE, trial, torch.from_numpy(positions), ATTEMPTS).numpy()
        for row, image, word in zip(out, self.whole(indices), drawn.tolist(), strict=True):
            height, width, _ = image.shape
            resample(image, crop_box(height, width, word), row)

    def whole(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Yield each photograph as stored, uint8 (H, W, 3); ValueError if one is damaged."""
        for index in indices.tolist():
            yield self.members.decoded(index, decode_photograph)


def decode_photograph(data: bytes) -> np.ndarray:
    """Return an encoded image as uint8 (H, W, 3), by simplejpeg where it is installed and can.

    The pixels are Pillow's: both carry libjpeg-turbo. simplejpeg takes two thirds of the time, and
    leaves other threads of Python alone while it works. CMYK and what is no JPEG are Pillow's.
    """
    try:
        import simplejpeg

        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if colors in _COLORS and height * width <= MOST_PIXELS:  # else refused below
            return simplejpeg.decode_jpeg(data)
    except (ImportError, ValueError):
        pass
    return decode_image(data)


def center(height: int, width: int, crop: int) -> tuple[int, int]:
    """The top left corner of the center crop, as torchvision rounds it."""
    return round((height - crop) / 2), round((width - crop) / 2)


def crop_box(height: int, width: int, drawn: Sequence[int]) -> Box:
    """Return the random box in an image, from 40 words; if none fits in ten attempts, the largest
    in the center with a ratio in range.
    """
    for attempt in range(ATTEMPTS):
        area, ratio, row, column = (
            word / (1 << 32) for word in drawn[4 * attempt : 4 * attempt + 4]
        )
        # Area uniform, ratio uniform in its logarithm.
        target = height * width * (AREA[0] + (AREA[1] - AREA[0]) * area)
        aspect = math.exp(math.log(RATIO[0]) + math.log(RATIO[1] / RATIO[0]) * ratio)
        h, w = round(math.sqrt(target / aspect)), round(math.sqrt(target * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(row * (height - h + 1)), int(column * (width - w + 1)), h, w
    # No box fitted: the largest in the center.
    h = min(height, round(width / RATIO[0]))
    w = min(width, round(height * RATIO[1]))
    return (height - h) // 2, (width - w) // 2, h, w
