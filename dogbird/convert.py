"""One photograph of ImageNet: decoded whatever it is, its shorter side made 256, encoded again.

    jpeg = convert(data, Format())

ImageNet's files end in .JPEG, yet some are CMYK, some have one channel, one is a PNG, and some have
metadata that decoders stumble over. All become RGB JPEGs without metadata. An EXIF orientation is
not applied: torchvision's and timm's loaders take the pixels as they are stored.
"""

import io
import warnings
from dataclasses import dataclass

from PIL import Image

from worlds.data.images import resized_shape
from worlds.formats.shards import load_image

SUBSAMPLING = "4:2:0"
LONGEST = 65_500  # pixels a side of a JPEG, by libjpeg


class BrokenPhotographError(ValueError):
    """A file that holds no whole image."""


@dataclass(frozen=True)
class Format:
    """The form of stored photographs: shorter side in pixels and JPEG quality, or as they came.

    The resampling is Pillow's bilinear filter, which averages where it shrinks, as torchvision's
    Resize(256): a center crop of the stored image is the usual evaluation.
    """

    size: int = 256
    quality: int = 90
    keep_bytes: bool = False

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 4096:
            raise ValueError(f"size must be 32 to 4096 pixels, got {self.size}")
        if not 1 <= self.quality <= 95:
            raise ValueError(f"quality must be 1 to 95, got {self.quality}")


def convert(data: bytes, form: Format) -> bytes:
    """Return the bytes to store of one file; BrokenPhotographError if it does not decode whole."""
    image = decode(data)
    if form.keep_bytes:
        return data
    height, width = resized_shape(image.height, image.width, form.size)
    if max(height, width) > LONGEST:
        raise BrokenPhotographError(f"{width} x {height} pixels are too long for a JPEG")
    # Pillow's filter averages where it shrinks.
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    image.info.clear()  # else a JPEG comment would come along
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=form.quality, subsampling=SUBSAMPLING)
    return stream.getvalue()


def decode(data: bytes) -> Image.Image:
    """Decode a file to an RGB image; BrokenPhotographError if it does not decode whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of broken EXIF and of transparent palettes
        try:
            return load_image(data)
        except ValueError as error:
            raise BrokenPhotographError(str(error)) from error
