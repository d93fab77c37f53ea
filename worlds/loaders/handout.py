"""The form of a loader's batches: tensors of torch, or arrays of NumPy or JAX over the same
memory.

    for x, y in RealLoader(split, 5_000, 128, 2_000, output="jax", layout="NHWC"): ...
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import torch
from torch.nn.functional import one_hot

_CHOICES: Final = {
    "output": ("torch", "numpy", "jax"),
    "layout": ("NCHW", "NHWC"),
    "labels": ("int64", "int32", "one-hot"),
}


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


def check_handout(
    output: str,
    layout: str,
    labels: str,
    *,
    images: bool,
    classes: int,
    dtype: torch.dtype,
    device: torch.device,
) -> HandOut:
    """Raises ValueError if the data, or the framework, has no batches of this kind."""
    for name, value in (("output", output), ("layout", layout), ("labels", labels)):
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} must be one of {', '.join(_CHOICES[name])}, got {value!r}")
    if layout == "NHWC" and not images:
        raise ValueError('layout="NHWC" is for uint8 images, the data holds none: leave it out')
    if labels != "int64" and not classes:
        raise ValueError(f"labels={labels!r} is for classes, the data names none: leave it out")
    if output == "numpy" and (device.type != "cpu" or dtype == torch.bfloat16):
        raise ValueError(f'output="numpy" has no {dtype} on {device}: take output="torch"')
    if output == "jax" and find_spec("jax") is None:
        raise ValueError('output="jax" needs JAX: pip install jax')
    return HandOut(output, layout, labels, classes)
