"""A pool without limit, made on the fly: smooth random images, labeled by a fixed random network.

    store = open_store("teacher:0")        # 5,000,000 training and 100,000 test images of seed 0
    open_store("teacher:0:gray")           # the same, shaped as MNIST: 28 x 28 x 1
    store.train[3_141_592]                 # any sample alone, the same as in a batch

An image is noise at five octaves, from 2 x 2 to 32 x 32 cells, that falls with frequency as in
photographs; the teacher is a convolution, a hidden layer and an argmax over ten outputs. All of it
is arithmetic of integers (in float64, below 2^53): it is exact, so a sample depends on nothing but
the seed and its index. Nothing is stored but the labels seen so far, a byte a sample.
"""

import hashlib
from itertools import pairwise
from typing import Any, Final

import numpy as np

from worlds.data.splits import MadeSplit, Split
from worlds.rng.streams import TEACHER, key_of

TEACHER_PREFIX: Final = "teacher:"
POOL: Final = 5_000_000
TEST: Final = 100_000  # the indices behind the pool
CLASSES: Final = 10
SHAPE: Final = (32, 32, 3)
GRAY_SHAPE: Final = (28, 28, 1)
_PATCH, _STRIDE, _PLACES = 5, 4, 49  # of the convolution: patches of 5 x 5 at 7 x 7 places
_WIDTHS: Final = (_PATCH * _PATCH * 3, 16, 64, CLASSES)
_CALIBRATION: Final = np.arange(2_048) + (1 << 40)  # images that center the outputs


def random_bytes(seed: int, major: int, minor: int, count: int) -> np.ndarray:
    """Return uint8 (count,): the words of this address, lowest bytes first."""
    from worlds.rng.kernels import word_rows

    key = np.array(key_of(seed), dtype=np.uint64)
    words = word_rows(np.array([minor]), -(-count // 16), key, TEACHER, major)
    return words.astype("<u4").view(np.uint8)[0, :count]


def make_images(indices: np.ndarray, seed: int, out: np.ndarray) -> None:
    """Write images to `out`, uint8 (B, 32, 32, 3)."""
    from worlds.data.teacher_kernels import fill_images

    fill_images(indices.astype(np.int64), np.array(key_of(seed), dtype=np.uint64), out)


class Teacher:
    """The network of a seed; `labels(images)` are int64 (B,)."""

    def __init__(self, seed: int) -> None:
        # Weights from Philox words, one address a layer.
        fan_in = (_WIDTHS[0], _WIDTHS[1] * _PLACES, _WIDTHS[2])
        self._layers = [
            2.0 * random_bytes(seed, 1 + depth, 0, rows * columns).reshape(rows, columns) - 255
            for depth, (rows, columns) in enumerate(zip(fan_in, _WIDTHS[1:], strict=True))
        ]  # odd numbers from -255 to 255
        # Center the outputs, so that all classes are about equally frequent.
        self._center = np.zeros(CLASSES)
        images = np.empty((len(_CALIBRATION), *SHAPE), np.uint8)
        make_images(_CALIBRATION, seed, images)
        self._center = np.floor(self._outputs(images).mean(axis=0))

    def _outputs(self, images: np.ndarray) -> np.ndarray:
        """Return float64 (B, 10), whole numbers."""
        patches = np.lib.stride_tricks.sliding_window_view(images, (_PATCH, _PATCH), axis=(1, 2))
        # (B, 49, 75): the patches of the convolution as rows.
        hidden = patches[:, ::_STRIDE, ::_STRIDE].reshape(len(images), _PLACES, -1) - 128.0
        for layer in self._layers[:-1]:
            # A power of two near the size of the sums keeps the units in a byte's range.
            power = 2.0 ** round(np.log2(148 * np.sqrt(len(layer))))
            hidden = np.maximum(np.floor(hidden @ layer / power), 0).reshape(len(images), -1)
        return hidden @ self._layers[-1] - self._center

    def labels(self, images: np.ndarray) -> np.ndarray:
        return self._outputs(images).argmax(axis=1)


class TeacherImages:
    """Images of one seed from index `start` on, as worlds.data.images.Images."""

    dtype = np.dtype(np.uint8)

    def __init__(self, seed: int, start: int, count: int, gray: bool = False) -> None:
        self.seed, self.start, self.gray = seed, start, gray
        self.shape = (count, *(GRAY_SHAPE if gray else SHAPE))

    def addresses(self, indices: np.ndarray) -> None:
        return None

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        if not self.gray:
            make_images(self.start + indices, self.seed, out)
            return
        images = self.in_color(indices)[:, 2:-2, 2:-2]
        out[:] = images.sum(axis=3, keepdims=True, dtype=np.int64) // 3

    def in_color(self, indices: np.ndarray) -> np.ndarray:
        """Return the images that the teacher sees, uint8 (B, 32, 32, 3)."""
        images = np.empty((len(indices), *SHAPE), np.uint8)
        make_images(self.start + indices, self.seed, images)
        return images


class TeacherLabels:
    """Labels that are computed when they are asked for, and kept: `labels[indices]`."""

    def __init__(self, images: TeacherImages, teacher: Teacher) -> None:
        self.images, self._teacher = images, teacher
        self._known = np.full(len(self), -1, np.int8)  # -1: not computed yet

    def __len__(self) -> int:
        return self.images.shape[0]

    def __getitem__(self, indices: Any) -> np.ndarray:
        # Compute the labels that nobody has asked for yet, 1,024 at a time.
        asked = np.arange(len(self))[indices] if isinstance(indices, slice) else np.asarray(indices)
        new = np.unique(asked[self._known[asked] < 0])
        for some in np.array_split(new, -(-len(new) // 1_024)) if len(new) else ():
            self._known[some] = self._teacher.labels(self.images.in_color(some))
        return self._known[asked].astype(np.int64)


def teacher_splits(
    seed: int, pool: int = POOL, test: int = TEST, gray: bool = False
) -> list[Split]:
    """The training and the test split of a seed."""
    names, teacher = tuple(map(str, range(CLASSES))), Teacher(seed)
    splits: list[Split] = []
    for name, (start, end) in zip(("train", "test"), pairwise((0, pool, pool + test)), strict=True):
        images = TeacherImages(seed, start, end - start, gray)
        labels: Any = TeacherLabels(images, teacher)
        digest = hashlib.sha256(f"teacher 1 {seed} {start} {end}{' gray' * gray}".encode())
        splits.append(MadeSplit(name, images, labels, names, digest.hexdigest()))
    return splits


def open_teacher(address: str) -> list[Split]:
    """The splits of `teacher:SEED` or `teacher:SEED:gray`. Raises ValueError if it is neither."""
    seed, _, form = address.removeprefix(TEACHER_PREFIX).partition(":")
    if not (seed.isdecimal() and int(seed) < 1 << 64 and form in ("", "gray")):
        raise ValueError(
            f"expected {TEACHER_PREFIX}SEED or {TEACHER_PREFIX}SEED:gray, such as "
            f"{TEACHER_PREFIX}0, got {address}"
        )
    return teacher_splits(int(seed), gray=form == "gray")
