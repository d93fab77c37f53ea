"""Sample sheets (figures 19 to 21): some images of a data set, drawn as a Real World's are.

    run_sheet(folder, config_of(trial=0), split, accuracy)

A sheet is a run that trains nothing: its folder holds config.json, one row and summary.json as
every run's, and images.npy and labels.npy, sorted by class, for the report.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from worlds.data.splits import Split
from worlds.experiments.linear_regression import write_finished
from worlds.loaders.samplers import subset
from worlds.runtime.files import atomic_write
from worlds.training.config import TrainConfig

ARCH: Final = "sample_sheet"
IMAGES: Final = "images.npy"
LABELS: Final = "labels.npy"


def config_of(images: int, trial: int = 0) -> TrainConfig:
    """The run's description: so many images of a training split."""
    return TrainConfig(ARCH, n=images, steps=1, batch_size=images, augment=None, trial=trial, log=1)


def run_sheet(
    folder: Path, config: TrainConfig, split: Split, name: str, labeler_accuracy: float | None
) -> Path:
    """Write the sheet of a split; `labeler_accuracy` is that of the network that labeled it."""
    chosen = subset(len(split), min(config.n, len(split)), *config.stream("data"))
    chosen = chosen[np.argsort(split.labels[chosen], kind="stable")]
    for file, array in ((IMAGES, split.gather(chosen)), (LABELS, split.labels[chosen])):
        with atomic_write(folder / file) as stream:
            np.save(stream, array)
    shares = np.bincount(split.labels, minlength=len(split.class_names)) / len(split)
    row: dict[str, Any] = {
        "classes_shown": float(len(np.unique(split.labels[chosen]))),
        "largest_class": float(shares.max()),
    }
    if labeler_accuracy is not None:
        row["labeler_accuracy"] = labeler_accuracy
    data: dict[str, Any] = {"name": name, "train": split.fingerprint, "test": None}
    data |= {"classes": list(split.class_names), "pool": len(split)}
    return write_finished(folder, config, [row], data, 0)
