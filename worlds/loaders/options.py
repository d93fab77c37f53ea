"""The options of every loader, in one place: what they are, and which go together.

for x, y in RealLoader(split, 5_000, 128, 2_000, output="jax", layout="NHWC"): ...
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, TypedDict

import torch
from torch.nn.functional import one_hot

from worlds.data.photographs import PhotographImages
from worlds.data.samples import SampleSplit
from worlds.data.splits import Pool
from worlds.loaders.augment import Augment, parse_augment
from worlds.loaders.normalize import Range, check_normalize
from worlds.loaders.pipelines import DTYPES, Form, Transform
from worlds.runtime.checks import integer
from worlds.runtime.device import check_device

_CHOICES: Final = {
    "output": ("torch", "numpy", "jax"),
    "layout": ("NCHW", "NHWC"),
    "labels": ("int64", "int32", "one-hot"),
}


class Options(TypedDict, total=False):
    """Keyword arguments of every loader, for type checkers: the fields of `LoaderOptions`."""

    augment: Augment | str | None
    augment_seed: int | None
    transform: Transform | None
    normalize: Range
    device: str | torch.device
    dtype: torch.dtype
    channels_last: bool
    output: str
    layout: str
    labels: str
    resident: bool | None
    gpu_decode: bool
    pin_memory: bool
    threads: int | None
    rank: int
    world_size: int


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """
    Args (keyword-only, of every loader):
        augment: None, "flip", "crop+flip", "crop+flip+cutout" or a worlds.Augment.
        augment_seed: of the augmentations in every trial; None: (seed, trial). The same hold
            data_seed for the choice of the samples and order_seed for their order, where a loader
            takes them.
        transform: instead of augment, a function of uint8 (3, H, W) that returns a tensor; slower.
        normalize: range of pixels: "symmetric" [-1, 1], "unit" [0, 1], "cifar10", "imagenet",
            any (mean, std) on the [0, 1] scale, or None for the uint8 pixels themselves.
        device: "cpu", "cuda" or "cuda:K".
        dtype: torch.float32, float16 or bfloat16.
        channels_last: memory format of the images.
        output: "torch" tensors, or arrays of "numpy" or "jax" over the same memory.
        layout: shape of a batch of images, "NCHW" or "NHWC".
        labels: "int64", "int32" or "one-hot" (float32).
        resident: on CUDA, the pool in device memory (True), streamed (False), or as it fits (None).
        gpu_decode: on CUDA, decode photographs there.
        pin_memory: make CPU batches in page-locked memory, for copies that do not block.
        threads: that make batches ahead, 0: none; None: 2, or one a CPU for photographs.
        rank: this process's share of each global batch, in [0, world_size).
        world_size: number of processes that share each global batch.
    """

    augment: Augment | str | None = None
    augment_seed: int | None = None
    transform: Transform | None = None
    normalize: Range = "symmetric"
    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    output: str = "torch"
    layout: str = "NCHW"
    labels: str = "int64"
    resident: bool | None = None
    gpu_decode: bool = False
    pin_memory: bool = False
    threads: int | None = None
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        """Check what needs no data. Raises ValueError that names the option."""
        # Values out of a list or a range.
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if self.dtype not in DTYPES or self.dtype == torch.uint8:
            raise ValueError(f"dtype must be float32, float16 or bfloat16, got {self.dtype}")
        if self.threads is not None and integer("threads", self.threads) < 0:
            raise ValueError(f"threads must be 0 or more, got {self.threads}")
        if self.normalize is None and self.dtype != torch.float32:
            raise ValueError(f"normalize=None yields uint8: leave dtype={self.dtype} out")
        if self.transform is not None:
            self._check_transform()
        # What the device can do.
        device = check_device(self.device)
        if self.pin_memory and not torch.cuda.is_available():
            raise ValueError("pin_memory=True needs a CUDA device, and torch finds none")
        if self.gpu_decode and device.type != "cuda":
            raise ValueError('gpu_decode=True decodes photographs on a GPU: give device="cuda"')
        if self.output == "numpy" and (device.type != "cpu" or self.dtype == torch.bfloat16):
            raise ValueError(f'output="numpy" has no {self.dtype} on {device}: take output="torch"')
        if self.output == "jax" and find_spec("jax") is None:
            raise ValueError('output="jax" needs JAX: pip install jax')

    def _check_transform(self) -> None:
        if not callable(self.transform):
            raise ValueError(f"transform must be a function of an image, got {self.transform!r}")
        if parse_augment(self.augment) != Augment():
            raise ValueError(
                "give either augment or transform: a transform replaces the augmentation"
            )
        if self.normalize != "symmetric":
            raise ValueError(
                f"a transform normalizes by itself: leave normalize={self.normalize!r} out"
            )

    def form(self, split: Pool) -> Form:
        """Return what a pipeline is told. Raises ValueError if it is not for the split's kind."""
        # A crop is another one for photographs: they are cropped while they are decoded.
        augment = parse_augment(self.augment, isinstance(split.images, PhotographImages))
        if isinstance(split, SampleSplit):
            if augment != Augment() or self.transform or self.normalize != "symmetric":
                raise ValueError(
                    f"{split.name} hands out its samples as they are: leave augment, transform and "
                    "normalize out"
                )
        elif split.holds_images:
            check_normalize(self.normalize, split.image_shape[-1])
        elif self.normalize != "symmetric":
            raise ValueError(
                f"normalize is for uint8 images, {split.name} holds {split.images.dtype}: "
                "leave normalize out"
            )
        return Form(
            augment=augment,
            normalize=self.normalize,
            dtype=self.dtype,
            channels_last=self.channels_last or self.layout == "NHWC",
            device=check_device(self.device),
            pin_memory=self.pin_memory,
        )

    def hand_out(self, images: bool, classes: int) -> "HandOut":
        """Return what makes batches those of `output`, `layout` and `labels`. Raises ValueError if
        the data holds no `images`, or has no `classes`, for them.
        """
        if self.layout == "NHWC" and not images:
            raise ValueError('layout="NHWC" is for uint8 images, the data holds none: leave it out')
        if self.labels != "int64" and not classes:
            raise ValueError(
                f"labels={self.labels!r} is for classes, the data names none: leave it out"
            )
        return HandOut(self.output, self.layout, self.labels, classes)


@dataclass(frozen=True)
class HandOut:
    """Takes a batch of torch, images in memory as the layout has them, to what is handed out."""

    output: str
    layout: str
    labels: str
    classes: int

    def __call__(self, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[Any, Any]:
        x, y = batch
        if self.layout == "NHWC":
            x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        if self.labels == "one-hot":
            y = one_hot(y, self.classes).float()  # (B, classes)
        elif self.labels == "int32":
            y = y.int()
        if self.output == "numpy":
            return x.numpy(), y.numpy()
        if self.output == "jax":
            from jax.dlpack import from_dlpack

            return from_dlpack(x), from_dlpack(y)
        return x, y
