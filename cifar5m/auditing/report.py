"""The report of an audit: everything that was measured, and why anything was not.

    report = make_report(audit, measured, "CIFAR-10")   # written as DIR/audit/audit.json

Images are flagged and never dropped. `summary` maps each figure's name to a number or None,
`not_measured` the names of the Nones to reasons, and `details` holds what stands behind.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cifar5m.auditing.frechet import frechet_distance, moments
from cifar5m.auditing.inputs import SPLITS, Audit, Predictions
from cifar5m.auditing.labels import (
    NotMeasured,
    Opinion,
    agreement_with,
    class_table,
    histogram,
    no_second_labeling,
    second_opinion,
    suspected_errors,
    whole_labelings,
)
from cifar5m.auditing.shards import kept_features, read_facts
from cifar5m.labels.calibration import calibration
from cifar5m.shards.verify import equal_pairs
from worlds.formats.shards import read_arrays

FORMAT = 1
NEAR = 0.5  # a ratio below this flags an image (alpha of Carlini et al. 2023, section 5)
LISTED = 1000  # images that the JSON lists of a kind; the files in audit/images have them all
SPACES = ("pixel", "feature")
_QUANTILES = (0, 0.001, 0.01, 0.1, 0.5)


@dataclass(frozen=True)
class Measured:
    """Measurements beside the images' own facts."""

    predictions: dict[str, Predictions]  # of CIFAR-10 by split; empty without a labeler
    baseline: dict[str, np.ndarray]  # how near its test images are to its train split
    quality: dict[str, float | NotMeasured]


@dataclass(frozen=True)
class _Images:
    """One row for each image, in order of index."""

    facts: dict[str, np.ndarray]
    label: np.ndarray  # int64 (N,)
    probabilities: np.ndarray  # float16 (N, 10), of the dataset itself
    requested: np.ndarray | None  # int64 (N,), of a conditional generator

    @property
    def index(self) -> np.ndarray:
        return self.facts["index"]


class _Summary:
    """Collects figures, and the reasons for missing ones."""

    def __init__(self) -> None:
        self.values: dict[str, float | int | None] = {}
        self.reasons: dict[str, str] = {}

    def put(self, name: str, value: float | int | None, reason: str = "") -> None:
        self.values[name] = value
        if value is None:
            self.reasons[name] = reason


def make_report(audit: Audit, measured: Measured, cifar10_name: str) -> dict[str, Any]:
    """Return the whole report, ready for JSON."""
    # Everything about the images puts its figures into the summary.
    images, summary = _read_images(audit), _Summary()
    summary.put("images", len(images.label))
    details = {
        "duplicates": _duplicates(images, summary),
        "neighbors": _neighbors(audit, images, measured.baseline, summary),
        "classes": _classes(audit, images, summary),
        "labels": _labels(audit, images, measured.predictions, summary),
    }
    _distances(audit, measured, summary)
    # What was audited, against what, and by whom.
    splits = {
        name: {"images": len(split), "fingerprint": split.fingerprint}
        for name, split in audit.cifar10.items()
    }
    by = audit.labeler
    return {
        "format": FORMAT,
        "dataset": {
            "name": audit.folder.resolve().name,
            "fingerprint": audit.plan.fingerprint,
            "recipe": audit.plan.about.recipe,
            "distribution": audit.plan.about.distribution,
            "splits": audit.plan.splits,
            "shards_audited": len(audit.shards),
            "shards_planned": len(audit.plan.shards),
        },
        "cifar10": {"name": cifar10_name, **splits},
        "labeler": by and {"source": by.source, "sha256": by.sha256},
        "summary": summary.values,
        "not_measured": summary.reasons,
        "details": details,
    }


def _read_images(audit: Audit) -> _Images:
    facts = [read_facts(audit.out, shard) for shard in audit.shards]
    sides = [read_arrays(audit.folder, shard) for shard in audit.shards]
    assert all(facts), "only shards that were examined are audited"
    requested = [side.requested for side in sides if side.requested is not None]
    return _Images(
        {name: np.concatenate([p[name] for p in facts]) for name in facts[0] if name != "key"},
        np.concatenate([side.label for side in sides]),
        np.concatenate([side.probabilities for side in sides]),
        np.concatenate(requested) if len(requested) == len(sides) else None,
    )


def _duplicates(images: _Images, summary: _Summary) -> list[dict[str, int]]:
    later, earlier = equal_pairs(images.index, images.facts["digest"])  # int64 (M,) each
    summary.put("duplicates", len(later))
    pairs = zip(later[:LISTED].tolist(), earlier[:LISTED].tolist(), strict=True)
    return [{"index": index, "equal_to": other} for index, other in pairs]


def _neighbors(
    audit: Audit, images: _Images, baseline: dict[str, np.ndarray], summary: _Summary
) -> dict[str, Any]:
    """Return by space and split how near the images are, and the nearest of them."""
    found = {}
    for space in SPACES:
        for split in SPLITS:
            name = f"{space}_{split}"
            if f"{name}_ratio" not in images.facts:
                summary.put(f"near_{split}_{space}", None, audit.no_labeler)
                continue
            ratio = images.facts[f"{name}_ratio"]  # (N,)
            distance = images.facts[f"{name}_distance"]
            if space == "pixel":
                summary.put(f"copies_of_{split}", int((distance == 0).sum()))
            summary.put(f"near_{split}_{space}", int((ratio < NEAR).sum()))
            # The closest by ratio; of equal ones by distance, then by index.
            order = np.lexsort((images.index, distance, ratio))[:LISTED]
            labels = audit.cifar10[split].clean_labels
            closest = list(_pairs(images, name, labels, order))
            found[name] = _nearness(distance, ratio) | {"closest": closest}
    # How near CIFAR-10's own test images are to its train split, for comparison.
    found["baseline"] = {
        space: _nearness(baseline[f"{space}_distance"], baseline[f"{space}_ratio"])
        | {"photographs": len(baseline[f"{space}_ratio"])}
        for space in SPACES
        if f"{space}_ratio" in baseline
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
    images: _Images, name: str, labels: np.ndarray, order: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Yield the rows of `order`, each beside its nearest reference image."""
    for row in order.tolist():
        nearest = int(images.facts[f"{name}_index"][row])
        yield {
            "index": int(images.index[row]),
            "label": int(images.label[row]),
            "photograph": nearest,
            "photograph_label": int(labels[nearest]),
            "distance": float(images.facts[f"{name}_distance"][row]),
            "ratio": float(images.facts[f"{name}_ratio"][row]),
        }


def _classes(audit: Audit, images: _Images, summary: _Summary) -> dict[str, Any]:
    confidence = images.probabilities.max(1).astype(np.float64)  # (N,)
    known = audit.plan.probabilities != "one-hot"
    reason = "the labels came without probabilities"
    summary.put("mean_confidence", float(confidence.mean()) if known else None, reason)
    summary.put("share_below_half", float((confidence < 0.5).mean()) if known else None, reason)
    # Hard labels have no confidence to report.
    table = class_table(images.label, confidence, audit.plan.class_names)
    if not known:
        table = [row | {"mean_confidence": None} for row in table]
    shares = [row["share"] for row in table]
    summary.put("smallest_class_share", min(shares))
    summary.put("largest_class_share", max(shares))
    counts = histogram(confidence, 20) if known else None
    return {"table": table, "confidence_histogram": counts}


def _labels(
    audit: Audit, images: _Images, predictions: dict[str, Predictions], summary: _Summary
) -> dict[str, Any]:
    # Second labelings against the first.
    labelings = whole_labelings(audit)
    found: dict[str, Any] = {
        "agreement": {name: agreement_with(audit, name) for name in labelings},
        "calibration": None,
        "suspected": None,
    }
    rates = [each["agreement"] for each in found["agreement"].values()]
    summary.put("labeler_agreement", min(rates, default=None), no_second_labeling(audit.folder))
    if images.requested is not None:
        found["requested"] = _requested(audit, images, summary)

    # Accuracy and calibration on the reference images.
    if predictions:
        labels = audit.cifar10["test"].clean_labels
        found["calibration"] = calibration(predictions["test"].probabilities, labels)
    for name in ("accuracy", "expected_calibration_error"):
        value = found["calibration"] and found["calibration"][name]
        summary.put(f"labeler_cifar10_{name}", value, audit.no_labeler)

    # Labels that look wrong to confident learning, by a second opinion.
    try:
        opinion = second_opinion(audit, labelings, _judge(audit, images))
        rows = suspected_errors(images.label, opinion)
    except NotMeasured as reason:
        summary.put("suspected_label_errors", None, str(reason))
        return found
    summary.put("suspected_label_errors", len(rows))
    worst = list(_suspects(images, opinion, rows[:LISTED]))
    found["suspected"] = {"held_against": opinion.whose, "worst": worst}
    return found


def _judge(audit: Audit, images: _Images) -> Opinion | None:
    """Return the probabilities of a labeler that did not give the labels, None if there is none."""
    by = audit.labeler
    if by is not None and by.sha256 != audit.plan.labeler_sha256:
        return Opinion(images.facts["probabilities"], f"the labeler {by.source}")
    if audit.plan.labels == "requested":
        return Opinion(images.probabilities, "the labeler of the set itself")
    return None


def _requested(audit: Audit, images: _Images, summary: _Summary) -> list[dict[str, Any]]:
    """Return by requested class how often the dataset's labeler finds it."""
    assert images.requested is not None
    right = images.probabilities.argmax(axis=1) == images.requested
    summary.put("requested_agreement", float(right.mean()))
    table = class_table(images.requested, right.astype(np.float64), audit.plan.class_names)
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


def _distances(audit: Audit, measured: Measured, summary: _Summary) -> None:
    """Put Frechet distances in the labeler's features, and the figures of well-known networks."""
    names = ("frechet_labeler", "frechet_labeler_of_cifar10_test")
    if not measured.predictions:
        for name in names:
            summary.put(name, None, audit.no_labeler)
    else:
        train, test = (moments([measured.predictions[s].features]) for s in ("train", "test"))
        try:
            summary.put(names[0], frechet_distance(moments(kept_features(audit)), train))
        except ValueError as error:  # fewer than two images
            summary.put(names[0], None, str(error))
        summary.put(names[1], frechet_distance(test, train))
    for name, value in measured.quality.items():
        if isinstance(value, NotMeasured):
            summary.put(name, None, str(value))
        else:
            summary.put(name, value)
    summary.put(
        "classification_accuracy_score",
        None,
        "an experiment of its own: worlds-train on this set, tested on CIFAR-10",
    )
