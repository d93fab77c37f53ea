"""The audit of a dataset folder: one report of everything that was measured, and why what is
missing is missing.

    report = make_report(subject, photographs, measured)   # written as DIR/audit/audit.json

Images are flagged and never dropped. `summary` maps each figure's name to a number or None,
`not_measured` the names of the Nones to reasons, and `details` holds what stands behind.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifar5m.auditing.frechet import frechet_distance, moments
from cifar5m.auditing.labels import (
    NotMeasured,
    Opinion,
    agreements,
    class_table,
    histogram,
    no_second_labeling,
    second_opinion,
    suspected_errors,
)
from cifar5m.auditing.reference import SPLITS, Judge, Seen
from cifar5m.auditing.shards import kept_features, read_facts
from cifar5m.labels.calibration import calibration
from cifar5m.shards.verify import equal_pairs
from worlds.data.splits import Split
from worlds.formats.layout import Shard
from worlds.formats.plan import Plan
from worlds.formats.shards import read_arrays

FORMAT = 1
NEAR = 0.5  # a ratio below this flags an image (alpha of Carlini et al. 2023, section 5)
LISTED = 1000  # images that the JSON lists of a kind; the files in audit/images have them all
SPACES = ("pixel", "feature")
_QUANTILES = (0, 0.001, 0.01, 0.1, 0.5)


@dataclass(frozen=True)
class Subject:
    """The dataset that is audited, as far as its shards were examined."""

    folder: Path
    audit: Path
    plan: Plan
    shards: list[Shard]
    planned: int  # shards of the plan
    cifar10_name: str = "CIFAR-10"  # what the report calls the photographs

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.plan.class_names


@dataclass(frozen=True)
class Measured:
    """Measurements beside the images' own facts.

    `seen` has the labeler's view of CIFAR-10 by split; `baseline` how near its test photographs
    are to its train split (auditing/shards.py). `quality` has figures or the reason why not.
    """

    judge: Judge | None
    no_judge: str  # the reason, where there is none
    seen: dict[str, Seen]
    baseline: dict[str, np.ndarray]
    quality: dict[str, float | NotMeasured]


@dataclass(frozen=True)
class _Images:
    """One row for each image, in order of index."""

    facts: dict[str, np.ndarray]
    label: np.ndarray
    probabilities: np.ndarray  # of the set itself
    requested: np.ndarray | None  # classes that a conditional generator was asked for

    @property
    def index(self) -> np.ndarray:
        return self.facts["index"]


class _Summary:
    """Collects figures, and reasons where there are none."""

    def __init__(self) -> None:
        self.values: dict[str, float | int | None] = {}
        self.reasons: dict[str, str] = {}

    def put(self, name: str, value: float | int | None, reason: str = "") -> None:
        self.values[name] = value
        if value is None:
            self.reasons[name] = reason


def make_report(
    subject: Subject, photographs: dict[str, Split], measured: Measured
) -> dict[str, Any]:
    """The whole report, ready for JSON."""
    images = _read_images(subject)
    summary = _Summary()
    summary.put("images", len(images.label))
    details = {
        "duplicates": _duplicates(images, summary),
        "neighbours": _neighbours(images, photographs, measured, summary),
        "classes": _classes(images, subject, summary),
        "labels": _labels(images, subject, photographs, measured, summary),
    }
    _distances(subject, measured, summary)
    return {
        "format": FORMAT,
        "dataset": _dataset(subject),
        "cifar10": {"name": subject.cifar10_name}
        | {
            name: {"images": len(split), "fingerprint": split.fingerprint}
            for name, split in photographs.items()
        },
        "labeler": measured.judge
        and {"source": measured.judge.source, "sha256": measured.judge.sha256},
        "summary": summary.values,
        "not_measured": summary.reasons,
        "details": details,
    }


def _read_images(subject: Subject) -> _Images:
    facts = [read_facts(subject.audit, shard) for shard in subject.shards]
    sides = [read_arrays(subject.folder, shard) for shard in subject.shards]
    assert all(facts), "only shards that were examined are audited"
    joined = {name: np.concatenate([p[name] for p in facts]) for name in facts[0] if name != "key"}
    requested = [side.requested for side in sides if side.requested is not None]
    return _Images(
        joined,
        np.concatenate([side.label for side in sides]),
        np.concatenate([side.probabilities for side in sides]),
        np.concatenate(requested) if len(requested) == len(sides) else None,
    )


def _dataset(subject: Subject) -> dict[str, Any]:
    return {
        "name": subject.folder.resolve().name,
        "fingerprint": subject.plan.fingerprint,
        "recipe": subject.plan.about.recipe,
        "distribution": subject.plan.about.distribution,
        "splits": subject.plan.splits,
        "shards_audited": len(subject.shards),
        "shards_planned": subject.planned,
    }


def _duplicates(images: _Images, summary: _Summary) -> list[dict[str, int]]:
    later, earlier = equal_pairs(images.index, images.facts["digest"])
    summary.put("duplicates", len(later))
    pairs = zip(later[:LISTED].tolist(), earlier[:LISTED].tolist(), strict=True)
    return [{"index": index, "equal_to": other} for index, other in pairs]


def _neighbours(
    images: _Images, photographs: dict[str, Split], measured: Measured, summary: _Summary
) -> dict[str, Any]:
    """By space and split: how near the images are, and the nearest of them."""
    found = {}
    for space in SPACES:
        for split in SPLITS:
            name = f"{space}_{split}"
            if f"{name}_ratio" not in images.facts:
                summary.put(f"near_{split}_{space}", None, measured.no_judge)
                continue
            ratio = images.facts[f"{name}_ratio"]
            distance = images.facts[f"{name}_distance"]
            if space == "pixel":
                summary.put(f"copies_of_{split}", int((distance == 0).sum()))
            summary.put(f"near_{split}_{space}", int((ratio < NEAR).sum()))
            order = np.lexsort((images.index, distance, ratio))[:LISTED]
            closest = list(_pairs(images, name, photographs[split], order))
            found[name] = _nearness(distance, ratio) | {"closest": closest}
    base = measured.baseline
    found["baseline"] = {
        space: _nearness(base[f"{space}_distance"], base[f"{space}_ratio"])
        | {"photographs": len(base[f"{space}_ratio"])}
        for space in SPACES
        if f"{space}_ratio" in base
    }
    return found


def _nearness(distance: np.ndarray, ratio: np.ndarray) -> dict[str, Any]:
    return {
        "near_share": float((ratio < NEAR).mean()),
        "distance_quantiles": _quantiles(distance),
        "ratio_quantiles": _quantiles(ratio),
        "ratio_histogram": histogram(ratio, 50),
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    found = np.quantile(values, _QUANTILES)
    return {f"{q:g}": float(value) for q, value in zip(_QUANTILES, found, strict=True)}


def _pairs(
    images: _Images, name: str, photographs: Split, order: np.ndarray
) -> Iterator[dict[str, Any]]:
    for row in order.tolist():
        photograph = int(images.facts[f"{name}_index"][row])
        yield {
            "index": int(images.index[row]),
            "label": int(images.label[row]),
            "photograph": photograph,
            "photograph_label": int(photographs.clean_labels[photograph]),
            "distance": float(images.facts[f"{name}_distance"][row]),
            "ratio": float(images.facts[f"{name}_ratio"][row]),
        }


def _classes(images: _Images, subject: Subject, summary: _Summary) -> dict[str, Any]:
    confidence = images.probabilities.max(1).astype(np.float64)
    known = subject.plan.probabilities != "one-hot"
    reason = "the labels came without probabilities"
    summary.put("mean_confidence", float(confidence.mean()) if known else None, reason)
    summary.put("share_below_half", float((confidence < 0.5).mean()) if known else None, reason)
    table = class_table(images.label, confidence, subject.class_names)
    if not known:
        table = [row | {"mean_confidence": None} for row in table]
    shares = [row["share"] for row in table]
    summary.put("smallest_class_share", min(shares))
    summary.put("largest_class_share", max(shares))
    counts = histogram(confidence, 20) if known else None
    return {"table": table, "confidence_histogram": counts}


def _labels(
    images: _Images,
    subject: Subject,
    photographs: dict[str, Split],
    measured: Measured,
    summary: _Summary,
) -> dict[str, Any]:
    found: dict[str, Any] = {"agreement": {}, "calibration": None, "suspected": None}
    found["agreement"] = agreements(subject.folder, subject.shards, subject.class_names)
    # Second labelings against the first.
    rates = [each["agreement"] for each in found["agreement"].values()]
    summary.put(
        "labeler_agreement",
        min(rates, default=None),
        no_second_labeling(subject.folder),
    )
    if images.requested is not None:
        found["requested"] = _requested(images, subject, summary)
    # A second opinion: the labeler of the audit where it is another than the dataset's.
    judge = None
    if subject.plan.labels == "requested":
        judge = Opinion(images.probabilities, "the labeler of the set itself")
    if measured.judge is not None:
        test = measured.seen["test"]
        found["calibration"] = calibration(test.probabilities, photographs["test"].clean_labels)
        if measured.judge.sha256 != subject.plan.labeler_sha256:
            judge = Opinion(images.facts["probabilities"], f"the labeler {measured.judge.source}")
    # Accuracy and calibration on the reference images.
    for name in ("accuracy", "expected_calibration_error"):
        value = found["calibration"] and found["calibration"][name]
        summary.put(f"labeler_cifar10_{name}", value, measured.no_judge)
    # Labels that look wrong to confident learning.
    try:
        opinion = second_opinion(subject.folder, subject.shards, judge)
        rows = suspected_errors(images.label, opinion)
    except NotMeasured as reason:
        summary.put("suspected_label_errors", None, str(reason))
        return found
    summary.put("suspected_label_errors", len(rows))
    found["suspected"] = {
        "held_against": opinion.whose,
        "worst": list(_suspects(images, opinion, rows[:LISTED])),
    }
    return found


def _requested(images: _Images, subject: Subject, summary: _Summary) -> list[dict[str, Any]]:
    """By requested class: how often the set's labeler finds it."""
    assert images.requested is not None
    right = images.probabilities.argmax(axis=1) == images.requested
    summary.put("requested_agreement", float(right.mean()))
    table = class_table(images.requested, right.astype(np.float64), subject.class_names)
    return [
        {"name": row["name"], "count": row["count"], "agreement": row["mean_confidence"]}
        for row in table
    ]


def _suspects(images: _Images, opinion: Opinion, rows: np.ndarray) -> Iterator[dict[str, Any]]:
    for row in rows.tolist():
        probabilities = opinion.probabilities[row]
        label = int(images.label[row])
        yield {
            "index": int(images.index[row]),
            "label": label,
            "suggested": int(probabilities.argmax()),
            "probability_of_label": float(probabilities[label]),
            "probability_of_suggested": float(probabilities.max()),
        }


def _distances(subject: Subject, measured: Measured, summary: _Summary) -> None:
    """Frechet distances in the labeler's features, and the figures of well-known networks."""
    names = ("frechet_labeler", "frechet_labeler_of_cifar10_test")
    if measured.judge is None:
        for name in names:
            summary.put(name, None, measured.no_judge)
    else:
        train = moments([measured.seen["train"].features])
        found = kept_features(subject.audit, subject.shards), [measured.seen["test"].features]
        for name, features in zip(names, found, strict=True):
            try:
                summary.put(name, frechet_distance(moments(features), train))
            except ValueError as error:
                summary.put(name, None, str(error))
    for name, value in measured.quality.items():
        measurable = not isinstance(value, NotMeasured)
        summary.put(name, value if measurable else None, str(value))  # type: ignore[arg-type]
    summary.put(
        "classification_accuracy_score",
        None,
        "an experiment of its own: worlds-train on this set, tested on CIFAR-10",
    )
