"""Generate shards: noise, network, pixels, labels, files.

    with ShardWriters() as writers:
        for images in generate_shards(folder, job, shards, writers):
            ...  # progress

A shard is a pure function of the plan and its number. Micro-batches start at the shard's first
index and are always full, the last one padded with the indices that follow, so that neither the
process count nor a restart can change a batch, and with it a byte.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cifar5m.labels.labeler import Labeler
from cifar5m.sampling.diffusion import (
    FiniteGuard,
    NonFiniteError,
    SamplerConfig,
    Schedule,
    sample,
    to_uint8,
)
from cifar5m.sampling.noise import image_noise
from cifar5m.sampling.unet import Generator
from worlds.formats.layout import Shard
from worlds.formats.shards import is_finished
from worlds.formats.writers import ShardWriters, WriteHere
from worlds.runtime.device import device_name, float32_products
from worlds.runtime.files import remove_stale

OnProgress = Callable[[float], None]  # images made since the last call, in parts of a step


@dataclass(frozen=True)
class Job:
    """The networks and settings that make images, and the fingerprint of the plan they follow."""

    generator: Generator
    labeler: Labeler
    sampler: SamplerConfig
    schedule: Schedule
    seed: int
    micro_batch: int
    fingerprint: str

    def __post_init__(self) -> None:
        if self.micro_batch < 1:
            raise ValueError(f"the micro-batch must be at least 1, got {self.micro_batch}")


class BadShardError(RuntimeError):
    """The network failed on a shard; nothing of it was written."""


def generate_shards(
    folder: Path,
    job: Job,
    shards: Iterable[Shard],
    writers: ShardWriters | WriteHere,
    on_progress: OnProgress = lambda images: None,
) -> Iterator[Shard]:
    """Make each of `shards` that does not exist yet; yields it once it is handed to a writer."""
    for place in (folder, folder / "data", folder / "meta"):
        place.mkdir(parents=True, exist_ok=True)
        remove_stale(place)
    for shard in shards:
        if is_finished(folder, shard, job.fingerprint):  # by another process, meanwhile
            continue
        start = time.monotonic()
        images, probabilities = make_shard(job, shard, on_progress)
        facts = {
            "fingerprint": job.fingerprint,
            "seconds": round(time.monotonic() - start, 3),
            "device": device_name(job.generator.device),
        }
        labels = probabilities.argmax(1)
        writers.put((folder, shard, images, labels, probabilities, facts))
        yield shard


def make_shard(
    job: Job, shard: Shard, on_progress: OnProgress = lambda images: None
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, 32, 32, 3) images and float32 (N, 10) probabilities of one shard."""
    images, probabilities = [], []
    calls = job.sampler.network_calls
    with float32_products(job.generator.precision):
        for first in range(shard.start, shard.stop, job.micro_batch):
            index = torch.arange(first, first + job.micro_batch, device=job.generator.device)
            wanted = min(job.micro_batch, shard.stop - first)
            try:
                pixels = make_images(job, index, partial(on_progress, wanted / calls))
            except NonFiniteError as error:
                raise BadShardError(
                    f"shard {shard.name}: {error}; nothing of it was written. Check the weights, "
                    f"or try precision=fp32"
                ) from error
            images.append(pixels[:wanted].cpu().numpy())
            probabilities.append(job.labeler(pixels)[:wanted].cpu().numpy())
    return np.concatenate(images), np.concatenate(probabilities)


def make_images(
    job: Job, index: torch.Tensor, on_step: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """uint8 (B, 32, 32, 3) on the device: the images of int64 (B,) global indices."""
    predict_noise = FiniteGuard(job.generator)
    x = sample(
        job.sampler,
        predict_noise,
        lambda step: image_noise(job.seed, index, step),
        job.schedule,
        on_step=lambda i, t, x: on_step(),
    )
    predict_noise.check()
    return to_uint8(x)
