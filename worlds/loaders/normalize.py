"""The ranges of pixels that a loader hands out.

    "symmetric"   [-1, 1]: the paper's code at 32 pixels, and the default
    "unit"        [0, 1]: the paper's code at 224 pixels, which normalizes no further
    "cifar10"     [0, 1] less CIFAR-10's mean, divided by its standard deviation, of each channel
    "imagenet"    the same with ImageNet's
    (mean, std)   the same with given numbers on the [0, 1] scale, one or one a channel
    None          the pixels themselves, uint8

Batches are made symmetric, in one pass with all the rest; the others are a map after it, in the
thread that made the batch. A GPU's kernel looks the values of the map up in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # the names of the ranges are needed without torch, by `--help`
    import torch

Range = str | tuple[float | Sequence[float], float | Sequence[float]] | None

NAMES: Final = ("symmetric", "unit", "cifar10", "imagenet")
_CONSTANTS: Final = {  # mean, standard deviation on the [0, 1] scale
    "unit": (0.0, 1.0),
    # Of CIFAR-10's 50,000 training images, as computed in most public training code.
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    # Of ImageNet's training images, as torchvision's models take.
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def check_normalize(normalize: Range, channels: int) -> None:
    """Raise ValueError unless `normalize` is a known range for images of `channels` channels."""
    if normalize is None or normalize == "symmetric":
        return
    if isinstance(normalize, str) and normalize not in _CONSTANTS:
        raise ValueError(
            f"normalize must be one of {', '.join(map(repr, NAMES))}, (mean, std) or None, got "
            f"{normalize!r}"
        )
    _constants(normalize, channels)


def _constants(normalize: Any, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation, float64 (channels,) each."""
    import torch

    # A name, or what the user gave: one number or one for each channel.
    given = _CONSTANTS[normalize] if isinstance(normalize, str) else normalize
    try:
        mean, std = (torch.as_tensor(x, dtype=torch.float64) for x in given)
        mean, std = mean.expand(channels), std.expand(channels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"normalize must be (mean, std), one number or {channels} each, got {normalize!r}"
        ) from error
    if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
        raise ValueError(f"mean must be finite and std above 0, got {normalize!r}")
    return mean, std


def range_function(
    normalize: Range, channels: int, device: torch.device | str = "cpu"
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return what takes batches in [-1, 1] on `device` to a range, in place if it can; None if that
    is theirs.
    """
    if normalize == "symmetric":
        return None
    if normalize is None:
        return _to_uint8
    mean, std = (c.float().to(device).view(-1, 1, 1) for c in _constants(normalize, channels))

    def standardize(images: torch.Tensor) -> torch.Tensor:
        import torch

        if images.dtype != torch.float32:  # half precision has no room for the steps below
            return images.sub_(2 * mean - 1).div_(2 * std)
        # Twice the pixel less 255 is a whole number (0 in a hole of cutout): from there on the
        # steps and their rounding are torchvision's.
        return images.mul_(255).round_().add_(255).mul_(1 / 510).sub_(mean).div_(std)

    return standardize


def _to_uint8(images: torch.Tensor) -> torch.Tensor:
    import torch

    return images.float().add_(1).mul_(127.5).round_().to(torch.uint8)
