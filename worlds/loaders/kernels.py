"""The compiled inner loops: the one pass from pool to batch.

numba, without the GIL. `fill` reads each image once and writes its augmented, normalized
values once; worlds/loaders/augment.py says what it computes. Indices into arrays are unsigned:
with signed ones numba adds a wrap-around test to every access, LLVM no longer vectorizes the loops,
and the pass is three times slower.

Compiled code is cached beside this file, or in numba's user-wide folder where that is read-only, so
only the first run on a machine compiles.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic, overload

from worlds.rng.compiled import compiled
from worlds.rng.kernels import _MASK, _U, Scalar, philox4

_THREE: Final = np.uint64(3)
_ONE: Final = np.uint64(1)
_TWO: Final = np.float32(2)
_MAX: Final = np.float32(255)
_SCALE: Final = np.float32(1 / 255)
_LINE: Final = np.uint64(64)  # bytes of a cache line


@intrinsic
def _pointer(typing_context: Any, address: Any) -> Any:
    """Return an address as a pointer to bytes, for `carray`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint8)(types.uint64), generate


@intrinsic
def _prefetch(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address, into the second level of the cache."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        read, second_level, data = number(0), number(2), number(1)
        line = builder.inttoptr(arguments[0], pointer)
        builder.call(prefetch, [line, read, second_level, data])
        return context.get_dummy_value()

    return types.void(types.uint64), generate


@compiled()
def _prefetch_next(addresses: np.ndarray, i: Scalar, size: Scalar) -> None:
    """Ask for the image after the i-th while that is made: images of a pool are read in no order
    that the processor could foresee, and waiting for them takes a fifth of the time.
    """
    if i + _ONE < _U(len(addresses)):
        for line in range(_U(0), size, _LINE):
            _prefetch(addresses[i + _ONE] + line)


@compiled(error_model="numpy")
def _stage(
    source: np.ndarray,
    visible: np.ndarray,
    staged: np.ndarray,
    first: Scalar,
    pitch: Scalar,
    flip: Scalar,
    channels_last: Scalar,
    height: Scalar,
    width: Scalar,
) -> None:
    """Copy an image's bytes, but for those that are not `visible`, to staged[first:]: flipped if
    asked, as three planes `pitch` apart unless channels_last.
    """
    # Four loops, so that none has a branch inside: as stored or as planes, flipped or not.
    plane = height * width
    red, green, blue = first, first + pitch, first + pitch + pitch
    if channels_last and not flip:
        for k in range(_THREE * plane):
            staged[first + k] = source[k] & visible[k]
    elif channels_last:
        for y in range(height):
            to, last = _THREE * y * width, _THREE * (y * width + width - _ONE)
            for x in range(width):
                for c in range(_THREE):
                    byte = source[last - _THREE * x + c] & visible[_THREE * x + c]
                    staged[first + to + _THREE * x + c] = byte
    elif flip:
        for y in range(height):
            to, last = y * width, _THREE * (y * width + width - _ONE)
            for x in range(width):
                staged[red + to + x] = source[last - _THREE * x] & visible[x]
                staged[green + to + x] = source[last - _THREE * x + _ONE] & visible[x]
                staged[blue + to + x] = source[last - _THREE * x + _U(2)] & visible[x]
    else:
        for k in range(plane):
            staged[red + k] = source[_THREE * k] & visible[k]
            staged[green + k] = source[_THREE * k + _ONE] & visible[k]
            staged[blue + k] = source[_THREE * k + _U(2)] & visible[k]


def _same(value: Any, out: Any) -> Any:
    return value


def _pixel(value: Any, out: Any) -> Any:
    """Return the pixel that the value was made of; a hole becomes 128."""
    return np.uint8(value * np.float32(127.5) + np.float32(128))


def _bfloat16(value: Any, out: Any) -> Any:
    """Return the bits of the nearest bfloat16. No pixel's value lies half-way between two."""
    return np.uint16((np.float32(value).view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16))


def _float16(value: Any, out: Any) -> Any:
    """Return the bits of the nearest float16. No pixel's value lies half-way between two, and all
    are normal numbers, 1/255 to 1 in magnitude, or 0.
    """
    bits = np.float32(value).view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    rounded = magnitude + np.uint32(0x1000) - np.uint32(112 << 23)  # exponent's bias: 127 to 15
    half = np.uint32(0) if magnitude == np.uint32(0) else rounded >> np.uint32(13)
    return np.int16(half | ((bits >> np.uint32(16)) & np.uint32(0x8000)))


def _cast(value: Any, out: Any) -> Any:
    """Return a value of [-1, 1], float32, as what `out` holds."""


@overload(_cast)
def _cast_for(value: Any, out: Any) -> Callable[[Any, Any], Any]:
    casts = {types.uint8: _pixel, types.uint16: _bfloat16, types.int16: _float16}
    return casts.get(out.dtype, _same)


@compiled(error_model="numpy", inline="always")
def _convert(staged: np.ndarray, first: Scalar, out: np.ndarray, to: Scalar, count: Scalar) -> None:
    for k in range(_U(count)):
        value = (np.float32(staged[_U(first) + k]) * _TWO - _MAX) * _SCALE
        out[_U(to) + k] = _cast(value, out)


@compiled()
def _reflected(i: Scalar, size: Scalar) -> Scalar:
    return (size - 1) - abs((size - 1) - abs(i))


@compiled(error_model="numpy")
def _reflect(
    staged: np.ndarray,
    first: Scalar,
    top: Scalar,
    left: Scalar,
    shape: tuple[Scalar, Scalar, Scalar],
    out: np.ndarray,
    to: Scalar,
) -> None:
    """Overwrite the rows and columns of one plane that lie outside the image by its reflection.
    All int64; the plane is shifted by (top, left) pixels of `unit` bytes.
    """
    height, width, unit = shape
    line = width * unit
    for n in range(abs(top)):
        y = n if top < 0 else height - 1 - n
        source = first + _reflected(y + top, height) * line + left * unit
        _convert(staged, source, out, to + y * line, line)
    for n in range(abs(left)):
        x = n if left < 0 else width - 1 - n
        for y in range(height):
            source = first + _reflected(y + top, height) * line
            source += _reflected(x + left, width) * unit
            _convert(staged, source, out, to + y * line + x * unit, unit)


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
    visible: np.ndarray,
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
    if flip:
        left = -left  # the staged rows run backwards, and so does the shift
    # A copy in cache, flipped and as planes if need be, with black around each plane.
    planes, unit = (_ONE, _THREE) if channels_last else (_THREE, _ONE)
    size, around = height * width * unit, pad * (width + _ONE) * unit
    source = carray(_pointer(address), (_THREE * height * width,), np.uint8)
    seen = visible[np.int64(pad) + left]
    _stage(source, seen, staged, around, size + around, flip, channels_last != _U(0), height, width)
    # To floats, each plane by one run over memory that begins where the shift says: what it carries
    # from a row into the next one was not visible, so it is black.
    for c in range(np.int64(planes)):
        first = np.int64(around + c * (size + around))
        to = np.int64(base + c * size)
        shape = np.int64(height), np.int64(width), np.int64(unit)
        _convert(staged, first + (top * shape[1] + left) * shape[2], out, to, size)
        if reflect:
            _reflect(staged, first, top, left, shape, out, to)
    # Last the hole, row by row.
    if cutout:
        y0, y1 = _hole(words[3] >> _U(16), height, cutout)
        x0, x1 = _hole(words[3] & _U(0xFFFF), width, cutout)
        for c in range(planes):
            for y in range(y0, y1):
                row = base + (c * height + y) * width * unit
                for k in range(row + x0 * unit, row + x1 * unit):
                    out[k] = _cast(np.float32(0), out)


@compiled()
def _staging(options: np.ndarray) -> np.ndarray:
    """Return memory for one image's staged planes and the black around them: zeros."""
    pad, height, width = options[0], options[5], options[6]
    return np.zeros(_THREE * height * width + _U(6) * pad * (width + _ONE), np.uint8)


@compiled(error_model="numpy")
def fill(
    addresses: np.ndarray,
    positions: np.ndarray,
    name: np.ndarray,
    options: np.ndarray,
    visible: np.ndarray,
    out: np.ndarray,
) -> None:
    """Augment the images at `addresses` for their `positions` into `out`.

    addresses  uint64 (B,): where each image's height * width * 3 bytes lie
    positions  uint64 (B,), in the training stream
    name       uint64 (4,): key low, key high, stream, trial
    options    uint64 (7,): pad, reflect, flip, cutout, channels_last, height, width
    visible    uint8 (2 * pad + 1, bytes of a plane), of worlds.loaders.augment.visible_bytes
    out        (B * 3 * height * width,), float32, uint8, or the bits of bfloat16 as uint16 or of
               float16 as int16
    """
    staged, size = _staging(options), _THREE * options[5] * options[6]
    for i in range(_U(len(addresses))):
        _prefetch_next(addresses, i, size)
        _fill_image(addresses[i], positions[i], name, options, visible, staged, out, i * size)
