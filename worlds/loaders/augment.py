"""Augment an image between the pool and the batch: random crop, horizontal flip, cutout,
and bytes to [-1, 1].

Every choice is addressed: the four Philox words of (seed, trial, global position in the training
stream) say where the crop starts, whether the image is flipped and where the hole is, so no worker,
batch size, rank or device changes them.

    word 0, word 1   row and column of the crop in the padded image, each one of 2 * pad + 1 places
    word 2           flipped when its highest bit is set
    word 3           center of the hole: row from the high half, column from the low half

The order is crop, flip, normalize, cutout: padding is black (pixel 0, so -1) and the hole is
mid-gray (0). A pixel p becomes float32(2 p - 255) * float32(1 / 255): one rounding, so a CPU and a
GPU agree to the bit, and 0 and 255 are -1 and 1 exactly.

`augment_batch` is the definition in torch, on any device; tests hold `worlds.loaders.kernels` and
`worlds.loaders.cuda` equal to it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from worlds.rng.philox import words
from worlds.rng.streams import AUGMENT

SCALE: Final = 0.00392156885936856  # float32(1 / 255), as the shortest double with that float32
CROP_PAD: Final = 4
CUTOUT_SIDE: Final = 16

_NAMED: Final = ("flip", "crop+flip", "crop+flip+cutout", "cutout")


@dataclass(frozen=True)
class Augment:
    """Random crop after padding by `pad` pixels (0: no crop), flip with probability 1/2, and a hole
    `cutout` pixels wide. `resized_crop` is the random crop of photographs
    (worlds/data/photographs.py), made while they are decoded: what is here begins with its
    224 x 224 pixels.
    """

    pad: int = 0
    resized_crop: bool = False
    reflect: bool = False  # pad by mirroring, without repeating the edge, instead of with black
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad must be 0 or more pixels, got {self.pad}")
        if self.cutout < 0 or self.cutout % 2:
            raise ValueError(
                f"cutout must be an even number of pixels, 0 or more, got {self.cutout}"
            )
        if self.reflect and not self.pad:
            raise ValueError("reflect=True pads by mirroring, but pad is 0: give pad as well")
        if self.resized_crop and self.pad:
            raise ValueError(f"resized_crop=True is a crop already, but pad is {self.pad}: give 0")

    def check_size(self, height: int, width: int) -> None:
        if self.pad >= min(height, width):
            raise ValueError(
                f"a crop with padding {self.pad} needs images larger than that, "
                f"got {height} x {width}"
            )


def parse_augment(augment: "Augment | str | None", photographs: bool = False) -> Augment:
    """Return the `Augment` of None, "flip", "cutout" (a hole of 16), "crop+flip" or with "+cutout".

    The crop is the paper's: at 32 pixels out of a zero padding of 4, of photographs resized.
    """
    if isinstance(augment, Augment):
        return augment
    if augment is None:
        return Augment()
    if augment not in _NAMED:
        raise ValueError(
            f"augment must be None, one of {', '.join(map(repr, _NAMED))} or worlds.Augment(...), "
            f"got {augment!r}"
        )
    # "crop+flip+cutout" names its parts.
    parts = augment.split("+")
    return Augment(
        pad=CROP_PAD if "crop" in parts and not photographs else 0,
        resized_crop="crop" in parts and photographs,
        flip="flip" in parts,
        cutout=CUTOUT_SIDE if "cutout" in parts else 0,
    )


@dataclass(frozen=True)
class Draws:
    """The choices made for some positions; int64 (N,) each, `flip` bool (N,)."""

    row: torch.Tensor  # of the crop's top edge in the padded image
    column: torch.Tensor
    flip: torch.Tensor
    hole_row: torch.Tensor  # of the hole's center
    hole_column: torch.Tensor


def draw(
    augment: Augment, seed: int, trial: int, positions: torch.Tensor, height: int, width: int
) -> Draws:
    """Return the choices for `positions`, int64 (N,), on their device."""
    w0, w1, w2, w3 = words(seed, AUGMENT, trial, positions, blocks=1).unbind(1)
    places = 2 * augment.pad + 1
    return Draws(
        row=(w0 * places) >> 32,
        column=(w1 * places) >> 32,
        flip=(w2 >> 31).bool() if augment.flip else torch.zeros_like(w2, dtype=torch.bool),
        hole_row=((w3 >> 16) * height) >> 16,
        hole_column=((w3 & 0xFFFF) * width) >> 16,
    )


def normalize(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return uint8 of any shape as values in [-1, 1]."""
    return (images.to(torch.float32) * 2 - 255).mul_(SCALE).to(dtype)


def augment_batch(
    images: torch.Tensor,
    augment: Augment,
    seed: int,
    trial: int,
    positions: torch.Tensor,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> torch.Tensor:
    """Augment uint8 (N, H, W, 3) at int64 (N,) positions; returns (N, 3, H, W) in [-1, 1]."""
    _, height, width, _ = images.shape
    # Which source pixel each output pixel shows; pixels outside of the image are black.
    draws = draw(augment, seed, trial, positions, height, width)
    y, inside_y = _source(draws.row, height, augment, None)
    x, inside_x = _source(draws.column, width, augment, draws.flip)
    sample = torch.arange(len(images), device=images.device)[:, None, None]
    pixels = images[sample, y[:, :, None], x[:, None, :]]  # (N, H, W, 3)
    pixels = pixels * (inside_y[:, :, None] & inside_x[:, None, :]).unsqueeze(-1)
    # Normalize, then cut the hole: it is mid-gray in [-1, 1], not a pixel value.
    values = normalize(pixels)
    if augment.cutout:
        hole = (
            _inside(draws.hole_row, height, augment.cutout)[:, :, None]
            & _inside(draws.hole_column, width, augment.cutout)[:, None, :]
        )
        values = values.masked_fill(hole.unsqueeze(-1), 0.0)
    values = values.permute(0, 3, 1, 2).to(dtype)  # (N, 3, H, W)
    return values.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


def _source(
    start: torch.Tensor, size: int, augment: Augment, flip: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for each sample and output row (or column), its source row and if there is one."""
    place = torch.arange(size, device=start.device)  # (size,)
    places = place.expand(len(start), size)
    # A flipped image is read from its other end, before the shift of the crop.
    if flip is not None:
        places = torch.where(flip[:, None], size - 1 - places, places)
    source = places + start[:, None] - augment.pad
    if augment.reflect:
        source = (size - 1) - ((size - 1) - source.abs()).abs()
    inside = (source >= 0) & (source < size)  # (N, size)
    return source.clamp(0, size - 1), inside


def _inside(center: torch.Tensor, size: int, side: int) -> torch.Tensor:
    offset = torch.arange(size, device=center.device) - center[:, None]
    return (offset >= -(side // 2)) & (offset < side // 2)


def visible_bytes(augment: Augment, height: int, width: int, channels_last: bool) -> np.ndarray:
    """Return, for shifts from -pad to pad along a row, 255 for the bytes of a plane that stay in
    their row and 0 for those carried into the next one, uint8 (2 * pad + 1, bytes of a plane).

    All are 255 for reflection, which writes over what was carried.
    """
    x, shift = np.arange(width), np.arange(-augment.pad, augment.pad + 1)[:, None]
    stays = augment.reflect | ((x >= shift) & (x < width + shift))
    row = np.where(stays, 255, 0).astype(np.uint8)
    return np.tile(np.repeat(row, 3, axis=1) if channels_last else row, height)
