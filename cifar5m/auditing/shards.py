"""What an audit finds of each image, a shard at a time; what is saved is not done again.

    AUDIT/images/{split}-{k:05d}.npz       one row an image
    AUDIT/work/features-{split}-{k:05d}.npz   labeler features of the first 50,000 images

The arrays of an image file are `index` int64, `digest` uint64 (N, 2) (equal for equal pixels),
and for each space (pixel, feature) and CIFAR-10 split (train, test) `{space}_{split}_index` int32,
`_distance` and `_ratio` float32: the nearest photograph, its distance, and that as a share of the
mean of the 50 nearest (auditing/neighbours.py). `probabilities` float16 (N, 10) are those of
the audit's labeler.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cifar5m.auditing.neighbours import K, Reference
from cifar5m.auditing.reference import MOST_BYTES, WORK, Judge, OnImages, read_npz, see
from cifar5m.labels.relabel import read_pixels
from cifar5m.shards.check import check_arrays, pixel_digest
from worlds.formats.layout import Shard
from worlds.formats.npz import load_npz
from worlds.formats.plan import Plan
from worlds.formats.shards import find_record, is_finished
from worlds.runtime.files import atomic_write
from worlds.runtime.prefetch import Prefetcher

IMAGES = "images"
FORMAT = 1
FEATURE_IMAGES = 50_000  # whose features are kept: the size that Frechet distances are taken at
_CHUNK = 500  # about as many images between two looks at the progress


@dataclass(frozen=True)
class Comparison:
    """The references that each image is compared with. `references` by space (pixel, feature) and
    split.
    """

    references: Mapping[tuple[str, str], Reference]
    judge: Judge | None  # for features and probabilities, None without a labeler
    fingerprints: Mapping[str, str]  # of CIFAR-10's splits

    @property
    def key(self) -> str:
        """Names everything that decides what is found of given pixels."""
        facts = {
            "format": FORMAT,
            "k": K,
            "cifar10": dict(self.fingerprints),
            "labeler": self.judge.key if self.judge else None,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Examined:
    """One shard's end: its facts are saved, or `problem` says why they are not."""

    shard: Shard
    problem: str | None = None


def examine_shards(
    folder: Path,
    audit: Path,
    shards: Sequence[Shard],
    comparison: Comparison,
    on_images: OnImages = lambda images: None,
) -> Iterator[Examined]:
    """Examine each of `shards` and save what is found, in order. A damaged shard is left out."""
    ahead = Prefetcher(lambda k: read_pixels(folder, shards[k]), len(shards), threads=1)
    try:
        for shard, read in zip(shards, ahead, strict=True):
            if isinstance(read, str):
                yield Examined(shard, read)
                continue
            key = np.array(_key(read.sha256, comparison))
            found = examine(read.images, comparison, on_images)
            features = found.pop("features", None)
            if features is not None and shard.start < FEATURE_IMAGES:
                kept = features[: FEATURE_IMAGES - shard.start]
                with atomic_write(features_path(audit, shard)) as stream:
                    np.savez(stream, key=key, features=kept)
            index = np.arange(shard.start, shard.stop)
            with atomic_write(facts_path(audit, shard)) as stream:
                np.savez(stream, key=key, index=index, **found)  # type: ignore[arg-type]
            yield Examined(shard)
    finally:
        ahead.close()


def examine(
    images: np.ndarray, comparison: Comparison, on_images: OnImages = lambda images: None
) -> dict[str, np.ndarray]:
    """The arrays of uint8 (N, H, W, 3) images, and `features` float32 (N, F)."""
    batch = comparison.judge.labeler.batch if comparison.judge else 1
    step = -(-_CHUNK // batch) * batch  # whole batches, because the last one is padded full
    parts = []
    for start in range(0, len(images), step):
        chunk = images[start : start + step]
        parts.append(_examine(chunk, comparison))
        on_images(len(chunk))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _examine(images: np.ndarray, comparison: Comparison) -> dict[str, np.ndarray]:
    digests = b"".join(pixel_digest(image) for image in images)
    found = {"digest": np.frombuffer(digests, np.uint64).reshape(-1, 2)}
    queries = {"pixel": images}
    if comparison.judge is not None:
        seen = see(comparison.judge, images)
        queries["feature"] = found["features"] = seen.features
        found["probabilities"] = seen.probabilities.astype(np.float16)
    for (space, split), reference in comparison.references.items():
        near = reference.nearest(queries[space])
        name = f"{space}_{split}"
        found[f"{name}_index"] = near.index[:, 0].astype(np.int32)
        found[f"{name}_distance"] = near.distance[:, 0]
        found[f"{name}_ratio"] = near.ratio
    return found


def baseline(
    audit: Path,
    comparison: Comparison,
    queries: Mapping[str, np.ndarray],
    on_images: OnImages = lambda images: None,
) -> dict[str, np.ndarray]:
    """CIFAR-10's own test photographs against its train split: what an unseen image looks like.

    `queries` by space, uint8 images or features; the result has `{space}_distance` and
    `{space}_ratio`, float32 (N,), from the audit's folder where they were found before.
    """
    path = baseline_path(audit, comparison, max(map(len, queries.values())))
    names = [f"{space}_{what}" for space in queries for what in ("distance", "ratio")]
    kept = read_npz(path)
    if set(names) <= set(kept):
        return {name: kept[name] for name in names}
    # Search in chunks, and keep what was found.
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for space, rows in queries.items():
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            near = comparison.references[space, "train"].nearest(chunk)
            found[f"{space}_distance"].append(near.distance[:, 0])
            found[f"{space}_ratio"].append(near.ratio)
            on_images(len(chunk))
    arrays = {name: np.concatenate(parts) for name, parts in found.items()}
    with atomic_write(path) as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
    return arrays


def is_examined(folder: Path, audit: Path, shard: Shard, comparison: Comparison) -> bool:
    """Return whether a shard's results exist for this comparison and the recorded tar."""
    record = find_record(folder, shard)
    files = [facts_path(audit, shard)]
    if comparison.judge is not None and shard.start < FEATURE_IMAGES:
        files.append(features_path(audit, shard))
    key = _key(record.sha256 if record else None, comparison)
    return all(str(read_npz(path).get("key")) == key for path in files)


def damage(folder: Path, shard: Shard, plan: Plan) -> str | None:
    """Return what is wrong with the side file or tar size of a recorded shard, or None. The tar is
    hashed when it is examined.
    """
    problems = check_arrays(folder, shard, plan)[1]
    if problems:
        return f"{problems[0].path}: {problems[0].message}"
    if not is_finished(folder, shard, plan.fingerprint):
        return f"{shard.tar} is missing, or has not the bytes that its record says"
    return None


def _key(sha256: str | None, comparison: Comparison) -> str:
    """Return the cache key: tar sha256 and comparison settings."""
    return f"{sha256} {comparison.key}"


def read_facts(audit: Path, shard: Shard) -> dict[str, np.ndarray]:
    """The arrays of one shard, none where they are not there or damaged."""
    return read_npz(facts_path(audit, shard))


def facts_path(audit: Path, shard: Shard) -> Path:
    return audit / IMAGES / f"{shard.name}.npz"


def baseline_path(audit: Path, comparison: Comparison, queries: int) -> Path:
    return audit / WORK / f"baseline-{comparison.key[:16]}-{queries}.npz"


def baseline_rows(photographs: int, images: int) -> np.ndarray:
    """Return the test photographs of the baseline, evenly spaced: as many as there are images, at
    least 1,000 where there are so many; more would cost more than the question.
    """
    count = min(photographs, max(images, 1_000))
    return np.arange(count) * photographs // count


def features_path(audit: Path, shard: Shard) -> Path:
    return audit / WORK / f"features-{shard.name}.npz"


def kept_features(audit: Path, shards: Sequence[Shard]) -> Iterator[np.ndarray]:
    """Float32 (n, F) features of the first images, a shard at a time."""
    for shard in shards:
        if shard.start < FEATURE_IMAGES:
            yield load_npz(features_path(audit, shard), MOST_BYTES)["features"]
