"""Small data and configs that train in a fraction of a second."""

from dataclasses import replace

import numpy as np

from worlds import ArrayStore
from worlds.training.build import Data
from worlds.training.config import TrainConfig

TIMINGS = ("seconds", "evaluation_seconds")


def small_data(pool=1200, test=200, classes=10):
    """Images whose brightness tells the class, with noise: learnable, not trivial."""
    rng = np.random.default_rng(0)

    def made(count):
        labels = rng.integers(0, classes, count)
        noise = rng.integers(0, 120, (count, 32, 32, 3))
        return (labels[:, None, None, None] * (130 // classes) + noise).astype(np.uint8), labels

    names = [f"class {k}" for k in range(classes)]
    return Data.of(ArrayStore(*made(pool), *made(test), class_names=names))


SMALL = TrainConfig(
    "mlp_3x16",
    n=300,
    steps=30,
    batch_size=32,
    learning_rate=0.05,
    momentum=0.9,
    unit=1,
    log=8,
    train_eval=100,
    test_eval=150,
)


def small(**changes):
    return replace(SMALL, **changes)


def numbers(run):
    """The rows without what the clock decides."""
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in run.rows]
