"""Writer processes: PNG encoding and tar writing beside the device's work.

One core encodes and writes about 2,000 images a second (benchmarks/generation.py), a thousand times
what a GPU makes with the default recipe, so one writer is the default; few-step samplers want more.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worlds.formats.layout import Shard
from worlds.formats.shards import encode_png, write_shard
from worlds.runtime.processes import Workers


class WriteJob(NamedTuple):
    """One shard to encode and write, with the arguments of `write_shard`."""

    folder: Path
    shard: Shard
    images: Iterable[np.ndarray]  # uint8 (H, W, 3) each
    labels: np.ndarray  # (N,)
    probabilities: np.ndarray  # (N, C)
    facts: dict[str, Any]
    requested: np.ndarray | None = None  # (N,)


def write_job(job: WriteJob) -> Shard:
    """Encode and write one shard."""
    samples = (encode_png(image) for image in job.images)
    arrays = (job.labels, job.probabilities, job.facts)
    write_shard(job.folder, job.shard, samples, *arrays, requested=job.requested)
    return job.shard


class ShardWriters(Workers):
    """A few processes that write shards; `on_written` is told of each."""

    def __init__(self, count: int = 1, on_written: Callable[[Shard], None] | None = None) -> None:
        super().__init__(write_job, count, on_written)

    def __enter__(self) -> "ShardWriters":
        return self


class WriteHere:
    """In place of `ShardWriters`: each shard is written by this process before `put` returns."""

    def put(self, job: WriteJob) -> None:
        write_job(job)
