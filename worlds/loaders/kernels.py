"""The compiled inner loops: the one pass from pool to batch.

numba, without the GIL. `fill_float32` reads each image once and writes its augmented, normalized
floats once; worlds/loaders/augment.py says what it computes. Indices into arrays are unsigned:
with signed ones numba adds a wrap-around test to every access, LLVM no longer vectorizes the loops,
and the pass is three times slower.

Compiled code is cached beside this file, or in numba's user-wide folder where that is read-only, so
only the first run on a machine compiles.
"""

from typing import Any, Final

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from worlds.rng.compiled import compiled
from worlds.rng.kernels import _MASK, _U, Scalar, philox4

_THREE: Final = np.uint64(3)
_ONE: Final = np.uint64(1)
_TWO: Final = np.float32(2)
_MAX: Final = np.float32(255)
_BLACK: Final = np.float32(-1)
_SCALE: Final = np.float32(1 / 255)


@intrinsic
def _pointer(typing_context: Any, address: Any) -> Any:
    """Return an address as a pointer to bytes, for `carray`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint8)(types.uint64), generate


@compiled(error_model="numpy")
def _stage(
    source: np.ndarray,
    staged: np.ndarray,
    guard: Scalar,
    flip: Scalar,
    channels_last: Scalar,
    height: Scalar,
    width: Scalar,
) -> None:
    """Copy an image's bytes behind `guard` bytes: flipped if asked, as three planes unless
    channels_last.
    """
    # Four loops, so that none has a branch inside: as stored or as planes, flipped or not.
    plane = height * width
    red, green, blue = guard, guard + plane, guard + plane + plane
    if channels_last and not flip:
        for k in range(_THREE * plane):
            staged[guard + k] = source[k]
    elif channels_last:
        for y in range(height):
            to, last = guard + _THREE * y * width, _THREE * (y * width + width - _ONE)
            for x in range(width):
                for c in range(_THREE):
                    staged[to + _THREE * x + c] = source[last - _THREE * x + c]
    elif flip:
        for y in range(height):
            to, last = y * width, _THREE * (y * width + width - _ONE)
            for x in range(width):
                staged[red + to + x] = source[last - _THREE * x]
                staged[green + to + x] = source[last - _THREE * x + _ONE]
                staged[blue + to + x] = source[last - _THREE * x + _U(2)]
    else:
        for k in range(plane):
            staged[red + k] = source[_THREE * k]
            staged[green + k] = source[_THREE * k + _ONE]
            staged[blue + k] = source[_THREE * k + _U(2)]


@compiled(error_model="numpy", inline="always")
def _convert(staged: np.ndarray, first: Scalar, out: np.ndarray, to: Scalar, count: Scalar) -> None:
    for k in range(_U(count)):
        out[_U(to) + k] = (np.float32(staged[_U(first) + k]) * _TWO - _MAX) * _SCALE


@compiled(error_model="numpy", inline="always")
def _constant(value: Scalar, out: np.ndarray, to: Scalar, count: Scalar) -> None:
    for k in range(_U(count)):
        out[_U(to) + k] = value


@compiled()
def _reflected(i: Scalar, size: Scalar) -> Scalar:
    return (size - 1) - abs((size - 1) - abs(i))


@compiled(error_model="numpy")
def _crop(
    staged: np.ndarray,
    first: Scalar,
    top: Scalar,
    left: Scalar,
    reflect: Scalar,
    shape: tuple[Scalar, Scalar, Scalar],
    out: np.ndarray,
    to: Scalar,
) -> None:
    """Convert one plane, shifted by (top, left) pixels of `unit` bytes, to floats. All int64.

    The rows that exist are one contiguous run, converted at once; pixels that the shift carried
    over from a neighboring row (or the guard) are then overwritten, and rows outside the image
    are filled.
    """
    height, width, unit = shape
    # Convert all rows that exist, in one run over memory.
    line = width * unit
    above, below = max(0, -top), max(0, top)  # rows of padding in view
    source = first + (above + top) * line + left * unit
    _convert(staged, source, out, to + above * line, (height - above - below) * line)
    # Rows of padding, at the top or at the bottom.
    for n in range(above + below):
        y = n if top < 0 else height - 1 - n
        if reflect:
            source = first + _reflected(y + top, height) * line + left * unit
            _convert(staged, source, out, to + y * line, line)
        else:
            _constant(_BLACK, out, to + y * line, line)
    # Columns of padding, which hold pixels of the neighboring row until now.
    for n in range(abs(left)):
        x = n if left < 0 else width - 1 - n
        for y in range(height):
            place = to + y * line + x * unit
            if reflect:
                source = first + _reflected(y + top, height) * line
                source += _reflected(x + left, width) * unit
                _convert(staged, source, out, place, unit)
            else:
                _constant(_BLACK, out, place, unit)


@compiled()
def _hole(fraction: Scalar, size: Scalar, side: Scalar) -> tuple[Scalar, Scalar]:
    """Return the first and past-the-last pixel of a hole at fraction / 2^16 of the way along."""
    center, half = (fraction * size) >> _U(16), side >> _ONE
    return center - min(half, center), min(center + half, size)


@compiled(error_model="numpy")
def _fill_image(
    address: Scalar,
    position: Scalar,
    name: np.ndarray,
    options: np.ndarray,
    staged: np.ndarray,
    out: np.ndarray,
    base: Scalar,
) -> None:
    """Write one image from its bytes to `out`, flat, from `base` on."""
    # The four words of the position: crop, flip and hole.
    pad, reflect, can_flip, cutout, channels_last, height, width = options
    words = philox4(
        _U(0),
        name[3],
        position & _MASK,
        (name[2] << _U(24)) | (position >> _U(32)),
        name[0],
        name[1],
    )
    top = np.int64((words[0] * (_U(2) * pad + _ONE)) >> _U(32)) - np.int64(pad)
    left = np.int64((words[1] * (_U(2) * pad + _ONE)) >> _U(32)) - np.int64(pad)
    flip = can_flip != _U(0) and (words[2] >> _U(31)) != _U(0)
    # A copy in cache, flipped and as planes if need be; `guard` bytes catch the shift.
    source = carray(_pointer(address), (_THREE * height * width,), np.uint8)
    _stage(source, staged, _THREE * pad, flip, channels_last != _U(0), height, width)
    if flip:
        left = -left  # the staged rows run backwards, and so does the shift
    # Shifted, to floats: three planes, or one whose pixels are three bytes.
    planes, unit = (_ONE, _THREE) if channels_last else (_THREE, _ONE)
    size = np.int64(height * width * unit)
    for c in range(np.int64(planes)):
        first, to = np.int64(_THREE * pad) + c * size, np.int64(base) + c * size
        shape = np.int64(height), np.int64(width), np.int64(unit)
        _crop(staged, first, top, left, reflect != _U(0), shape, out, to)
    # Last the hole, row by row.
    if cutout:
        y0, y1 = _hole(words[3] >> _U(16), height, cutout)
        x0, x1 = _hole(words[3] & _U(0xFFFF), width, cutout)
        for c in range(planes):
            for y in range(y0, y1):
                row = base + (c * height + y) * width * unit
                _constant(np.float32(0), out, row + x0 * unit, (x1 - x0) * unit)


@compiled(error_model="numpy")
def _to_bfloat16(values: np.ndarray, out: np.ndarray, base: Scalar) -> None:
    """Round to nearest even in the top half of the word; the values are finite."""
    bits = values.view(np.uint32)
    for i in range(_U(len(bits))):
        b = bits[i]
        out[base + i] = np.uint16(
            (b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        )


@compiled(error_model="numpy")
def _to_float16(values: np.ndarray, out: np.ndarray, base: Scalar) -> None:
    """Round to nearest even; a value is 0 or 1/255 to 1 in magnitude, so a normal float16."""
    bits = values.view(np.uint32)
    for i in range(_U(len(bits))):
        b = bits[i]
        magnitude = b & np.uint32(0x7FFFFFFF)
        rounded = magnitude + np.uint32(0xFFF) + ((magnitude >> np.uint32(13)) & np.uint32(1))
        half = (rounded - np.uint32(112 << 23)) >> np.uint32(13)  # the exponent's bias: 127 to 15
        half = half if magnitude else np.uint32(0)
        out[base + i] = np.uint16(half | ((b >> np.uint32(16)) & np.uint32(0x8000)))


@compiled(error_model="numpy")
def _to_uint8(values: np.ndarray, out: np.ndarray, base: Scalar) -> None:
    """Write the pixels that the values were made of; a hole becomes 128."""
    for i in range(_U(len(values))):
        out[base + i] = np.uint8(values[i] * np.float32(127.5) + np.float32(128))


@compiled(error_model="numpy")
def fill_float32(
    addresses: np.ndarray,
    positions: np.ndarray,
    name: np.ndarray,
    options: np.ndarray,
    out: np.ndarray,
) -> None:
    """Augment the images at `addresses` for their `positions` into `out`.

    addresses  uint64 (B,): where each image's height * width * 3 bytes lie
    positions  uint64 (B,), in the training stream
    name       uint64 (4,): key low, key high, stream, trial
    options    uint64 (7,): pad, reflect, flip, cutout, channels_last, height, width
    out        float32 (B * 3 * height * width,)
    """
    # One copy's memory serves all images.
    height, width = options[5], options[6]
    staged = np.zeros(_THREE * (height * width + _U(2) * options[0]), np.uint8)  # zeros: black
    for i in range(_U(len(addresses))):
        _fill_image(
            addresses[i], positions[i], name, options, staged, out, i * _THREE * height * width
        )


@compiled(error_model="numpy")
def fill_small(
    addresses: np.ndarray,
    positions: np.ndarray,
    name: np.ndarray,
    options: np.ndarray,
    kind: Scalar,
    out: np.ndarray,
) -> None:
    """Do as `fill_float32`, into uint16 that holds the bits of float16 (kind 0) or bfloat16
    (kind 1), or into uint8 (kind 2).
    """
    # Each image as float32 in cache, then rounded into the batch.
    height, width = options[5], options[6]
    size = _THREE * height * width
    staged = np.zeros(_THREE * (height * width + _U(2) * options[0]), np.uint8)
    values = np.empty(size, np.float32)
    for i in range(_U(len(addresses))):
        _fill_image(addresses[i], positions[i], name, options, staged, values, _U(0))
        if kind == 2:
            _to_uint8(values, out, i * size)
        elif kind == 1:
            _to_bfloat16(values, out, i * size)
        else:
            _to_float16(values, out, i * size)
