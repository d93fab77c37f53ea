"""Generate shards: noise, network, pixels, labels, files.

    with Workers(write_job) as writers:
        generate_shards(folder, job, shards, writers.put)

A shard is a pure function of the plan and its number. Micro-batches start at the shard's first
index and are always full, the last one padded with the indices that follow, so that neither the
process count nor a restart can change a batch, and with it a byte.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cifar5m.labels.labeler import Labeler, NonFiniteLabelsError
from cifar5m.sampling.classes import Conditioning, image_classes
from cifar5m.sampling.diffusion import (
    FiniteGuard,
    NonFiniteError,
    Predict,
    SamplerConfig,
    Schedule,
    sample,
    to_uint8,
)
from cifar5m.sampling.noise import image_noise
from cifar5m.sampling.together import TimedPredict, side_by_side
from cifar5m.sampling.unet import Generator
from worlds.formats.layout import Shard
from worlds.formats.shards import is_finished
from worlds.formats.writers import ShardContent, WriteJob
from worlds.runtime.device import float32_products
from worlds.runtime.files import clean_folders

OnProgress = Callable[[float], None]  # images made since the last call, in parts of a step

LABELS = ("argmax", "requested")  # what becomes the label: the labeler's or the requested class


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
    conditioning: Conditioning | None = None  # of a generator with class embeddings
    labels: str = "argmax"  # one of LABELS
    streams: int = 1  # micro-batches at a time on a GPU

    def __post_init__(self) -> None:
        if self.micro_batch < 1:
            raise ValueError(f"the micro-batch must be at least 1, got {self.micro_batch}")


class BadShardError(RuntimeError):
    """The network failed on a shard; nothing of it was written."""


def generate_shards(
    folder: Path,
    job: Job,
    shards: Iterable[Shard],
    write: Callable[[WriteJob], object],
    on_progress: OnProgress = lambda images: None,
) -> None:
    """Make each of `shards` that does not exist yet, and hand it to `write`."""
    clean_folders(folder, folder / "data", folder / "meta")
    for shard in shards:
        if is_finished(folder, shard, job.fingerprint):  # by another process, meanwhile
            continue
        start = time.monotonic()
        made = make_shard(job, shard, on_progress)
        facts = {
            "fingerprint": job.fingerprint,
            "seconds": round(time.monotonic() - start, 3),
            "device": job.generator.device_name,
        }
        write(WriteJob(folder, shard, made, facts))


def make_shard(
    job: Job, shard: Shard, on_progress: OnProgress = lambda images: None
) -> ShardContent:
    """Return the content of one shard. Raises BadShardError if a network returns NaN."""
    parts = [_make_part(job, shard, start, on_progress) for start in _starts(job, shard)]
    images, probabilities = map(np.concatenate, zip(*parts, strict=True))
    # Labels: by the labeler, or as the generator was asked.
    labels, requested = probabilities.argmax(1), None
    if job.conditioning is not None:
        index = torch.arange(shard.start, shard.stop)
        requested = image_classes(job.seed, index, job.conditioning.classes).numpy()
    if job.labels == "requested":
        assert requested is not None, "only a conditional generator is asked for classes"
        labels = requested
    return ShardContent(images, labels, probabilities, requested)


def _starts(job: Job, shard: Shard) -> range:
    """Return the first index of each part of a shard: the micro-batches that are made together."""
    return range(shard.start, shard.stop, job.micro_batch * job.streams)


def _make_part(
    job: Job, shard: Shard, start: int, on_progress: OnProgress
) -> tuple[np.ndarray, np.ndarray]:
    """Return images and probabilities of the micro-batches from index `start` on, in the shard."""
    # Micro-batches are always full; the padding is cut off.
    full = -(-(shard.stop - start) // job.micro_batch)
    count = min(full, job.streams) * job.micro_batch
    wanted = min(count, shard.stop - start)
    index = torch.arange(start, start + count, device=job.generator.device)
    try:
        with float32_products(job.generator.precision):
            share = partial(on_progress, wanted / job.sampler.network_calls)
            pixels = make_images(job, index, share)  # uint8 (B, 32, 32, 3)
            found = torch.cat([job.labeler(part) for part in pixels.split(job.micro_batch)])
    except (NonFiniteError, NonFiniteLabelsError) as error:
        raise BadShardError(
            f"shard {shard.name}: {error}; nothing of it was written. Check the weights, "
            f"or try precision=fp32"
        ) from error
    return pixels[:wanted].cpu().numpy(), found[:wanted].cpu().numpy()


def make_images(
    job: Job, index: torch.Tensor, on_step: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """Return the images of int64 (B,) global indices, of one micro-batch or several: uint8
    (B, 32, 32, 3) on the device.
    """
    # Several micro-batches may run side by side, each with its own bits.
    predictors = [predictor(job, part) for part in index.split(job.micro_batch)]
    predict: Predict = predictors[0]
    if len(predictors) > 1:
        x = image_noise(job.seed, index, job.schedule.num_train_steps)
        predict = side_by_side(predictors, x, f"{job.generator.name}, {job.micro_batch} images")
    # A network that returns NaN is found out once, after the last step.
    predict_noise = FiniteGuard(predict)
    x = sample(
        job.sampler,
        predict_noise,
        lambda step: image_noise(job.seed, index, step),
        job.schedule,
        on_step=lambda i, t, x: on_step(),
    )
    predict_noise.check()
    return to_uint8(x)


def predictor(job: Job, index: torch.Tensor) -> TimedPredict:
    """Return the noise predictor of the images of int64 (B,) global indices: the network itself,
    or the network asked for their classes, guided away from the prediction without a class.
    """
    asked = job.conditioning
    if asked is None:
        return job.generator
    classes = image_classes(job.seed, index, asked.classes)  # int64 (B,)
    if not asked.is_guided:
        return lambda x, t: job.generator(x, t, classes)
    both = torch.cat([classes, torch.full_like(classes, asked.null_class or 0)])  # (2B,)

    def predict(x: torch.Tensor, t: int | torch.Tensor) -> torch.Tensor:
        conditional, null = job.generator(torch.cat([x, x]), t, both).chunk(2)
        return null + asked.guidance * (conditional - null)

    return predict
