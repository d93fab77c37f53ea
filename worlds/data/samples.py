"""Splits of anything but images that worlds augments: a map-style dataset of one's own, or arrays.

SampleSplit.of(dataset)              items (x, y), made into batches by torch's own rule
ArrayRows(features, targets)         float (N, ...) or integer (N, T) rows, gathered at once
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class SampleSplit:
    """A split that hands out its samples as they are: no augmentation, no normalization."""

    name: str
    dataset: Any = field(repr=False)
    fingerprint: str
    class_names: tuple[str, ...] = ()
    labels: np.ndarray | None = field(default=None, repr=False)  # int64 (N,), where they are known
    label_noise: None = None
    images: None = None
    holds_images: bool = False

    @classmethod
    def of(cls, dataset: Any, name: str = "train") -> "SampleSplit":
        """Return a map-style dataset as a split. Raises ValueError if it has no length or no items.

        Its fingerprint is of its type, its length and its `targets` or `labels`, where it has them:
        items are made when they are needed, and may be random.
        """
        kind = type(dataset).__name__
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise ValueError(
                f"{kind} has no length or no items: expected a map-style dataset, with __len__ and "
                "__getitem__"
            )
        if not len(dataset):
            raise ValueError(f"{kind} has no sample")
        # Items are not read: type, length and known labels must do as a name.
        labels = _known_labels(dataset)
        digest = hashlib.sha256(f"{type(dataset).__module__}.{kind} {len(dataset)}".encode())
        digest.update(b"" if labels is None else labels.tobytes())
        names = tuple(map(str, getattr(dataset, "classes", None) or ()))
        return cls(name, dataset, digest.hexdigest(), names, labels)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Raises ValueError: only splits of images have one."""
        raise ValueError(f"{self.name} holds samples of a dataset, not images of one size")


def _known_labels(dataset: Any) -> np.ndarray | None:
    for name in ("targets", "labels"):
        given = getattr(dataset, name, None)
        if isinstance(given, list | tuple | np.ndarray | torch.Tensor) and len(given) == len(
            dataset
        ):
            array = np.asarray(given)
            if array.ndim == 1 and array.dtype.kind in "iu":
                return array.astype(np.int64)
    return None
