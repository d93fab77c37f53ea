"""The compiled PNG decoder against Pillow and against the definition of the five filters."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from cifar5m.shards.png import decode_rgb
from worlds.formats.shards import encode_png

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
RAMP = np.add.outer(np.arange(32) * 5, np.arange(32) * 3)[:, :, None].repeat(3, 2).astype(np.uint8)


def filtered(image, kinds) -> bytes:
    """`image` as PNG with the given filter of each row, by the definition of the five."""
    height, width, _ = image.shape
    framed = np.zeros((height + 1, width + 1, 3), int)
    framed[1:, 1:] = image
    left, above, corner = framed[1:, :-1], framed[:-1, 1:], framed[:-1, :-1]
    distances = np.stack([abs(above - corner), abs(left - corner), abs(left + above - 2 * corner)])
    paeth = np.choose(distances.argmin(0), [left, above, corner])
    predictions = [np.zeros_like(left), left, above, (left + above) // 2, paeth]
    rows = b"".join(
        bytes([kind]) + ((image[y] - predictions[kind][y]) % 256).astype(np.uint8).tobytes()
        for y, kind in enumerate(kinds)
    )
    data = encode_png(image)
    start = data.index(b"IDAT")
    packed = zlib.compress(rows)
    chunk = len(packed).to_bytes(4, "big") + b"IDAT" + packed
    crc = zlib.crc32(chunk[4:]).to_bytes(4, "big")
    return data[: start - 4] + chunk + crc + data[data.index(b"IEND") - 4 :]


@pytest.mark.parametrize("image", [NOISE, RAMP, RAMP // 2 + NOISE // 9, NOISE[:5, :7].copy()])
def test_every_filter_is_undone_as_pillow_does(image):
    height = len(image)
    for kinds in ([k] * height for k in range(5)):
        data = filtered(image, kinds)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), image)
        out = np.empty_like(image)
        assert decode_rgb(data, out)
        np.testing.assert_array_equal(out, image)
    mixed = filtered(image, RNG.integers(0, 5, height).tolist())
    assert decode_rgb(mixed, out)
    np.testing.assert_array_equal(out, image)
    assert decode_rgb(encode_png(image), out)
    np.testing.assert_array_equal(out, image)


def other(mode, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(stream, **{"format": "png"} | options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        other("L"),
        other("P"),
        other("RGBA"),
        other("RGB", format="jpeg"),
        other("RGB", transparency=(0, 0, 0)),
        encode_png(NOISE[:16]),
        encode_png(NOISE)[:900],
        encode_png(NOISE)[:20],
        b"",
    ],
)
def test_what_is_not_such_a_png_is_left_to_another_decoder(data):
    assert not decode_rgb(data, np.empty((32, 32, 3), np.uint8))
