"""Distances of two sets of images in the features of well-known networks, where these are at hand.

FID and KID by torch-fidelity in Inception features; the Frechet distance in DINOv2 features by
timm, as Stein et al. (2023) measure it: ViT-L/14, images resized to 224, class token. All need
weights that are downloaded once, and a GPU: on a CPU 100,000 images take hours.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cifar5m.auditing.frechet import frechet_distance, moments
from cifar5m.auditing.labels import NotMeasured
from cifar5m.auditing.reference import OnImages
from cifar5m.auditing.shards import FEATURE_IMAGES
from cifar5m.labels.labeler import Labeler, Preprocessing
from worlds.data.images import TarImages
from worlds.formats.layout import Shard
from worlds.runtime.errors import first_line
from worlds.runtime.torchvision_ops import declare_missing_operators

DINOV2 = "vit_large_patch14_dinov2.lvd142m"
_DINO_SIZE, _DINO_BATCH = 224, 64
_KID_SUBSET = 1000  # as torch-fidelity's own default, which small sets do not reach


class _Pixels(torch.utils.data.Dataset[torch.Tensor]):
    """Images as torch-fidelity takes them: uint8 (3, H, W) tensors."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.images[index].transpose(2, 0, 1).copy())


def first_images(folder: Path, shards: Sequence[Shard], count: int = FEATURE_IMAGES) -> np.ndarray:
    """The first images of a set's shards, uint8 (at most `count`, H, W, 3)."""
    images = TarImages([folder / s.tar for s in shards], [len(s) for s in shards])
    out = np.empty((min(count, images.shape[0]), *images.shape[1:]), np.uint8)
    images.gather(np.arange(len(out)), out)
    return out


def is_wanted(choice: str, device: torch.device, option: str) -> None:
    """NotMeasured where `choice` is none, or is auto on a CPU."""
    if choice == "none":
        raise NotMeasured(f"left out by {option} none")
    if choice == "auto" and device.type == "cpu":
        raise NotMeasured(f"takes hours on a CPU: use a GPU, or ask for it with {option}")


def fid_and_kid(
    images: np.ndarray, photographs: np.ndarray, choice: str, device: torch.device, quiet: bool
) -> dict[str, float]:
    """FID and KID of uint8 (N, H, W, 3) images against photographs.

    `choice` is auto, download, none or the file of torch-fidelity's Inception weights.
    """
    is_wanted(choice, device, "--inception download or FILE")
    try:
        import torch_fidelity
    except ImportError as error:
        raise NotMeasured(
            "torch-fidelity is not installed: pip install 'deep-bootstrap[audit]'"
        ) from error
    path = None if choice in ("auto", "download") else choice
    smaller = min(len(images), len(photographs))
    try:
        found = torch_fidelity.calculate_metrics(
            input1=_Pixels(images),
            input2=_Pixels(photographs),
            cuda=device.type == "cuda",
            fid=True,
            kid=True,
            kid_subset_size=min(_KID_SUBSET, smaller),
            feature_extractor_weights_path=path,
            cache=False,
            save_cpu_ram=True,
            verbose=not quiet,
        )
    except torch.OutOfMemoryError:
        raise
    except OSError as error:
        raise NotMeasured(f"the Inception weights cannot be had: {first_line(error)}") from error
    except Exception as error:  # of torch-fidelity, of the network, of pickle in a damaged file
        raise NotMeasured(f"torch-fidelity gave up: {first_line(error)}") from error
    return {
        "fid": float(found["frechet_inception_distance"]),
        "kid": float(found["kernel_inception_distance_mean"]),
    }


def dinov2_distance(
    images: np.ndarray,
    photographs: np.ndarray,
    choice: str,
    device: torch.device,
    on_images: OnImages = lambda images: None,
) -> float:
    """Frechet distance of two sets of uint8 (N, H, W, 3) images in DINOv2 features.

    `choice` is auto, none, a timm name or a timm folder.
    """
    is_wanted(choice, device, f"--dinov2 {DINOV2}")
    extractor = _load_dinov2(DINOV2 if choice == "auto" else choice, device)
    found = [moments(_features(extractor, part, on_images)) for part in (images, photographs)]
    return frechet_distance(*found)


def _features(extractor: Labeler, images: np.ndarray, on_images: OnImages) -> Any:
    for start in range(0, len(images), extractor.batch):
        part = images[start : start + extractor.batch]
        pixels = torch.from_numpy(np.require(part, requirements=["C", "W"])).to(extractor.device)
        yield extractor.features(pixels).cpu().numpy()
        on_images(len(part))


def _load_dinov2(source: str, device: torch.device) -> Labeler:
    declare_missing_operators()
    import timm

    folder = Path(source).expanduser()
    name = f"local-dir:{folder}" if folder.is_dir() else source
    size = {} if folder.is_dir() else {"img_size": _DINO_SIZE}
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0, **size)
    except Exception as error:  # of timm, of the Hub's client, of safetensors
        raise NotMeasured(f"{source} cannot be had: {first_line(error)}") from error
    config = network.pretrained_cfg
    height, width = tuple(config["input_size"][1:]) if folder.is_dir() else (_DINO_SIZE,) * 2
    preprocessing = Preprocessing(
        (height, width), tuple(config["mean"]), tuple(config["std"]), config["interpolation"]
    )
    precision = "tf32" if device.type == "cuda" else "fp32"
    return Labeler(network.float(), preprocessing, device, precision, _DINO_BATCH)
