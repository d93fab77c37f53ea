"""Decode one shard into its rows of a file of raw images, in a worker process.

The tar and the label arrays are checked against the shard's record before anything is decoded, and
every member against its expected name.
"""

import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worlds.formats.layout import Shard
from worlds.formats.shards import decode_image, load_record, read_arrays, tar_members


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
    """The shard and its tar's sha256, once its images are on the disk.

    ValueError where a file of the shard is not what its record says.
    """
    shard, path = job.shard, job.folder / job.shard.tar
    record = load_record(job.folder, shard)
    _check_side_file(job, record.arrays_sha256)
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != record.sha256:
            raise ValueError(
                f"{path}: sha256 {sha256}, its record says {record.sha256}: "
                "the shard is damaged, make it again"
            )
        shape = (len(shard), *job.image_shape)
        rows = np.memmap(job.target, np.uint8, "r+", job.offset, shape)
        _decode_members(job, data, rows)
        rows.flush()
    return shard, sha256


def _check_side_file(job: DecodeJob, sha256: str) -> None:
    shard, path = job.shard, job.folder / job.shard.arrays
    arrays = read_arrays(job.folder, shard)
    if not np.array_equal(arrays.index, np.arange(shard.start, shard.stop)):
        raise ValueError(f"{path}: index must run from {shard.start} to {shard.stop - 1}")
    if arrays.sha256 != sha256:
        raise ValueError(f"{path} does not match the sha256 of its record: make the shard again")


def _decode_members(job: DecodeJob, data: mmap.mmap, rows: np.ndarray) -> None:
    path = job.folder / job.shard.tar
    members = (member for member in tar_members(path) if not member[0].endswith(".cls"))
    row = -1
    for row, (name, offset, size) in enumerate(members):
        expected = f"{job.shard.start + row:09d}.{job.extension}"
        if row >= len(rows) or name != expected:
            raise ValueError(f"{path}: image {row} should be {expected}, found {name}")
        image = decode_image(data[offset : offset + size])
        if image.shape != job.image_shape:
            raise ValueError(f"{path}: {name} is {image.shape}, expected {job.image_shape}")
        rows[row] = image
    if row + 1 != len(rows):
        raise ValueError(f"{path} holds {row + 1} images, expected {len(rows)}")
