"""The audit of labels: how many, how sure, how well calibrated, and which look wrong."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from cifar5m.auditing.inputs import Audit
from cifar5m.labels.agreement import compare
from cifar5m.labels.labeling import (
    LABELS_FOLDER,
    Labeling,
    LabelingPlan,
    is_labeled,
    labeling_names,
)
from worlds.formats.plan import load_plan
from worlds.formats.shards import read_arrays


class NotMeasured(Exception):
    """A figure could not be measured; the message is the reason, for a reader of the report."""


@dataclass(frozen=True)
class Opinion:
    """Class probabilities of every image, float (N, 10), and whose they are."""

    probabilities: np.ndarray
    whose: str


def class_table(
    labels: np.ndarray, confidence: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return count, share and mean confidence of each class; the mean is None for a class without
    images.
    """
    # Classes without images are listed too.
    counts = np.bincount(labels, minlength=len(names))
    sums = np.bincount(labels, weights=confidence, minlength=len(names))
    return [
        {
            "name": name,
            "count": int(count),
            "share": count / len(labels),
            "mean_confidence": total / count if count else None,
        }
        for name, count, total in zip(names, counts.tolist(), sums.tolist(), strict=True)
    ]


def histogram(values: np.ndarray, bins: int) -> list[int]:
    """Count images by a value, in equal bins from 0 to 1."""
    return np.histogram(np.minimum(values, 1), bins, (0, 1))[0].tolist()


def whole_labelings(audit: Audit) -> list[str]:
    """Return the second labelings that are intact and have all audited shards."""
    found = []
    for name in labeling_names(audit.folder):
        try:
            plan = load_plan(audit.folder / LABELS_FOLDER / name, LabelingPlan)
        except ValueError:
            continue  # no_second_labeling says so
        labeling = Labeling(audit.folder, name, plan)
        if all(is_labeled(labeling, shard) for shard in audit.shards):
            found.append(name)
    return found


def agreement_with(audit: Audit, name: str) -> dict[str, Any]:
    """Return the agreement of a second labeling with the first."""
    place, names = audit.folder / LABELS_FOLDER / name, audit.plan.class_names
    found: dict[str, Any] = msgspec.to_builtins(
        compare(audit.folder, place, audit.shards, names).summary()
    )
    return found


def no_second_labeling(folder: Path) -> str:
    """Return why there is no whole second labeling, and what to do."""
    names = labeling_names(folder)
    if names:
        return f"labels/{names[0]} is damaged or not complete: run its cifar5m-label again"
    return f"there is no second labeling: cifar5m-label {folder} --labeler OTHER"


def second_opinion(audit: Audit, labelings: list[str], judge: Opinion | None) -> Opinion:
    """Return the probabilities that labels are held against: of the last of the second labelings,
    else of `judge`, the audit's labeler if it is another than the dataset's.

    Raises NotMeasured without either: the probabilities that gave the labels never disagree with
    them.
    """
    if labelings:
        place = audit.folder / LABELS_FOLDER / labelings[-1]
        parts = [read_arrays(place, shard).probabilities for shard in audit.shards]
        return Opinion(np.concatenate(parts), f"the second labeling {labelings[-1]}")
    if judge is None:
        raise NotMeasured(
            f"it takes a second opinion: cifar5m-label {audit.folder} --labeler OTHER, then this "
            "again"
        )
    return judge


def suspected_errors(labels: np.ndarray, opinion: Opinion) -> np.ndarray:
    """Return the images whose labels look wrong to cleanlab's confident learning, the worst first:
    int64 rows.

    Northcutt et al. (2021). Raises NotMeasured if cleanlab is not installed or cannot use the
    probabilities.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise NotMeasured(
            "cleanlab is not installed: pip install 'deep-bootstrap[audit]'"
        ) from error
    probabilities = opinion.probabilities.astype(np.float64)  # (N, 10)
    probabilities /= probabilities.sum(1, keepdims=True)
    # cleanlab wants every class to occur, numbered without gaps.
    present, dense = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        raise NotMeasured("all labels are of one class")
    kept = probabilities[:, present]
    kept /= np.maximum(kept.sum(1, keepdims=True), np.finfo(np.float64).tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with few images, one line each
        rows = find_label_issues(dense, kept, return_indices_ranked_by="self_confidence", n_jobs=1)
    return np.asarray(rows, dtype=np.int64)
