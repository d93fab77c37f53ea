"""Compiled crop and resize of photographs.

The resampling is Pillow's bilinear filter on bytes, to the bit: a triangle over two source pixels,
or over two output pixels where the image shrinks, in fixed point with 22 fractional bits. Each row
is resampled first, and rounded to bytes; then each column. torchvision's RandomResizedCrop of a PIL
image gives the same bytes, but where the height shrinks more than the width: there Pillow 13 takes
the columns first, and a quarter of the bytes differ by 1. Pillow's own `crop` and `resize` in this
place gave 1,061 photographs a CPU second, these kernels 1,725 (benchmarks/photographs.py).
"""

import math
from typing import Any, Final

import numpy as np
from numba import njit

Scalar = Any  # int64; numba sees the types of the arguments

_BITS: Final = 22
_U = np.uint64
_THREE: Final = np.uint64(3)
_HALF: Final = np.int32(1 << (_BITS - 1))


@njit(nogil=True, cache=True)
def _weights(source: Scalar, size: Scalar) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each of `size` output pixels over `source` ones the first source pixel, how many,
    and their weights, int32 in units of 2^-22.
    """
    # A triangle over the source pixels around each output pixel's center.
    scale = source / size
    support = max(scale, 1.0)
    first, count = np.empty(size, np.uint64), np.empty(size, np.uint64)
    weights = np.zeros((size, 2 * math.ceil(support) + 1), np.int32)
    taps = np.empty(weights.shape[1], np.float64)
    for place in range(size):
        center = (place + 0.5) * scale
        low = max(0, int(center - support + 0.5))
        high = min(source, int(center + support + 0.5))
        total = 0.0
        for k in range(high - low):
            taps[k] = max(0.0, 1.0 - abs((k + low - center + 0.5) * (1.0 / support)))
            total += taps[k]
        # Weights of sum 1, rounded to 22 bits as Pillow does.
        for k in range(high - low):
            weights[place, k] = int(0.5 + taps[k] / total * (1 << _BITS))
        first[place], count[place] = low, high - low
    return first, count, weights


@njit(nogil=True, cache=True)
def _columns(
    image: np.ndarray, top: Scalar, left: Scalar, height: Scalar, width: Scalar, size: Scalar
) -> np.ndarray:
    """Resample the `width` pixels from `left` in the rows [top, top + height) of uint8 (H, W, 3) to
    `size`; uint8 (height, 3 * size).
    """
    first, count, weights = _weights(width, size)
    made = np.empty((height, 3 * size), np.uint8)  # rows of RGB bytes
    pixels = image.reshape(image.shape[0], 3 * image.shape[1])
    for y in range(_U(height)):
        row = pixels[_U(top) + y]
        for x in range(_U(size)):
            red = green = blue = _HALF
            place = _THREE * (_U(left) + first[x])
            for k in range(count[x]):
                weight = weights[x, k]
                red += weight * np.int32(row[place])
                green += weight * np.int32(row[place + _U(1)])
                blue += weight * np.int32(row[place + _U(2)])
                place += _THREE
            made[y, _THREE * x] = red >> _BITS
            made[y, _THREE * x + _U(1)] = green >> _BITS
            made[y, _THREE * x + _U(2)] = blue >> _BITS
    return made


@njit(nogil=True, cache=True)
def resample(image: np.ndarray, box: Any, out: np.ndarray) -> None:
    """Resize the box (top, left, height, width) of uint8 (H, W, 3) to fill `out`, uint8 too."""
    top, left, height, width = box
    rows, columns, _ = out.shape
    # First along the rows, then down the columns.
    narrow = _columns(image, top, left, height, width, columns)
    first, count, weights = _weights(height, rows)
    total = np.empty(columns * 3, np.int32)  # a row of sums, in units of 2^-22
    target = out.reshape(rows, columns * 3)
    for y in range(_U(rows)):
        total[:] = _HALF
        for k in range(count[y]):
            weight, row = weights[y, k], narrow[first[y] + k]
            for i in range(_U(columns * 3)):
                total[i] += weight * np.int32(row[i])
        for i in range(_U(columns * 3)):
            target[y, i] = total[i] >> _BITS
