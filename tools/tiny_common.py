"""What the training of both bundled networks shares: data, augmentation, the fastest precision."""

import importlib.util
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

MODES = ("eager-fp32", "eager-bf16", "compiled-fp32", "compiled-bf16")
TRIAL_SECONDS = 10.0


def load_cifar10(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 (N, 32, 32, 3) and int64 (N,) of a split, from a directory with a JPEG copy of
    CIFAR-10 (its module cifar10_jpeg.py) or from anything that worlds.open_store reads.
    """
    module = folder / "cifar10_jpeg.py"
    if module.is_file():
        spec = importlib.util.spec_from_file_location("cifar10_jpeg", module)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded.load(split)
    from worlds.data.stores import open_store

    found = open_store(folder).splits[split]
    return found.gather(np.arange(len(found))), found.clean_labels.astype(np.int64)


def data_name(folder: Path) -> str:
    """Return what facts and cards call the training data."""
    copy = "CIFAR-10 (JPEG copy)" if (folder / "cifar10_jpeg.py").is_file() else "CIFAR-10"
    return f"{copy}, the training images"


def to_signed(images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, 32, 32, 3) to float32 (N, 3, 32, 32) in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def flip(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image with probability one half."""
    chosen = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < 0.5
    return torch.where(chosen, x.flip(3), x)


def crop(x: torch.Tensor, generator: torch.Generator, pad: int = 4) -> torch.Tensor:
    """Take a random 32 x 32 window of each image after zero padding."""
    padded = F.pad(x, (pad,) * 4)
    corners = (2, len(x), 1, 1, 1)
    top, left = torch.randint(0, 2 * pad + 1, corners, generator=generator, device=x.device)
    steps = torch.arange(32, device=x.device)
    batch = torch.arange(len(x), device=x.device).view(-1, 1, 1, 1)
    channel = torch.arange(3, device=x.device).view(1, -1, 1, 1)
    return padded[batch, channel, top + steps.view(1, 1, -1, 1), left + steps]


def cutout(x: torch.Tensor, generator: torch.Generator, size: int) -> torch.Tensor:
    """Gray out one square of `size` pixels in each image, its center uniform."""
    centers = (2, len(x), 1, 1, 1)
    center_y, center_x = torch.randint(0, 32, centers, generator=generator, device=x.device)
    steps = torch.arange(32, device=x.device) + size // 2
    rows = (steps.view(-1, 1) >= center_y) & (steps.view(-1, 1) < center_y + size)
    columns = (steps >= center_x) & (steps < center_x + size)
    return x.masked_fill(rows & columns, 0.0)


def autocast(mode: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which a mode runs the network."""
    return torch.autocast(device.type, torch.bfloat16, enabled=mode.endswith("bf16"))


def fastest_mode(
    model: torch.nn.Module,
    run: Callable[[str], None],
    images: int,
    seconds: float = TRIAL_SECONDS,
) -> str:
    """Run each mode for some seconds and return the fastest; the model is left as it was.

    `run(mode)` does one forward and backward pass of `images` images. Processors without bfloat16
    units are slower in bfloat16, and compiled networks are not always faster.
    """
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    rates = {}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for mode in MODES:
        for _ in range(2):  # compile, and warm up
            run(mode)
        synchronize()
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            run(mode)
            synchronize()
            count += 1
        rates[mode] = count * images / (time.perf_counter() - start)
    model.load_state_dict(before)
    model.zero_grad()
    shown = ", ".join(f"{mode} {rate:.1f}" for mode, rate in rates.items())
    best = max(rates, key=lambda mode: rates[mode])
    print(f"images/s: {shown}; taking {best}", file=sys.stderr)
    return best
