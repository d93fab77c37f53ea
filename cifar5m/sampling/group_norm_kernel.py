"""The Triton kernel of `cifar5m.sampling.group_norm`.

A program makes some groups of one image: it reads them for the mean, again for the variance, and
again for the result. The second and third reading mostly come from the cache, so that memory gives
each value once. Tiles follow from the shape alone, so sums have one order everywhere.
"""

import math
from typing import Final

import torch
import triton  # type: ignore[import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,unused-ignore]

_GROUPS: Final = 8  # of a program, at most: their channels are neighbors in memory
_VALUES: Final = 4096  # of a tile
_WARPS: Final = 4


@triton.jit
def _normalize(  # type: ignore[no-untyped-def]
    x,  # (B, pixels, channels)
    weight,  # float32 (channels,)
    bias,  # float32 (channels,)
    out,  # shaped like x
    pixels,
    eps,
    channels: tl.constexpr,
    size: tl.constexpr,  # channels of a group
    groups: tl.constexpr,  # of a program
    lanes: tl.constexpr,  # `size`, rounded up to a power of two
    tile: tl.constexpr,  # pixels
    silu: tl.constexpr,
):
    # Offsets of the values of this program's groups: (tile, groups, lanes).
    lane = tl.arange(0, lanes)[None, None, :]
    group = tl.program_id(1) * groups + tl.arange(0, groups)[None, :, None]
    channel = group * size + lane
    within = tl.arange(0, tile)[:, None, None]
    start = tl.program_id(0).to(tl.int64) * pixels * channels
    count = pixels * size

    # First reading: the mean.
    sums = tl.zeros((tile, groups, lanes), tl.float32)
    for first in range(0, pixels, tile):
        wanted = (first + within < pixels) & (lane < size)
        at = start + (first + within) * channels + channel
        sums += tl.load(x + at, mask=wanted, other=0).to(tl.float32)
    mean = (tl.sum(tl.sum(sums, 2), 0) / count)[None, :, None]

    # Second reading: the variance, by differences from the mean.
    squares = tl.zeros((tile, groups, lanes), tl.float32)
    for first in range(0, pixels, tile):
        wanted = (first + within < pixels) & (lane < size)
        at = start + (first + within) * channels + channel
        away = tl.load(x + at, mask=wanted, other=0).to(tl.float32) - mean
        squares += tl.where(wanted, away * away, 0.0)
    variance = (tl.sum(tl.sum(squares, 2), 0) / count)[None, :, None]
    inverse = 1 / tl.sqrt(variance + eps)

    # Third reading: the result.
    scale = tl.load(weight + channel, mask=lane < size, other=0) * inverse
    shift = tl.load(bias + channel, mask=lane < size, other=0)
    for first in range(0, pixels, tile):
        wanted = (first + within < pixels) & (lane < size)
        at = start + (first + within) * channels + channel
        value = (tl.load(x + at, mask=wanted, other=0).to(tl.float32) - mean) * scale + shift
        if silu:
            value = value / (1 + tl.exp(-value))
        tl.store(out + at, value.to(out.dtype.element_ty), mask=wanted)


def normalize_fused(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float, silu: bool
) -> torch.Tensor:
    """Return what `normalize_plain` returns, by one launch."""
    x = x.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = x.shape
    out = torch.empty_like(x)
    # Tiles by the shape alone: no timing, so one order of sums everywhere.
    size, together = channels // groups, math.gcd(groups, _GROUPS)
    lanes = triton.next_power_of_2(size)
    pixels = height * width
    tile = min(triton.next_power_of_2(pixels), max(1, _VALUES // (together * lanes)))
    shape = channels, size, together, lanes, tile
    options = {"num_warps": _WARPS, "enable_fp_fusion": False}
    grid = batch, groups // together
    _normalize[grid](x, weight, bias, out, pixels, eps, *shape, silu, **options)
    return out
