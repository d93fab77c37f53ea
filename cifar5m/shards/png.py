"""Decode the small PNGs of a shard: zlib for each, and a compiled loop for the row filters.

Only what `encode_png` writes is taken, 8-bit RGB without interlacing; that makes it twice as fast
as Pillow (benchmarks/packing.py). A PNG row is stored as its difference from one of five
predictions (PNG specification, section 9).
"""

import struct
import zlib

import numpy as np
from numba import njit

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SUB, _UP, _AVERAGE, _PAETH = 1, 2, 3, 4


def decode_rgb(data: bytes, out: np.ndarray) -> bool:
    """Decode to `out`, uint8 (H, W, 3) and contiguous; False, `out` undefined, where the PNG is not
    of that size and kind.

    Chunk checksums are not looked at: the callers hash the whole file.
    """
    height, width, _ = out.shape
    raw = _inflate(data, struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    if raw is None or len(raw) != height * (1 + 3 * width):
        return False
    framed = np.zeros((height + 1, 3 + 3 * width), np.uint8)
    if not _unfilter(np.frombuffer(raw, np.uint8), framed):
        return False
    out[:] = framed[1:, 3:].reshape(height, width, 3)
    return True


def _inflate(data: bytes, header: bytes) -> bytes | None:
    """The filtered rows of a PNG with this header, None where it is another kind of file."""
    if data[:8] != _SIGNATURE or data[12:16] != b"IHDR" or data[16:29] != header:
        return None
    parts, position = [], 33
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IDAT":
            parts.append(data[position + 8 : position + 8 + length])
        elif kind == b"IEND":
            break
        elif kind != b"tEXt":  # PLTE or tRNS would change the pixels; others are not worth a rule
            return None
        position += length + 12
    try:
        return zlib.decompress(b"".join(parts))
    except zlib.error:
        return None


@njit(nogil=True, cache=True)
def _unfilter(raw: np.ndarray, out: np.ndarray) -> bool:
    """Undo the filters of rows that each begin with a byte that names theirs.

    `out`, uint8 (H + 1, 3 + 3 W), has a row above and a pixel to the left, both 0.
    """
    height, width = out.shape[0] - 1, out.shape[1] - 3
    for y in range(height):
        kind, row, above, target = raw[0], raw[1 : 1 + width], out[y], out[y + 1]
        raw = raw[1 + width :]
        if kind == 0:
            for x in range(width):
                target[x + 3] = row[x]
        elif kind == _SUB:
            for x in range(width):
                target[x + 3] = row[x] + target[x]
        elif kind == _UP:
            for x in range(width):
                target[x + 3] = row[x] + above[x + 3]
        elif kind == _AVERAGE:
            for x in range(width):
                both = np.int32(target[x]) + np.int32(above[x + 3])
                target[x + 3] = row[x] + np.uint8(both >> 1)
        elif kind == _PAETH:
            for x in range(width):
                target[x + 3] = row[x] + _paeth(target[x], above[x + 3], above[x])
        else:
            return False
    return True


@njit(inline="always")
def _paeth(left: np.uint8, above: np.uint8, corner: np.uint8) -> np.uint8:
    """Which of the three is nearest to left + above - corner; the first where two are as near."""
    from_left = np.int32(above) - np.int32(corner)
    from_above = np.int32(left) - np.int32(corner)
    from_corner = abs(from_left + from_above)
    from_left, from_above = abs(from_left), abs(from_above)
    nearest = above if from_above <= from_corner else corner
    return left if from_left <= min(from_above, from_corner) else nearest
