"""Label existing shards again, with another classifier; the dataset itself is only read.

    for shard, problem in label_shards(labeling, labeler, shards):
        ...  # problem says why a shard could not be labeled, None if it is

A thread reads, hashes and decodes the shards ahead of the labeler: 17,500 to 20,000 images of
random pixels a second, measured on one of two CPU cores that a training run shared.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cifar5m.labels.agreement import Agreement, compare
from cifar5m.labels.labeler import Labeler, NonFiniteLabelsError, load_classifier
from cifar5m.labels.labeling import (
    LABELS_FOLDER,
    SUMMARY,
    Labeling,
    LabelingPlan,
    is_labeled,
    labeling_plan,
    open_labeling,
    write_labels,
)
from cifar5m.weights.sources import Weights, find_labeler
from worlds.formats.layout import Shard
from worlds.formats.plan import load_plan
from worlds.formats.shards import decode_image, load_record, read_samples
from worlds.runtime.device import device_name, float32_products
from worlds.runtime.files import sha256_of, write_json
from worlds.runtime.prefetch import prefetch

OnImages = Callable[[int], None]  # images labeled since the last call


def load_labeler(weights: Weights, plan: LabelingPlan, device: str) -> Labeler:
    """Load the labeler of a labeling's plan onto a device."""
    target = torch.device(device)
    return Labeler(*load_classifier(weights), target, plan.precision, plan.label_batch)


def label_shards(
    labeling: Labeling,
    labeler: Labeler,
    shards: Sequence[Shard],
    on_images: OnImages = lambda images: None,
) -> Iterator[tuple[Shard, str | None]]:
    """Label each of `shards` and write what was found, in order; yields each with None, or with why
    it could not be labeled.
    """
    for shard, read in read_ahead(labeling.folder, shards):
        if isinstance(read, str):
            yield shard, read
            continue
        start = time.monotonic()
        try:
            probabilities = label_images(labeler, read.images, on_images)
        except NonFiniteLabelsError as error:
            raise RuntimeError(
                f"shard {shard.name}: {error}; nothing of it was written. Check the weights, "
                f"or try --precision fp32"
            ) from error
        facts = {
            "sha256": read.sha256,
            "seconds": round(time.monotonic() - start, 3),
            "device": device_name(labeler.device),
        }
        write_labels(labeling, shard, probabilities, facts)
        yield shard, None


def label_images(labeler: Labeler, images: np.ndarray, on_images: OnImages) -> np.ndarray:
    """Return probabilities, float32 (N, C), of uint8 (N, H, W, 3) images."""
    pixels = torch.from_numpy(images).to(labeler.device)  # all at once
    found = []
    with float32_products(labeler.precision):
        for part in pixels.split(labeler.batch):
            found.append(labeler(part))  # (B, C)
            on_images(len(part))
    return torch.cat(found).cpu().numpy()


def write_summary(labeling: Labeling, shards: Sequence[Shard]) -> Agreement:
    """Write the agreement over all of the dataset's shards beside the labels, and return it."""
    names = labeling.plan.class_names
    agreement = compare(labeling.folder, labeling.place, shards, names)
    write_json(labeling.place / SUMMARY, agreement.summary())
    return agreement


def repair_labels(
    folder: Path, name: str, device: str, on_images: OnImages = lambda images: None
) -> list[tuple[Shard, str | None]]:
    """Label again what a labeling lacks or has damaged, with the labeler that its plan names.

    Returns the shards with what `label_shards` says of each. Raises ValueError if the labeler is
    not found, or has changed.
    """
    # The labeler must be the one that began; the plan says so by its hash.
    dataset, plan = load_plan(folder), load_plan(folder / LABELS_FOLDER / name, LabelingPlan)
    source = plan.about.labeler
    if source is None:
        raise ValueError(f"labels/{name} does not say which labeler: run cifar5m-label again")
    weights = find_labeler(source)
    plan = labeling_plan(dataset, source, weights.sha256, plan.precision, plan.label_batch)
    labeling = open_labeling(folder, name, plan)
    # Label what is missing or damaged.
    shards = dataset.shards
    waiting = [shard for shard in shards if not is_labeled(labeling, shard)]
    labeler = load_labeler(weights, plan, device)
    results = list(label_shards(labeling, labeler, waiting, on_images))
    if all(problem is None for _, problem in results):
        write_summary(labeling, shards)
    return results


@dataclass(frozen=True)
class ShardPixels:
    """The decoded images of a shard whose tar is as recorded."""

    images: np.ndarray  # uint8 (N, H, W, 3)
    sha256: str  # of the tar


def read_ahead(folder: Path, shards: Sequence[Shard]) -> Iterator[tuple[Shard, ShardPixels | str]]:
    """Yield each shard with its images, or with why they are not to be trusted; a thread reads one
    ahead.
    """
    ahead = prefetch(lambda k: read_pixels(folder, shards[k]), len(shards), threads=1)
    try:
        yield from zip(shards, ahead, strict=True)
    finally:
        ahead.close()


def read_pixels(folder: Path, shard: Shard) -> ShardPixels | str:
    """Return a shard's images, or in one line why they are not to be trusted."""
    try:
        sha256, recorded = sha256_of(folder / shard.tar), load_record(folder, shard)
        if recorded.sha256 != sha256:
            return f"sha256 {sha256}, the record says {recorded.sha256}"
        samples = read_samples(folder / shard.tar)
        return ShardPixels(np.stack([decode_image(data) for _, data, _ in samples]), sha256)
    except (OSError, ValueError) as error:
        return str(error)
