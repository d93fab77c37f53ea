"""CIFAR-10, as an audit holds a dataset against it: pixels, and what the labeler makes of them.

    photographs = open_photographs(Path("~/data"))            # {"train": ..., "test": ...}
    seen = label_photographs(audit, photographs["test"], judge)  # features and probabilities

The labeler's pass over 60,000 photographs takes minutes on a CPU, so it is kept in parts, and
a rerun goes on.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cifar5m.labels.labeler import Labeler
from worlds.data.splits import Split
from worlds.data.stores import open_store
from worlds.formats.layout import CIFAR10_CLASSES
from worlds.formats.npz import load_npz
from worlds.runtime.files import atomic_write

SPLITS = ("train", "test")
WORK = "work"  # in the audit's folder: what only saves a rerun time
_PART = 2_000  # photographs a file: what a stopped audit may lose
MOST_BYTES = 1 << 30  # of an array: features of a shard

OnImages = Callable[[int], None]  # images done since the last call


@dataclass(frozen=True)
class Judge:
    """The labeler of an audit, and what tells it from every other."""

    labeler: Labeler
    source: str
    sha256: str

    @property
    def key(self) -> str:
        return f"{self.sha256} {self.labeler.precision} {self.labeler.batch}"


@dataclass(frozen=True)
class Seen:
    """A labeler's output for images: `features` float32 (N, F), `probabilities` (N, 10)."""

    features: np.ndarray
    probabilities: np.ndarray


def open_photographs(
    path: str | Path, image_shape: tuple[int | None, ...] = (32, 32, 3)
) -> dict[str, Split]:
    """The train and test split of CIFAR-10 at `path`, in any form that `open_store` takes.

    ValueError, with what to do, where it is not there or is something else.
    """
    try:
        store = open_store(path)
        splits = {name: store[name] for name in SPLITS}
    except (ValueError, OSError) as error:
        raise ValueError(
            f"cifar10: {error}. torchvision.datasets.CIFAR10(DIR, download=True) makes a folder "
            "that is taken"
        ) from error
    for name, split in splits.items():
        if split.image_shape != tuple(image_shape) or len(split.class_names) != len(
            CIFAR10_CLASSES
        ):
            raise ValueError(
                f"cifar10: {path} holds images {split.image_shape} of {len(split.class_names)} "
                f"classes in its {name} split, the dataset's are {tuple(image_shape)} of "
                f"{len(CIFAR10_CLASSES)}: they cannot be compared"
            )
    return splits


def pixels_of(split: Split) -> np.ndarray:
    """All images of a split, uint8 (N, height, width, 3)."""
    return split.gather(np.arange(len(split)))


def see(judge: Judge, images: np.ndarray, on_images: OnImages = lambda images: None) -> Seen:
    """Features and probabilities of uint8 (N, H, W, 3) images, a batch at a time."""
    features, probabilities = [], []
    for part in np.array_split(images, -(-len(images) // judge.labeler.batch)):
        pixels = torch.from_numpy(np.require(part, requirements=["C", "W"]))
        found = judge.labeler.features_and_probabilities(pixels.to(judge.labeler.device))
        features.append(found[0].cpu().numpy())
        probabilities.append(found[1].cpu().numpy())
        on_images(len(part))
    return Seen(np.concatenate(features), np.concatenate(probabilities))


def label_photographs(
    audit: Path, split: Split, judge: Judge, on_images: OnImages = lambda images: None
) -> Seen:
    """The labeler on a whole split of CIFAR-10, from the audit's folder where it was before."""
    parts = []
    for number, start in enumerate(range(0, len(split), _PART)):
        path = _part(audit, split, judge, number)
        rows = np.arange(start, min(start + _PART, len(split)))
        kept = read_npz(path)
        if [len(kept.get(name, ())) for name in ("features", "probabilities")] == [len(rows)] * 2:
            seen = Seen(kept["features"], kept["probabilities"])
        else:
            seen = see(judge, split.gather(rows), on_images)
            with atomic_write(path) as stream:
                np.savez(stream, features=seen.features, probabilities=seen.probabilities)
        parts.append(seen)
    return Seen(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
    )


def unlabeled(audit: Path, split: Split, judge: Judge) -> int:
    """How many photographs `label_photographs` would still have to label."""
    starts = range(0, len(split), _PART)
    sizes = [min(_PART, len(split) - start) for start in starts]
    return sum(size for k, size in enumerate(sizes) if not _part(audit, split, judge, k).is_file())


def _part(audit: Path, split: Split, judge: Judge, number: int) -> Path:
    key = hashlib.sha256(f"{split.fingerprint} {judge.key}".encode()).hexdigest()[:16]
    return audit / WORK / f"cifar10-{split.name}-{key}-{number:02d}.npz"


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name, none where it is not there or is damaged."""
    try:
        return load_npz(path, most_bytes=MOST_BYTES)
    except ValueError:
        return {}
