"""Audit the images shard by shard; what is saved is not computed again.

    AUDIT/images/{split}-{k:05d}.npz       one row an image
    AUDIT/work/features-{split}-{k:05d}.npz   labeler features of the first 50,000 images

The arrays of an image file are `index` int64, `digest` uint64 (N, 2) (equal for equal pixels),
and for each space (pixel, feature) and CIFAR-10 split (train, test) `{space}_{split}_index` int32,
`_distance` and `_ratio` float32: the nearest reference image, its distance, and that as a share of
the mean of the 50 nearest (auditing/neighbors.py). `probabilities` float16 (N, 10) are those of
the audit's labeler.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from cifar5m.auditing.inputs import (
    MOST_BYTES,
    WORK,
    Audit,
    AuditLabeler,
    Predictions,
    pixels_of,
    predict,
    read_npz,
    save_npz,
)
from cifar5m.auditing.neighbors import Reference, feature_reference, pixel_reference
from cifar5m.labels.relabel import read_ahead
from cifar5m.shards.check import check_arrays, pixel_digest
from worlds.formats.layout import Shard
from worlds.formats.npz import load_npz
from worlds.formats.shards import find_record, is_finished
from worlds.runtime.progress import Phase

IMAGES = "images"
FEATURE_IMAGES = 50_000  # whose features are kept: the size that Frechet distances are taken at
_CHUNK = 500  # images between two reports of progress, about

References = Mapping[tuple[str, str], Reference]  # by space (pixel, feature) and CIFAR-10 split


def make_references(audit: Audit, predictions: Mapping[str, Predictions]) -> References:
    """Load the images and the features of CIFAR-10 onto the device, ready to be searched."""
    references: dict[tuple[str, str], Reference] = {}
    for name, split in audit.cifar10.items():
        references["pixel", name] = pixel_reference(pixels_of(split), audit.device)
        if name in predictions:
            features = predictions[name].features
            references["feature", name] = feature_reference(features, audit.device)
    return references


def examine_shards(audit: Audit, references: References) -> dict[Shard, str]:
    """Examine what was not examined before; return which shards were left out, and why."""
    # Shards whose side files are damaged are not read.
    damaged = {shard: find_damage(audit, shard) for shard in audit.shards}
    problems = {shard: problem for shard, problem in damaged.items() if problem is not None}
    shards = [shard for shard in audit.shards if shard not in problems]
    waiting = [shard for shard in shards if not is_examined(audit, shard)]
    phase = Phase.of("examine", shards, waiting, audit.on_progress)
    for shard, read in read_ahead(audit.folder, waiting):
        if isinstance(read, str):
            problems[shard] = f"{shard.tar}: {read}"
            continue
        key = np.array(_key(audit, read.sha256))
        found = _examine(audit.labeler, read.images, references, phase)
        # The facts are written last: with them the shard counts as examined.
        features = found.pop("features", None)
        if features is not None and shard.start < FEATURE_IMAGES:
            kept = features[: FEATURE_IMAGES - shard.start]
            save_npz(_features_path(audit, shard), {"key": key, "features": kept})
        index = np.arange(shard.start, shard.stop)
        save_npz(_facts_path(audit.out, shard), {"key": key, "index": index, **found})
    return problems


def _examine(
    by: AuditLabeler | None, images: np.ndarray, references: References, phase: Phase
) -> dict[str, np.ndarray]:
    """Return the arrays of uint8 (N, H, W, 3) images, and `features` float32 (N, F)."""
    batch = by.labeler.batch if by else 1
    step = -(-_CHUNK // batch) * batch  # whole batches, because the last one is padded full
    parts = []
    for start in range(0, len(images), step):
        chunk = images[start : start + step]
        parts.append(_examine_chunk(by, chunk, references))
        phase(len(chunk))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _examine_chunk(
    by: AuditLabeler | None, images: np.ndarray, references: References
) -> dict[str, np.ndarray]:
    # Pixels are compared as they are, features as the labeler sees them.
    digests = b"".join(pixel_digest(image) for image in images)
    found = {"digest": np.frombuffer(digests, np.uint64).reshape(-1, 2)}
    queries = {"pixel": images}  # uint8 (N, H, W, 3), or float32 (N, F)
    if by is not None:
        predicted = predict(by, images)
        queries["feature"] = found["features"] = predicted.features
        found["probabilities"] = predicted.probabilities.astype(np.float16)
    # Only the nearest is kept, and how it compares with the 50 nearest.
    for (space, split), reference in references.items():
        near = reference.nearest(queries[space])
        name = f"{space}_{split}"
        found[f"{name}_index"] = near.index[:, 0].astype(np.int32)
        found[f"{name}_distance"] = near.distance[:, 0]
        found[f"{name}_ratio"] = near.ratio
    return found


def measure_baseline(
    audit: Audit, references: References, predictions: Mapping[str, Predictions]
) -> dict[str, np.ndarray]:
    """Search CIFAR-10's own test images in its train split: what an unseen image looks like.

    The result has `{space}_distance` and `{space}_ratio`, float32 (N,), and is saved.
    """
    test, rows = audit.cifar10["test"], baseline_rows(audit)
    queries = {"pixel": pixels_of(test)[rows]}
    if predictions:
        queries["feature"] = predictions["test"].features[rows]
    names = [f"{space}_{what}" for space in queries for what in ("distance", "ratio")]
    kept = read_npz(baseline_path(audit))
    is_known, total = set(names) <= set(kept), len(rows) * len(queries)
    phase = Phase("baseline", total, audit.on_progress, total if is_known else 0)
    if is_known:
        return {name: kept[name] for name in names}

    # Search in chunks, and keep what was found.
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for space, images in queries.items():
        for start in range(0, len(images), _CHUNK):
            chunk = images[start : start + _CHUNK]
            near = references[space, "train"].nearest(chunk)
            found[f"{space}_distance"].append(near.distance[:, 0])
            found[f"{space}_ratio"].append(near.ratio)
            phase(len(chunk))
    arrays = {name: np.concatenate(parts) for name, parts in found.items()}
    save_npz(baseline_path(audit), arrays)
    return arrays


def baseline_rows(audit: Audit) -> np.ndarray:
    """Return the test images of the baseline, evenly spaced: as many as are audited, at least 1,000
    if there are so many; more would cost more than the question.
    """
    test = len(audit.cifar10["test"])
    count = min(test, max(audit.images, 1_000))
    return np.arange(count) * test // count


def baseline_path(audit: Audit) -> Path:
    """Return the file of a baseline; its name says what it was measured with."""
    return audit.out / WORK / f"baseline-{audit.key[:16]}-{len(baseline_rows(audit))}.npz"


def is_examined(audit: Audit, shard: Shard) -> bool:
    """Return whether a shard's results exist for this audit and the recorded tar."""
    record = find_record(audit.folder, shard)
    files = [_facts_path(audit.out, shard)]
    if audit.labeler is not None and shard.start < FEATURE_IMAGES:
        files.append(_features_path(audit, shard))
    key = _key(audit, record.sha256 if record else None)
    return all(str(read_npz(path).get("key")) == key for path in files)


def find_damage(audit: Audit, shard: Shard) -> str | None:
    """Return what is wrong with the side file or tar size of a recorded shard, or None.

    The tar is hashed when it is examined.
    """
    problems = check_arrays(audit.folder, shard, audit.plan)[1]
    if problems:
        return f"{problems[0].path}: {problems[0].message}"
    if not is_finished(audit.folder, shard, audit.plan.fingerprint):
        return f"{shard.tar} is missing, or has not the bytes that its record says"
    return None


def _key(audit: Audit, sha256: str | None) -> str:
    """Return the cache key: tar sha256 and comparison settings."""
    return f"{sha256} {audit.key}"


def read_facts(out: Path, shard: Shard) -> dict[str, np.ndarray]:
    """Load the arrays of one shard; none if they are missing or damaged."""
    return read_npz(_facts_path(out, shard))


def _facts_path(out: Path, shard: Shard) -> Path:
    return out / IMAGES / f"{shard.name}.npz"


def _features_path(audit: Audit, shard: Shard) -> Path:
    return audit.out / WORK / f"features-{shard.name}.npz"


def kept_features(audit: Audit) -> Iterator[np.ndarray]:
    """Yield the features of the first images, float32 (n, F), a shard at a time."""
    for shard in audit.shards:
        if shard.start < FEATURE_IMAGES:
            yield load_npz(_features_path(audit, shard), MOST_BYTES)["features"]
