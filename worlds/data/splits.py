"""A split: images, labels and what is known of them; the pool that a loader draws from."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from worlds.data.images import Images
from worlds.data.labels import LabelNoise, noisy_labels
from worlds.data.samples import SampleSplit
from worlds.formats.plan import check_names
from worlds.runtime.checks import integers


def integer_labels(labels: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return `labels` as an array; raises ValueError unless they are integers (N,)."""
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers (N,), got {array.dtype} {array.shape}")
    return array


def are_targets(labels: Sequence[float] | np.ndarray) -> bool:
    """Return whether these are regression targets, floats or (N, ...) arrays, not classes."""
    array = np.asarray(labels)
    return array.dtype.kind == "f" or (array.ndim > 1 and array.dtype.kind in "iu")


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a store. It is a torch map-style dataset as well: `split[i]` is (image, label).

    `labels` are those to train on, `clean_labels` those before noise: the same without noise. They
    are classes, int64 (N,), or, without `class_names`, targets: floats (N,) or arrays (N, ...).
    `fingerprint` names the content; two splits with equal fingerprints hold the same samples.
    """

    name: str
    images: Images = field(repr=False)
    clean_labels: np.ndarray = field(repr=False)  # int64 (N,)
    class_names: tuple[str, ...]
    fingerprint: str
    probabilities: np.ndarray | None = field(default=None, repr=False)  # float16 (N, K)
    label_noise: LabelNoise | None = None
    labels: np.ndarray = field(init=False, repr=False)  # int64 (N,)

    def __repr__(self) -> str:
        noise = "" if self.label_noise is None else f", {self.label_noise}"
        height, width, _ = self.image_shape
        return (
            f"Split({self.name}, {len(self):,} images of {height} x {width}, "
            f"{len(self.class_names)} classes{noise})"
        )

    def __post_init__(self) -> None:
        check_names(self.class_names)
        # Labels are classes, or without names of them, regression targets.
        classes = len(self.class_names)
        targets = not classes and are_targets(self.clean_labels)
        clean = np.asarray(self.clean_labels) if targets else integer_labels(self.clean_labels)
        if len(clean) != len(self):
            raise ValueError(f"{self.name}: {len(self):,} images but {len(clean):,} labels")
        if not len(clean):
            raise ValueError(f"{self.name}: a split must hold at least one sample")
        if targets:
            if self.label_noise is not None:
                raise ValueError(f"{self.name}: label noise is for classes, not for targets")
            object.__setattr__(self, "clean_labels", clean)
            object.__setattr__(self, "labels", clean)
            return
        # Classes must be those that have a name.
        low, high = int(clean.min()), int(clean.max())
        if low < 0 or high >= classes:
            known = f"between 0 and {classes - 1} for {classes} classes" if classes else "named"
            raise ValueError(
                f"{self.name}: labels must be {known}, got {low} to {high}: give class_names, one "
                "for each label"
            )
        if self.probabilities is not None and self.probabilities.shape != (len(clean), classes):
            raise ValueError(
                f"{self.name}: probabilities must be {(len(clean), classes)}, "
                f"got {self.probabilities.shape}"
            )
        # What to train on: the labels after noise.
        clean = clean.astype(np.int64, copy=False)
        noise = self.label_noise
        object.__setattr__(self, "clean_labels", clean)
        labels = clean if noise is None else noisy_labels(clean, noise, classes)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Return (height, width, channels) of an image, or the shape of another sample."""
        return self.images.shape[1:]

    @property
    def holds_images(self) -> bool:
        """Return whether the samples are uint8 images, which can be augmented and normalized."""
        return self.images.dtype == np.uint8

    def gather(
        self, indices: Sequence[int] | np.ndarray, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the samples at `indices`, (B, ...) of the pool's type, in `out` if it is given."""
        # Check here, once: the kernels below read whatever they are told to.
        wanted = integers(indices).astype(np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise ValueError(
                f"{self.name}: indices must be in [0, {len(self):,}), "
                f"got {wanted.min()} to {wanted.max()}"
            )
        shape = (len(wanted), *self.image_shape)
        dtype = self.images.dtype
        if out is None:
            out = np.empty(shape, dtype=dtype)
        elif out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
            raise ValueError(f"out must be contiguous {dtype} {shape}, got {out.dtype} {out.shape}")
        self.images.gather(wanted, out)
        return out

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        """Return one sample, images as uint8 (channels, height, width), and its label."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index must be in [0, {len(self):,}), got {index}")
        sample = torch.from_numpy(self.gather([index])[0])
        label = self.labels[index]
        if self.holds_images:
            sample = sample.permute(2, 0, 1)
        return sample, int(label) if self.class_names else torch.as_tensor(label)

    def with_label_noise(self, noise: LabelNoise) -> "Split":
        """Return the same samples with noisy `labels`; `clean_labels` stay."""
        if not isinstance(noise, LabelNoise):
            raise ValueError(f'noise must be such as LabelNoise("symmetric", 0.2), got {noise!r}')
        return replace(self, label_noise=noise)


@dataclass(frozen=True, eq=False, repr=False)
class MadeSplit(Split):
    """A split whose labels are made on the fly: `clean_labels` has a length and `[indices]`."""

    def __post_init__(self) -> None:
        if self.label_noise is not None:
            raise ValueError(f"{self.name} takes no label noise: its labels are not stored")
        object.__setattr__(self, "labels", self.clean_labels)


Pool = Split | SampleSplit  # what a loader draws from


def window_of(split: Pool) -> int | None:
    """Return how many samples in a row are at hand together, None if all of the pool are."""
    return getattr(split.images, "window", None)


def check_split(split: Any) -> None:
    """Raises ValueError if a loader is given something else, most often a store or its path."""
    if not isinstance(split, Split | SampleSplit):
        raise ValueError(
            "a loader draws from a split, such as open_store(path).train, got "
            f"{type(split).__name__}"
        )


def as_split(data: Any, name: str = "train") -> Pool:
    """Return a split as it is, or a map-style dataset made one."""
    return data if isinstance(data, Split | SampleSplit) else SampleSplit.of(data, name)


def labels_of(split: Pool) -> np.ndarray:
    """Return all labels. Raises ValueError if they are not known without reading all samples."""
    if split.labels is None:
        raise ValueError(f"the labels of {split.name} are not known: balanced needs them")
    return split.labels
