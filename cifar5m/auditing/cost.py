"""The cost of an audit on a device, from a few hundred images: `cifar5m-audit --dry-run`."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cifar5m.auditing.inputs import Audit, open_audit, predict, unlabeled
from cifar5m.auditing.neighbors import feature_reference, pixel_reference
from cifar5m.auditing.shards import FEATURE_IMAGES, baseline_path, baseline_rows, is_examined

_QUERIES = 256
# Of an image: index and digest; index, distance and ratio in both splits, a space; probabilities.
_FACTS_BYTES, _SPACE_BYTES, _PROBABILITIES_BYTES = 8 + 16, 2 * 12, 2 * 10
_REFERENCE_BYTES = 4 * 10  # the probabilities of a reference image


def measure_audit(**parameters: Any) -> Iterator[str]:
    """Yield lines on what is left to do and how long it takes, by a few hundred images.

    The parameters are those of `audit`; what does not change the cost is ignored.
    """
    audit = open_audit(**parameters)
    # What is left.
    left = sum(len(shard) for shard in audit.shards if not is_examined(audit, shard))
    total, waiting = sum(map(len, audit.cifar10.values())), unlabeled(audit)
    searched = 0 if baseline_path(audit).is_file() else len(baseline_rows(audit))

    # How long it takes, and how much it writes.
    pixel, label, feature, width = _measure(audit)
    seconds = left * (pixel + label + feature) + waiting * label + searched * (pixel + feature)
    size = audit.images * (_FACTS_BYTES + _SPACE_BYTES)
    if audit.labeler:
        size += audit.images * (_SPACE_BYTES + _PROBABILITIES_BYTES)
        size += 4 * width * (min(audit.images, FEATURE_IMAGES) + total) + total * _REFERENCE_BYTES
    operations = 2.0 * total * float(np.prod(audit.cifar10["train"].image_shape))
    rows = {
        "images": f"{audit.images:,} in {len(audit.shards):,} finished shards, "
        f"{left:,} not examined yet",
        "reference": f"{total:,}" + (f", {waiting:,} not labeled yet" if audit.labeler else ""),
        "pixel search": f"{1 / pixel:,.0f} images/s, {operations:.3g} operations an image",
        "labeler": f"{1 / label:,.0f} images/s" if audit.labeler else "none",
        "feature search": f"{1 / feature:,.0f} images/s" if audit.labeler else "none",
        "time": f"{seconds / 3600:,.2f} h on {audit.device} for what is left",
        "disk": f"{size / 1e6:,.1f} MB in {audit.out}",
    }
    yield from (f"{name:15} {value}" for name, value in rows.items())


def _measure(audit: Audit) -> tuple[float, float, float, int]:
    """Return seconds an image of pixel search, labeler and feature search, and feature width.

    Searches 256 images in a part of CIFAR-10 (16,384 images, a tile; the search takes time in
    proportion to it) and labels one batch. Without a labeler the other figures are 0.
    """
    train = audit.cifar10["train"]
    part = train.gather(np.arange(min(len(train), 16_384)))  # (N, H, W, 3)
    times = sum(map(len, audit.cifar10.values())) / len(part) / _QUERIES
    queries = np.resize(part, (_QUERIES, *part.shape[1:]))
    pixels = pixel_reference(part, audit.device)
    pixel = times * _seconds(lambda: pixels.nearest(queries))
    if audit.labeler is None:
        return pixel, 0.0, 0.0, 0
    by = audit.labeler
    batch = np.resize(part, (by.labeler.batch, *part.shape[1:]))
    label = _seconds(lambda: predict(by, batch)) / len(batch)
    # Random vectors take the search as long as features do.
    width = predict(by, batch[:1]).features.shape[1]
    rows = np.random.default_rng(0).normal(size=(len(part), width)).astype(np.float32)
    features = feature_reference(rows, audit.device)
    return pixel, label, times * _seconds(lambda: features.nearest(rows[:_QUERIES])), width


def _seconds(call: Callable[[], object]) -> float:
    """Return the wall time of the second of two calls, whose results are on the host."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
