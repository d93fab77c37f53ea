"""Jobs of writer processes: PNG encoding and tar writing beside the device's work.

    with Workers(write_job, count=2) as writers:
        writers.put(WriteJob(folder, shard, content, facts))

One core encodes and writes about 2,000 images a second (benchmarks/generation.py), a thousand times
what a GPU makes with the default recipe, so one writer is the default; few-step samplers want more.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worlds.formats.layout import Shard
from worlds.formats.shards import encode_png, write_shard


class ShardContent(NamedTuple):
    """The images of one shard and what is known of each."""

    images: Iterable[np.ndarray]  # uint8 (H, W, 3) each
    labels: np.ndarray  # int (N,)
    probabilities: np.ndarray  # float (N, C)
    requested: np.ndarray | None = None  # int (N,), the class that the generator was asked for


class WriteJob(NamedTuple):
    """One shard to encode and write; `facts` are of its record."""

    folder: Path
    shard: Shard
    content: ShardContent
    facts: dict[str, Any]


def write_job(job: WriteJob) -> Shard:
    """Encode and write one shard."""
    images, labels, probabilities, requested = job.content
    samples = (encode_png(image) for image in images)
    arrays = labels, probabilities, job.facts
    write_shard(job.folder, job.shard, samples, *arrays, requested=requested)
    return job.shard
