"""What the pixels of a batch mean: the range that a loader hands out.

    "symmetric"   [-1, 1]: the paper's code at 32 pixels, and the default
    "unit"        [0, 1]: the paper's code at 224 pixels, which normalizes no further
    "imagenet"    [0, 1] less ImageNet's mean, divided by its standard deviation, of each channel

Batches are made symmetric, in one pass with all the rest; the others are an affine map after it, in
the thread that made the batch on a CPU, on the GPU's own stream there.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    import torch

    from worlds.loaders.pipelines import Batch, Pipeline

MEAN: Final = (0.485, 0.456, 0.406)  # of ImageNet's training images, as torchvision's models take
STD: Final = (0.229, 0.224, 0.225)
NAMES: Final = ("symmetric", "unit", "imagenet")


def normalize_batches(pipeline: "Pipeline", name: str, device: "torch.device") -> "Pipeline":
    """A pipeline that hands out the batches of another one, on `device`, in the range `name`."""
    import torch

    if name not in NAMES:
        raise ValueError(f"normalize must be one of {', '.join(map(repr, NAMES))}, got {name!r}")
    if name == "symmetric":
        return pipeline
    mean, std = (MEAN, STD) if name == "imagenet" else ((0.0,) * 3, (1.0,) * 3)
    scale = torch.tensor([0.5 / s for s in std], device=device)
    shift = torch.tensor([(0.5 - m) / s for m, s in zip(mean, std, strict=True)], device=device)
    return _Affine(pipeline, scale.view(3, 1, 1), shift.view(3, 1, 1))


class _Affine:
    """x * scale + shift, in place: nobody has seen the batch yet."""

    def __init__(self, pipeline: "Pipeline", scale: "torch.Tensor", shift: "torch.Tensor") -> None:
        self.inner, self.scale, self.shift = pipeline, scale, shift
        self.block_samples, self.background = pipeline.block_samples, pipeline.background
        self.ahead = scale.device.type == "cpu"  # where `make` gives the batches themselves

    def make(self, positions: "np.ndarray", sizes: list[int]) -> Any:
        made = self.inner.make(positions, sizes)
        return list(self._mapped(made)) if self.ahead else made

    def finish(self, made: Any) -> "Iterable[Batch]":
        return made if self.ahead else self._mapped(self.inner.finish(made))

    def _mapped(self, made: "Iterable[Batch]") -> "Iterator[Batch]":
        for images, labels in made:
            yield images.mul_(self.scale).add_(self.shift), labels
