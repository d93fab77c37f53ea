"""Distances of two sets of images in the features of well-known networks, where these are at hand.

FID and KID by torch-fidelity in Inception features; the Frechet distance in DINOv2 features by
timm, as Stein et al. (2023) measure it: ViT-L/14, images resized to 224, class token. All need
weights that are downloaded once, and a GPU: on a CPU 100,000 images take hours.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cifar5m.auditing.frechet import frechet_distance, moments
from cifar5m.auditing.inputs import Audit, pixels_of
from cifar5m.auditing.labels import NotMeasured
from cifar5m.auditing.shards import FEATURE_IMAGES
from cifar5m.labels.labeler import Labeler, Preprocessing
from worlds.runtime.errors import first_line
from worlds.runtime.progress import Phase
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


def measure_quality(audit: Audit, inception: str, dinov2: str) -> dict[str, Any]:
    """Return FID, KID and FD-DINOv2, or for each a NotMeasured that says why not.

    `inception` is auto, download, none or the file of torch-fidelity's weights; `dinov2` is auto,
    none, a timm name or a timm directory.
    """
    found: dict[str, Any] = {}
    try:
        found |= _fid_and_kid(audit, inception)
    except NotMeasured as reason:
        found |= {"fid": reason, "kid": reason}
    try:
        found["fd_dinov2"] = _dinov2_distance(audit, dinov2)
    except NotMeasured as reason:
        found["fd_dinov2"] = reason
    return found


def _both_sets(audit: Audit, choice: str, option: str) -> tuple[np.ndarray, np.ndarray]:
    """Load the first images of the dataset and CIFAR-10's train split, uint8 (N, H, W, 3) each.

    Raises NotMeasured if `choice` is none, or is auto on a CPU.
    """
    if choice == "none":
        raise NotMeasured(f"left out by {option} none")
    if choice == "auto" and audit.device.type == "cpu":
        raise NotMeasured(f"takes hours on a CPU: use a GPU, or ask for it with {option}")
    images = audit.tar_images()
    out = np.empty((min(FEATURE_IMAGES, images.shape[0]), *images.shape[1:]), np.uint8)
    images.gather(np.arange(len(out)), out)
    return out, pixels_of(audit.cifar10["train"])


def _fid_and_kid(audit: Audit, choice: str) -> dict[str, float]:
    images, real = _both_sets(audit, choice, "--inception download")
    try:
        import torch_fidelity
    except ImportError as error:
        raise NotMeasured(
            "torch-fidelity is not installed: pip install 'deep-bootstrap[audit]'"
        ) from error
    try:
        found = torch_fidelity.calculate_metrics(
            input1=_Pixels(images),
            input2=_Pixels(real),
            cuda=audit.device.type == "cuda",
            fid=True,
            kid=True,
            kid_subset_size=min(_KID_SUBSET, len(images), len(real)),
            feature_extractor_weights_path=None if choice in ("auto", "download") else choice,
            cache=False,
            save_cpu_ram=True,
            verbose=False,
        )
    except torch.OutOfMemoryError:
        raise
    except OSError as error:
        raise NotMeasured(
            f"the Inception weights could not be loaded: {first_line(error)}"
        ) from error
    except Exception as error:  # of torch-fidelity, of the network, of pickle in a damaged file
        raise NotMeasured(f"torch-fidelity gave up: {first_line(error)}") from error
    return {
        "fid": float(found["frechet_inception_distance"]),
        "kid": float(found["kernel_inception_distance_mean"]),
    }


def _dinov2_distance(audit: Audit, choice: str) -> float:
    sets = _both_sets(audit, choice, "--dinov2 NAME")
    extractor = _load_dinov2(DINOV2 if choice == "auto" else choice, audit.device)
    phase = Phase("DINOv2", sum(map(len, sets)), audit.on_progress)
    return frechet_distance(*(moments(_features(extractor, images, phase)) for images in sets))


def _features(extractor: Labeler, images: np.ndarray, phase: Phase) -> Iterator[np.ndarray]:
    for start in range(0, len(images), extractor.batch):
        part = images[start : start + extractor.batch]
        pixels = torch.from_numpy(np.require(part, requirements=["C", "W"])).to(extractor.device)
        yield extractor.features(pixels).cpu().numpy()  # (B, F)
        phase(len(part))


def _load_dinov2(source: str, device: torch.device) -> Labeler:
    declare_missing_operators()
    import timm

    # A local directory says its own size; timm's published weights are made for 518 pixels.
    folder = Path(source).expanduser()
    name = f"local-dir:{folder}" if folder.is_dir() else source
    size = {} if folder.is_dir() else {"img_size": _DINO_SIZE}
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0, **size)
    except Exception as error:  # of timm, of the Hub's client, of safetensors
        raise NotMeasured(f"{source} could not be loaded: {first_line(error)}") from error
    config = network.pretrained_cfg
    height, width = tuple(config["input_size"][1:]) if folder.is_dir() else (_DINO_SIZE,) * 2
    preprocessing = Preprocessing(
        (height, width), tuple(config["mean"]), tuple(config["std"]), config["interpolation"]
    )
    precision = "tf32" if device.type == "cuda" else "fp32"
    return Labeler(network.float(), preprocessing, device, precision, _DINO_BATCH)
