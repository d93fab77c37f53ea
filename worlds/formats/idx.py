"""Read MNIST and its like, as their authors and torchvision leave them: idx files, gzipped or not.

MNIST/raw/train-images-idx3-ubyte    train-labels-idx1-ubyte    t10k-...    also .gz
mnist8m-patterns-idx3-ubyte          mnist8m-labels-idx1-ubyte
"""

import gzip
import math
import struct
from pathlib import Path
from typing import Final

import numpy as np

from worlds.formats.pools import Arrays
from worlds.runtime.errors import reading

_ROOTS: Final = (".", "raw", "MNIST/raw", "FashionMNIST/raw", "KMNIST/raw")
_STEMS: Final = {"train": ("train-", "mnist8m-", ""), "test": ("t10k-", "test-")}
_IMAGES: Final = ("images", "patterns")
_FASHION: Final = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def idx_files(path: Path) -> dict[str, tuple[Path, Path]]:
    """Return the files of images and labels at or below `path` by split."""
    for root in (path / name for name in _ROOTS) if path.is_dir() else ():
        found = {}
        for split, stems in _STEMS.items():
            for stem in stems:
                images = [_existing(root, f"{stem}{word}-idx3-ubyte") for word in _IMAGES]
                labels = _existing(root, f"{stem}labels-idx1-ubyte")
                if labels is not None and any(images):
                    found[split] = next(file for file in images if file), labels
                    break
        if found:
            return found
    return {}


def _existing(root: Path, name: str) -> Path | None:
    return next((file for file in (root / name, root / f"{name}.gz") if file.is_file()), None)


def open_idx(files: dict[str, tuple[Path, Path]]) -> list[Arrays]:
    """Load every split: uint8 (N, H, W) and int64 (N,); files without compression are mapped."""
    splits = []
    for split, (images, labels) in files.items():
        classes = np.asarray(read_idx(labels), dtype=np.int64)
        fashion = any("fashion" in part.lower() for part in images.parts)
        names = _FASHION if fashion else tuple(map(str, range(max(10, int(classes.max()) + 1))))
        splits.append(Arrays(split, [read_idx(images)], classes, names))
    return splits


def read_idx(path: Path) -> np.ndarray:
    """Load the uint8 array of an idx file; raises ValueError if it is not one, or cut short."""
    opener = gzip.open if path.suffix == ".gz" else open
    with reading(path, "an idx file"), opener(path, "rb") as stream:
        zero, kind, dimensions = struct.unpack(">HBB", stream.read(4))
        if zero or kind != 8 or not 1 <= dimensions <= 4:
            raise ValueError("expected unsigned bytes in 1 to 4 dimensions")
        shape = struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))
        if path.suffix != ".gz":
            if path.stat().st_size != 4 + 4 * dimensions + math.prod(shape):
                raise ValueError(f"its size is not that of {shape} bytes")
            return np.memmap(path, np.uint8, "r", 4 + 4 * dimensions, shape)
        if math.prod(shape) > 1100 * path.stat().st_size:  # more than gzip can shrink
            raise ValueError(f"{shape} bytes are declared, too many for its size")
        data = stream.read(math.prod(shape))
        if stream.read(1):  # reaches the end, where gzip checks its CRC
            raise ValueError(f"more than {shape} bytes")
        return np.frombuffer(data, np.uint8).reshape(shape)
