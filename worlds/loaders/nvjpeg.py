"""Photographs decoded on the GPU: nvJPEG through torchvision, then crops and resizing there.

    RealLoader(store.train, ..., augment="crop+flip", device="cuda", gpu_decode=True)

The boxes are those of worlds/data/photographs.py; the pixels are not those of the CPU to the bit,
since nvJPEG and the GPU's resampling round otherwise. For shards as dogbird-build writes them: of
kept bytes, nvJPEG may refuse a few.
"""

from collections.abc import Sequence

import numpy as np
import torch

from worlds.data.images import resized_shape
from worlds.data.photographs import ATTEMPTS, PhotographImages, center, crop_box
from worlds.rng.philox import words
from worlds.rng.streams import DECODE


def check_nvjpeg() -> None:
    """Raise ValueError if this torchvision cannot decode on a GPU."""
    import worlds.runtime.torchvision_ops  # noqa: F401, I001
    from torchvision import io

    try:
        io.decode_jpeg(torch.zeros(4, dtype=torch.uint8), device="cuda")
    except (RuntimeError, AttributeError, ImportError) as error:
        # Four zeros are no JPEG; any other complaint says that the decoder is not there.
        text = str(error).lower()
        if any(word in text for word in ("not compiled", "couldn't load", "no such operator")):
            raise ValueError(
                "gpu_decode=True needs torchvision with nvJPEG, and this one is built without: "
                "leave it out, or install torchvision's CUDA build"
            ) from error


def decodes_alike(device: torch.device) -> bool:
    """Return whether a GPU decodes a smooth picture as the CPU does, within a mean difference of
    2 of 255: decoders differ in how they enlarge the colors.
    """
    import simplejpeg

    # A smooth picture: decoders agree on it but for rounding.
    ramp = torch.arange(64, dtype=torch.uint8).mul(4).expand(64, 64)
    picture = torch.stack([ramp, ramp.T, 255 - ramp], 2).contiguous().numpy()  # (64, 64, 3)
    data = simplejpeg.encode_jpeg(picture)
    found = [image.permute(1, 2, 0).cpu().int() for image in decode_on_gpu([data] * 4, device)]
    expected = torch.from_numpy(simplejpeg.decode_jpeg(data)).int()
    return all((image - expected).abs().float().mean() <= 2 for image in found)


def gather_on_gpu(
    images: PhotographImages,
    indices: np.ndarray,
    device: torch.device,
    address: tuple[int, int, np.ndarray] | None,
) -> torch.Tensor:
    """Return photographs as uint8 (B, 224, 224, 3) on `device`: the random boxes of `address`
    (seed, trial, global positions), without one the centers.
    """
    drawn = None
    if address is not None:
        seed, trial, positions = address
        drawn = words(seed, DECODE, trial, torch.from_numpy(positions), ATTEMPTS).tolist()
    data = [images.members.read(index) for index in indices.tolist()]
    # The decoder writes on a stream of its own, which does not wait for this thread's: what it is
    # given must not be read any more, and what it made must have been read before it is freed.
    stream = torch.cuda.current_stream(device)
    stream.synchronize()
    decoded = decode_on_gpu(data, device)
    cropped = crop_decoded(decoded, drawn, images.crop, images.shorter)
    stream.synchronize()
    return cropped


def decode_on_gpu(data: Sequence[bytes], device: torch.device) -> list[torch.Tensor]:
    """Return each JPEG as uint8 (3, H, W) on `device`."""
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = [torch.frombuffer(bytearray(one), dtype=torch.uint8) for one in data]
    return list(decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device))


def crop_decoded(
    decoded: Sequence[torch.Tensor],
    drawn: Sequence[Sequence[int]] | None,
    crop: int,
    shorter: int,
) -> torch.Tensor:
    """uint8 (3, H, W) of many sizes to uint8 (B, crop, crop, 3): the boxes of `drawn` (40 words for
    each), or the centers, on the device where they are.
    """
    import worlds.runtime.torchvision_ops  # noqa: F401, I001
    from torchvision.transforms.v2.functional import resize, resized_crop

    made = []
    for number, image in enumerate(decoded):
        _, height, width = image.shape
        # A random box of any ratio, resized to fill the image.
        if drawn is not None:
            box = crop_box(height, width, drawn[number])
            made.append(resized_crop(image, *box, [crop, crop], antialias=True))
            continue
        size = resized_shape(height, width, shorter)
        top, left = center(*size, crop)
        smaller = resize(image, list(size), antialias=True) if size != (height, width) else image
        made.append(smaller[:, top : top + crop, left : left + crop])
    return torch.stack(made).permute(0, 2, 3, 1).contiguous()
