"""Sample sheets (figures 19 to 21): some images of a data set, drawn as a Real World's are.

    run_sheet(folder, config_of(100), data, accuracy)

A sheet is a run that trains nothing: its folder holds config.json, one row and summary.json as
every run's, and images.npy and labels.npy, sorted by class, for the report.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from worlds.data.splits import Split
from worlds.experiments.linear_regression import write_finished
from worlds.loaders.samplers import subset
from worlds.runtime.files import atomic_write
from worlds.training.config import TrainConfig

if TYPE_CHECKING:
    from worlds.training.build import Data

ARCH: Final = "sample_sheet"
IMAGES: Final = "images.npy"
LABELS: Final = "labels.npy"


def config_of(images: int, trial: int = 0) -> TrainConfig:
    """Return the run's description: so many images of a training split."""
    return TrainConfig(ARCH, n=images, steps=1, batch_size=images, augment=None, trial=trial, log=1)


def run_sheet(
    folder: Path, config: TrainConfig, data: "Data", labeler_accuracy: float | None
) -> Path:
    """Write the training split's sheet; `labeler_accuracy` is of the network that labeled it."""
    split = data.train
    assert isinstance(split, Split)  # of images, as every source of experiments
    # A Real World's samples, by class.
    chosen = subset(len(split), min(config.n, len(split)), *config.stream("data"))
    chosen = chosen[np.argsort(split.labels[chosen], kind="stable")]
    for file, array in ((IMAGES, split.gather(chosen)), (LABELS, split.labels[chosen])):
        with atomic_write(folder / file) as stream:
            np.save(stream, array)
    # What the report checks.
    shares = np.bincount(split.labels, minlength=len(split.class_names)) / len(split)  # (K,)
    row: dict[str, Any] = {
        "classes_shown": float(len(np.unique(split.labels[chosen]))),
        "largest_class": float(shares.max()),
    }
    if labeler_accuracy is not None:
        row["labeler_accuracy"] = labeler_accuracy
    # All facts, as of a trained run: the same command again compares them.
    return write_finished(folder, config, [row], data.describe())
