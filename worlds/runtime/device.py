"""Devices and precisions: choose, check and name a device, run a network in a precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def on_device(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The network in evaluation mode on a device, its memory channels_last."""
    layout: Any = {"memory_format": torch.channels_last}  # torch's type stubs do not know it
    return network.to(device).to(**layout).eval()


@contextmanager
def in_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Run matrix products and convolutions in a precision; fp32 means fp32, also on CUDA."""
    convolution, product = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        half = _AUTOCAST.get(precision)
        with torch.autocast(device.type, half, enabled=half is not None):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolution
        torch.backends.cuda.matmul.allow_tf32 = product


def device_name(device: torch.device) -> str:
    """What the record of a shard calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type


def checked_device(device: str | torch.device, pin_memory: bool = False) -> torch.device:
    """The device of that name; ValueError if there is none, or none of its kind is served."""
    try:
        target = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f'device must be "cpu" or "cuda", got {device}') from error
    if target.type not in ("cpu", "cuda"):
        raise ValueError(f'device must be "cpu" or "cuda", got {device}')
    if (target.type == "cuda" or pin_memory) and not torch.cuda.is_available():
        asked = f"device={str(target)!r}" if target.type == "cuda" else "pin_memory=True"
        raise ValueError(f'{asked} needs a CUDA device, and torch finds none; use device="cpu"')
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no {target}: torch finds {torch.cuda.device_count()} of them")
    return target
