"""The data that experiments are trained on: what the user gave, or at smoke scale what is made.

    sources = Sources("pack", cifar10="~/data")
    sources.missing("dogbird")          # "needs ...: give --dogbird DIR; make it with ..."
    sources.data("cifar5m")             # a worlds.training.build.Data

    cifar5m   the pool of 32 px images; CIFAR-10's test set beside its own where that is given
    cifar10   CIFAR-10's training set, tested on the pool's test split and on CIFAR-10's
    dogbird   ImageNet-DogBird at 224 px
    first5    the pool's first five classes alone, to pretrain on; last5: its last five
    teacher   a pool that is made on the fly; gray: the same, shaped as MNIST
    none      the toy example

Made data are ten classes of blurred color patterns under noise: learnable, cheap, and of no
meaning.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from worlds.data.teacher import TEACHER_PREFIX
from worlds.experiments.plan import Expanded, jobs_of
from worlds.experiments.registry import Data
from worlds.formats.layout import CROP
from worlds.training.config import TrainConfig

if TYPE_CHECKING:
    from worlds.data.stores import Store
    from worlds.training.build import Data as RunData

MADE: Final = "made data"
HALVES: Final[dict[Data, list[int | str | list[int | str]]]] = {  # classes
    "first5": [0, 1, 2, 3, 4],
    "last5": [5, 6, 7, 8, 9],
}
_HOW: Final[dict[Data, str]] = {
    "cifar5m": "a pool of CIFAR-5m's kind: give --data DIR; make one with cifar5m-generate "
    "--n 6000000 --out cifar5m, or bring the released one with cifar5m-import part*.npz --out "
    "cifar5m --pack",
    "cifar10": "CIFAR-10: give --cifar10 DIR, a folder that torchvision.datasets.CIFAR10(root, "
    "download=True) has filled",
    "dogbird": "ImageNet-DogBird: give --dogbird DIR; make it from a copy of ImageNet with "
    "dogbird-build --imagenet SRC --out DIR",
}
_POOLS: Final[dict[Data, tuple[int, int, int]]] = {  # seed, training and test images
    "cifar5m": (0, 4_096, 512),
    "cifar10": (1, 1_024, 256),
}


@dataclass(frozen=True)
class Sources:
    """The path of each kind of data; None if it was not given."""

    cifar5m: str | None = None
    cifar10: str | None = None
    dogbird: str | None = None
    made: bool = False  # cifar5m and cifar10 are made data

    @classmethod
    def make(cls, folder: Path, dogbird: str | None = None) -> "Sources":
        """Made data, written below `folder` where it is not there yet."""
        paths = {kind: str(make_pool(folder / f"made-{kind}", kind)) for kind in _POOLS}
        return cls(dogbird=dogbird, made=True, **paths)

    def missing(self, kind: Data) -> str | None:
        """Return which option to give and how to make the data, None if it was given."""
        if kind in HALVES:
            return self.missing("cifar5m")
        if kind in ("none", "teacher", "gray") or getattr(self, kind) is not None:
            return None if kind != "cifar10" else self.missing("cifar5m")
        return f"it needs {_HOW[kind]}"

    def data(self, kind: Data) -> "RunData":
        """Open the data of a kind. Raises ValueError if the store is unreadable or unfit."""
        from worlds.training.build import Data as RunData

        # CIFAR-10's test set is measured beside the pool's own.
        cifar10 = None if self._cifar10 is None else self._cifar10.test
        if kind in ("teacher", "gray"):
            return RunData.of(self._open(f"{TEACHER_PREFIX}0{':gray' * (kind == 'gray')}"))
        if kind == "dogbird":
            return _of_size(RunData.of(self._open(self.dogbird)), CROP, "--dogbird")
        if kind in HALVES:
            half = RunData.of(self._cifar5m.subset(classes=HALVES[kind]))
            return _of_size(replace(half, name=f"{half.name}, {kind}"), 32, "--data")
        pool = _of_size(RunData.of(self._cifar5m, cifar10), 32, "--data")
        name = MADE if self.made else pool.name
        if kind == "cifar5m":
            return replace(pool, name=name)
        assert self._cifar10 is not None
        return replace(pool, train=self._cifar10.train, name=f"{name}, trained on CIFAR-10")

    def labeler_accuracy(self, kind: Data) -> float | None:
        """Measured accuracy of the labeler of a generated data set, if its plan states it."""
        from worlds.formats.layout import PLAN
        from worlds.formats.plan import load_plan

        # Only a plan of cifar5m-generate may state it.
        path = getattr(self, "cifar5m" if kind in HALVES else kind)
        if path is None or not (Path(path) / PLAN).is_file():
            return None
        measured = load_plan(Path(path)).about.labeler_evaluation
        return None if measured is None else measured.accuracy

    @cached_property
    def _cifar5m(self) -> "Store":
        return self._open(self.cifar5m)

    @cached_property
    def _cifar10(self) -> "Store | None":
        return None if self.cifar10 is None else self._open(self.cifar10)

    def _open(self, path: str | None) -> "Store":
        from worlds.data.stores import open_store

        assert path is not None
        return open_store(path)


def _of_size(data: "RunData", pixels: int, option: str) -> "RunData":
    """`data`; ValueError where another data set was given, which some networks would take too."""
    height, width, _ = data.train.image_shape
    if (height, width) != (pixels, pixels):
        raise ValueError(
            f"{option} {data.name} holds images of {height} x {width}, {pixels} x {pixels} "
            "are needed"
        )
    return data


def infeasible(config: TrainConfig, data: "RunData") -> str | None:
    """Return why the data cannot feed the run, or None."""
    # A Real World takes n samples, an Ideal one a fresh sample each time.
    pool = len(data.train)
    if not config.fresh:
        if config.n > pool:
            return f"n = {config.n:,} needs a pool of that many, {data.name} has {pool:,}"
        return None
    left = (pool - (config.n if config.disjoint else 0)) * config.passes
    asked = config.steps * config.batch_size
    if asked > left:
        return (
            f"its Ideal World takes {asked:,} images, {data.name} gives {left:,} in the "
            f"{config.passes} passes allowed: give a larger pool, or take a smaller --scale"
        )
    return None


def exclusion_reason(one: Expanded, sources: Sources) -> str | None:
    """Return why an experiment cannot be run with these data, or None."""
    # Data that is not there, then data that is too small.
    reasons = [sources.missing(kind) for kind in sorted(one.kinds)]
    reasons += [
        infeasible(job.config, sources.data(job.data))
        for job in jobs_of([one])
        if not any(reasons) and job.data != "none"
    ]
    return next((reason for reason in reasons if reason is not None), None)


def make_pool(folder: Path, kind: Data) -> Path:
    """Write the made data of a kind as a pack; the same bytes every time."""
    from worlds.data.pack import write_pack
    from worlds.data.stores import ArrayStore

    # Seed and part name the random numbers: part 0 are training images, 1 test images.
    seed, train, test = _POOLS[kind]
    names = [f"made class {label}" for label in range(10)]
    store = ArrayStore(*_drawn(seed, 0, train), *_drawn(seed, 1, test), class_names=names)
    write_pack([store.train, store.test], folder)
    return folder


def _drawn(seed: int, part: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 (count, 32, 32, 3) and their labels: a class's 4 x 4 color pattern, a
    mixture with another class's, and noise.
    """
    # Patterns are the same for all pools; a pool's own are labels, mixtures and noise.
    patterns = np.random.Generator(np.random.Philox(key=[9, 9])).uniform(40, 215, (10, 4, 4, 3))
    generator = np.random.Generator(np.random.Philox(key=[seed, part]))
    labels = generator.integers(0, 10, count)
    others = generator.integers(0, 10, count)
    share = generator.uniform(0, 0.5, (count, 1, 1, 1))  # of the other class
    coarse = (1 - share) * patterns[labels] + share * patterns[others]  # (N, 4, 4, 3)
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)  # (N, 32, 32, 3)
    images += generator.normal(0, 40 + 20 * seed, images.shape)
    return images.clip(0, 255).astype(np.uint8), labels
