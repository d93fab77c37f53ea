"""Name and open the array files in which public pools of small images come.

    cifar5m_part0.npz ... part5.npz    the release of CIFAR-5m in any spelling; part 5 is test
    1m.npz, 20m_part1.npz ...          sampled from EDM or DDPM: keys image, label
    x.npz                              keys X,Y  x_train,y_train  images,labels  arr_0,arr_1
    class0.npy ... class9.npy          one array per class
    train_32x32.mat, test_32x32.mat    SVHN as its home page serves it
    x.pickle                           keys data,extrapolated_targets: Tiny Images 500K

Arrays of uncompressed .npz files are memory-mapped, not loaded.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from worlds.formats.layout import CIFAR10_CLASSES
from worlds.formats.matlab import load_mat
from worlds.formats.npz import map_file, map_member, read_members
from worlds.formats.pickles import load_arrays
from worlds.runtime.errors import reading

RELEASED: Final = re.compile(r"(?:cifar[-_]?5m[-_ ]*)?part[-_ ]*(\d+)\.npz", re.IGNORECASE)
TEST_PART: Final = 5  # the paper's code trains on parts 0 to 4 and tests on part 5
PAPER_TEST: Final = 10_000  # images of part 5 that are the paper's test set
KEYS: Final = (
    ("X", "Y"),
    ("x_train", "y_train"),
    ("image", "label"),
    ("images", "labels"),
    ("arr_0", "arr_1"),
)
MOST_CLASSES: Final = 100_000  # a higher label is no class, and its names would fill the memory
_CLASS_FILE: Final = re.compile(r"class(\d+)\.npy")
_SVHN: Final = {"train": "train_32x32.mat", "test": "test_32x32.mat"}


@dataclass(frozen=True)
class Arrays:
    """One split: image arrays one after the other, uint8 (N, H, W, 3) each, and int64 labels."""

    split: str
    images: Sequence[np.ndarray]
    labels: np.ndarray
    class_names: tuple[str, ...]


def part_number(name: str) -> int | None:
    """Return the number of a released part by its file name, None for other names."""
    match = RELEASED.fullmatch(name)
    return None if match is None else int(match[1])


def split_of(name: str) -> str | None:
    """Return "train" or "test" where a file name decides it, else None."""
    if (number := part_number(name)) is not None:
        return "test" if number == TEST_PART else "train"
    words = re.split(r"[^a-z]+", name.lower().rpartition(".")[0])
    if {"test", "val", "valid", "validation"} & set(words):
        return "test"
    return "train" if "train" in words else None


def find_keys(path: Path, keys: tuple[str, str] | None = None) -> tuple[str, str]:
    """Return the names of the images and labels in an .npz file.

    Raises ValueError that lists what it holds if none of KEYS is there, or the given ones are not.
    """
    members = read_members(path)
    for images, labels in KEYS if keys is None else (keys,):
        if images in members and labels in members:
            return images, labels
    expected = ", ".join(f"{a} and {b}" for a, b in (KEYS if keys is None else (keys,)))
    shown = ", ".join(sorted(members)[:5]) + (f" and {len(members) - 5} more" * (len(members) > 5))
    raise ValueError(f"{path} holds {shown or 'nothing'}: expected {expected}")


def natural_order(paths: Sequence[Path]) -> list[Path]:
    """Sort by name, numbers in names by value: part2 before part10."""
    return sorted(
        paths,
        key=lambda p: [(w.zfill(20) if w.isdigit() else w) for w in re.split(r"(\d+)", p.name)],
    )


def npz_files(path: Path) -> list[Path]:
    """Return the .npz file at `path`, or those of a directory."""
    if path.is_file():
        return [path] if path.suffix == ".npz" else []
    return natural_order(list(path.glob("*.npz")))


def usual_classes(highest: int, path: Path) -> tuple[str, ...]:
    """Return CIFAR-10's names for ten classes, except for digits; numbers for more."""
    digits = any(word in path.name.lower() for word in ("svhn", "mnist"))
    if highest < 10 and not digits:
        return CIFAR10_CLASSES
    return numbered_classes(max(9, highest))


def numbered_classes(highest: int) -> tuple[str, ...]:
    """Return the numbers up to the highest label as names of classes."""
    if highest >= MOST_CLASSES:
        raise ValueError(f"labels must be below {MOST_CLASSES:,}, got {highest}")
    return tuple(map(str, range(highest + 1)))


def open_npz(paths: Sequence[Path], keys: tuple[str, str] | None = None) -> list[Arrays]:
    """Map .npz files as splits: by their names where these decide, else all as train."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for path in paths:
        images, labels = find_keys(path, keys)
        pair = map_member(path, images), _labels(path, map_member(path, labels))
        found.setdefault(split_of(path.name) or "train", []).append(pair)
        if images == "x_train" and {"x_test", "y_test"} <= read_members(path).keys():
            test = map_member(path, "x_test"), _labels(path, map_member(path, "y_test"))
            found.setdefault("test", []).append(test)
    highest = max(int(y.max()) for pairs in found.values() for _, y in pairs if len(y))
    names = usual_classes(highest, paths[0])
    return [
        Arrays(split, [x for x, _ in pairs], np.concatenate([y for _, y in pairs]), names)
        for split, pairs in sorted(found.items(), key=lambda item: item[0] != "train")
    ]


def _labels(path: Path, array: np.ndarray) -> np.ndarray:
    """Return labels as int64 (N,); one-hot rows and probabilities (N, C) become their class."""
    numbers = array.dtype.kind in "biuf" and bool(np.isfinite(array).all())
    if numbers and array.ndim == 2 and array.shape[1] > 1:
        numbers = np.allclose(array.sum(1), 1, atol=0.01)
        array = array.argmax(1)
    flat = array.reshape(-1)
    if not numbers or not np.array_equal(flat.astype(np.int64), flat):
        raise ValueError(f"{path}: labels must be whole numbers or one-hot, got {array.dtype}")
    return flat.astype(np.int64)


def class_files(path: Path) -> list[Path]:
    """Return class0.npy, class1.npy ... of a directory, in the order of the numbers."""
    return [
        p for p in natural_order(list(path.glob("class*.npy"))) if _CLASS_FILE.fullmatch(p.name)
    ]


def open_class_files(paths: Sequence[Path]) -> list[Arrays]:
    """Map one array per class as the train split."""
    numbers = [int(match[1]) for p in paths if (match := _CLASS_FILE.fullmatch(p.name))]
    if numbers != list(range(len(numbers))):
        raise ValueError(f"{paths[0].parent}: class files must be 0 to C - 1, got {numbers}")
    images = []
    for path in paths:
        images.append(map_file(path))
    labels = np.repeat(np.arange(len(images), dtype=np.int64), [len(x) for x in images])
    names = CIFAR10_CLASSES if len(images) == 10 else tuple(map(str, numbers))
    return [Arrays("train", images, labels, names)]


def pickle_files(path: Path) -> list[Path]:
    """Return the pickle at `path`, or those of a directory."""
    if path.is_file():
        return [path] if path.suffix in (".pickle", ".pkl") else []
    return natural_order([*path.glob("*.pickle"), *path.glob("*.pkl")])


def open_pickles(paths: Sequence[Path]) -> list[Arrays]:
    """Load pickles of `data` and `extrapolated_targets`, as Tiny Images 500K comes, as train."""
    images, labels = [], []
    for path in paths:
        with reading(path, "a pool of data and extrapolated_targets"):
            content = load_arrays(path.read_bytes())
            images.append(np.asarray(content["data"]))
            labels.append(_labels(path, np.asarray(content["extrapolated_targets"])))
    every = np.concatenate(labels)
    return [Arrays("train", images, every, usual_classes(int(every.max()), paths[0]))]


def svhn_files(path: Path) -> dict[str, Path]:
    """Return SVHN's files at or below `path` by split."""
    for directory in (path, path / "SVHN"):
        found = {s: directory / n for s, n in _SVHN.items() if (directory / n).is_file()}
        if found:
            return found
    return {}


def open_svhn(files: dict[str, Path]) -> list[Arrays]:
    """Load SVHN: images (32, 32, 3, N) become (N, 32, 32, 3), and its label 10 the digit 0."""
    splits = []
    for split, path in files.items():
        with reading(path, "a file of SVHN"):
            content = load_mat(path, "a file of SVHN", "X", "y")
            images = np.ascontiguousarray(content["X"].transpose(3, 0, 1, 2))
            labels = content["y"].reshape(-1).astype(np.int64) % 10
        splits.append(Arrays(split, [images], labels, tuple("0123456789")))
    return splits
