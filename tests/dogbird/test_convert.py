"""Photographs as ImageNet has them: converted whole and without metadata, or refused."""

import io

import numpy as np
import pytest
from PIL import Image

from dogbird.convert import BrokenPhotographError, Format, convert, decode
from tests.dogbird.small_imagenet import jpeg
from worlds.data.images import resized_shape


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


def encoded(mode: str, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    with Image.open(io.BytesIO(jpeg(3))) as image:
        image.convert(mode).save(stream, kind, **options)
    return stream.getvalue()


TRAPS = {
    "plain": jpeg(3),
    "CMYK": jpeg(3, mode="CMYK"),
    "one channel": jpeg(3, mode="L"),
    "PNG in a .JPEG": encoded("RGB", "PNG"),
    "PNG with a transparent palette": encoded("P", "PNG", transparency=b"\0\x80"),
    "progressive": jpeg(3, progressive=True),
    "turned by EXIF": jpeg(3, exif=exif(6)),
    "broken EXIF": jpeg(3, exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0"),
    "a comment": jpeg(3, comment="hello"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_every_kind_of_file_becomes_a_plain_rgb_jpeg(name):
    made = convert(TRAPS[name], Format(size=32))
    with Image.open(io.BytesIO(made)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (42, 32))
        assert not image.getexif()
        assert "comment" not in image.info
        pixels = np.asarray(image).astype(int)
    plain = np.asarray(decode(convert(TRAPS["plain"], Format(size=32)))).astype(int)
    if name == "one channel":
        plain = np.asarray(Image.fromarray(plain.astype(np.uint8)).convert("L"))[..., None]
    # The same picture (an EXIF turn is not applied); a palette costs most.
    assert np.abs(pixels - plain).mean() < (12 if "palette" in name else 4)


@pytest.mark.parametrize(
    "data, message",
    [
        (jpeg(3)[:-300], "truncated"),
        (encoded("RGB", "PNG")[:-300], "truncated"),
        (jpeg(3)[:40], "Truncated"),
        (b"", "cannot identify image file"),
        (b"<html>404</html>", "cannot identify image file"),
    ],
)
@pytest.mark.parametrize("keep_bytes", [False, True])
def test_what_does_not_decode_whole_is_refused_in_one_line(data, message, keep_bytes):
    with pytest.raises(BrokenPhotographError, match=message) as caught:
        convert(data, Format(keep_bytes=keep_bytes))
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


def test_a_strip_too_long_for_a_jpeg_is_broken_and_ends_no_build():
    with pytest.raises(BrokenPhotographError, match="192000 x 256 pixels are too long for a JPEG"):
        convert(jpeg(3, 3000, 4), Format())
    assert convert(jpeg(3, 3000, 12), Format())


def test_kept_bytes_are_the_files_own():
    assert all(convert(data, Format(keep_bytes=True)) == data for data in TRAPS.values())


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (100, 133), (2400, 257)])
def test_the_shorter_side_is_resized_as_torchvision_does(size):
    import worlds.runtime.torchvision_ops  # noqa: F401, I001
    from torchvision.transforms import Resize

    with Image.open(io.BytesIO(jpeg(5, *size))) as image:
        expected = Resize(256)(image.convert("RGB"))
        ours = image.convert("RGB").resize(
            resized_shape(size[1], size[0], 256)[::-1], Image.Resampling.BILINEAR
        )
    assert np.array_equal(np.asarray(ours), np.asarray(expected))


@pytest.mark.parametrize("options", [{"size": 31}, {"size": 5000}, {"quality": 0}, {"quality": 96}])
def test_a_format_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        Format(**options)
