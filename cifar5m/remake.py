"""Make shards of an existing set again, with what made them: for `cifar5m-verify --repair`.

    for remade in MAKERS[plan["dataset"]](folder, plan, shards, options):
        ...  # content in memory; cifar5m/repair.py compares and writes it

A kind of set is repairable by having a row in MAKERS.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from cifar5m import importing
from cifar5m.fetch import Note, Progress
from cifar5m.generate import Job, device_name, make_shard
from cifar5m.plan import differences
from cifar5m.prepare import DATASET, find_sources, load_job, options_of, plan_of
from worlds.layout import PLAN, Shard
from worlds.shards import encode_png


@dataclass(frozen=True)
class RepairOptions:
    """Where networks and imported files lie now (None: where the plan says that they lay), and on
    what to run.
    """

    generator: str | None = None
    labeler: str | None = None
    parts: tuple[Path, ...] | None = None
    allow_non_ema: bool = False
    device: str = "cpu"
    on_images: Callable[[float], None] = lambda images: None  # made since the last call
    progress: Progress | None = None  # of a download
    note: Note | None = None


@dataclass(frozen=True)
class Remade:
    """The content of a shard, made again and not written yet."""

    shard: Shard
    samples: Sequence[bytes]  # encoded images
    labels: np.ndarray  # int (N,)
    probabilities: np.ndarray  # float (N, C)
    facts: dict[str, Any]  # seconds and device, for the record


# Makes shards of a plan again: (folder, plan, shards, options), in the order of the shards.
Maker = Callable[[Path, dict[str, Any], Sequence[Shard], RepairOptions], Iterator[Remade]]


def regenerate(
    folder: Path, plan: dict[str, Any], shards: Sequence[Shard], options: RepairOptions
) -> Iterator[Remade]:
    """The maker of generated sets: the generating job itself, as the plan describes it."""
    job = job_of(folder, plan, options)
    for shard in shards:
        start = time.monotonic()
        images, probabilities = make_shard(job, shard, options.on_images)
        facts = {
            "seconds": round(time.monotonic() - start, 3),
            "device": device_name(job.generator.device),
        }
        samples = [encode_png(image) for image in images]
        yield Remade(shard, samples, probabilities.argmax(1), probabilities, facts)


def job_of(folder: Path, plan: dict[str, Any], options: RepairOptions) -> Job:
    """The job that a plan describes; ValueError where it cannot be had again to the byte."""
    try:
        chosen = options_of(plan, options.generator, options.labeler, options.allow_non_ema)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / PLAN} does not say how it was made: {error!r}") from error
    sources = find_sources(chosen, options.progress, options.note)
    for name, weights in (("generator", sources.generator), ("labeler", sources.labeler)):
        found, expected = weights.sha256, plan[f"{name}_sha256"]
        if found != expected:
            raise ValueError(
                f"--{name}: {weights.source} has sha256 {found}, the set was made with {expected}"
            )
    again = plan_of(chosen, sources)
    if again["fingerprint"] != plan["fingerprint"]:
        raise ValueError(
            f"this installation would not make the same bytes; differing: "
            f"{'; '.join(differences(plan, again))}. Install the versions that the plan names"
        )
    return load_job(chosen, sources, plan, options.device)


def reimport(
    folder: Path, plan: dict[str, Any], shards: Sequence[Shard], options: RepairOptions
) -> Iterator[Remade]:
    """The maker of imported sets: the imported files, read again."""
    source = importing.reopen(plan, options.parts)
    try:
        for shard in shards:
            start = time.monotonic()
            images, labels, probabilities = importing.content_of(source, shard)
            samples = [encode_png(image) for image in images]
            facts = {"seconds": round(time.monotonic() - start, 3), "device": importing.DEVICE}
            options.on_images(len(samples))
            yield Remade(shard, samples, labels, probabilities, facts)
    finally:
        source.close()


# By what the plan calls "dataset".
MAKERS: Final[dict[str, Maker]] = {DATASET: regenerate, importing.DATASET: reimport}
