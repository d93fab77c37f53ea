"""Decode one shard into its rows of a file of raw images, in a worker process.

The tar and the label arrays are checked against the shard's record before anything is decoded, and
every member against its expected name.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worlds.formats.layout import Shard
from worlds.formats.shards import decode_image, load_record, read_arrays, read_samples
from worlds.runtime.files import sha256_of


@dataclass(frozen=True)
class DecodeJob:
    """Decode `shard` of `folder` into the rows of `target` that begin at byte `offset`."""

    folder: Path
    shard: Shard
    extension: str
    image_shape: tuple[int, ...]
    target: Path
    offset: int


def decode_shard(job: DecodeJob) -> tuple[Shard, str]:
    """Return the shard and its tar's sha256, once its images are on the disk.

    Raises ValueError if a file of the shard is not what its record says.
    """
    shard, path = job.shard, job.folder / job.shard.tar
    record = load_record(job.folder, shard)
    # The files as a whole.
    arrays, side_file = read_arrays(job.folder, shard), job.folder / shard.arrays
    if not np.array_equal(arrays.index, np.arange(shard.start, shard.stop)):
        raise ValueError(f"{side_file}: index must run from {shard.start} to {shard.stop - 1}")
    if arrays.sha256 != record.arrays_sha256:
        raise ValueError(f"{side_file} does not match the sha256 of its record: make it again")
    if (sha256 := sha256_of(path)) != record.sha256:
        raise ValueError(
            f"{path}: sha256 {sha256}, its record says {record.sha256}: "
            "the shard is damaged, make it again"
        )

    # Every image in its place.
    rows = np.memmap(job.target, np.uint8, "r+", job.offset, (len(shard), *job.image_shape))
    expected = iter(range(shard.start, shard.stop))
    for index, data, _ in read_samples(path):
        if index != next(expected, None):
            raise ValueError(f"{path}: image {index} is not at its place, or one too many")
        image = decode_image(data)
        if image.shape != job.image_shape:
            name = f"{index:09d}.{job.extension}"
            raise ValueError(f"{path}: {name} is {image.shape}, expected {job.image_shape}")
        rows[index - shard.start] = image
    if (missing := next(expected, None)) is not None:
        raise ValueError(f"{path} ends before image {missing}")
    rows.flush()
    return shard, sha256
