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
from worlds.formats.writers import ShardWriters, WriteHere, WriteJob
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


@dataclass(frozen=True)
class ShardContent:
    """The images of one shard and what is known of each."""

    images: np.ndarray  # uint8 (N, 32, 32, 3)
    labels: np.ndarray  # int64 (N,)
    probabilities: np.ndarray  # float32 (N, 10), of the labeler
    requested: np.ndarray | None  # int64 (N,), the class that the generator was asked for


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
        arrays = (made.images, made.labels, made.probabilities, facts, made.requested)
        writers.put(WriteJob(folder, shard, *arrays))
        yield shard


def make_shard(
    job: Job, shard: Shard, on_progress: OnProgress = lambda images: None
) -> ShardContent:
    """Return the content of one shard. Raises BadShardError if a network returns NaN."""
    images, probabilities = [], []
    calls = job.sampler.network_calls
    # Micro-batches from the shard's first index on; the padding is cut off.
    with float32_products(job.generator.precision):
        whole = -(-len(shard) // job.micro_batch) * job.micro_batch
        for start in range(0, whole, job.micro_batch * job.streams):
            count = min(job.micro_batch * job.streams, whole - start)
            first = shard.start + start
            index = torch.arange(first, first + count, device=job.generator.device)
            wanted = min(count, shard.stop - first)
            try:
                pixels = make_images(job, index, partial(on_progress, wanted / calls))
                found = torch.cat([job.labeler(part) for part in pixels.split(job.micro_batch)])
            except (NonFiniteError, NonFiniteLabelsError) as error:
                raise BadShardError(
                    f"shard {shard.name}: {error}; nothing of it was written. Check the weights, "
                    f"or try precision=fp32"
                ) from error
            images.append(pixels[:wanted].cpu().numpy())
            probabilities.append(found[:wanted].cpu().numpy())
    # Labels: by the labeler, or as the generator was asked.
    joined, requested = np.concatenate(probabilities), None
    if job.conditioning is not None:
        index = torch.arange(shard.start, shard.stop)
        requested = image_classes(job.seed, index, job.conditioning.classes).numpy()
    labels = joined.argmax(1)
    if job.labels == "requested":
        assert requested is not None, "only a conditional generator is asked for classes"
        labels = requested
    return ShardContent(np.concatenate(images), labels, joined, requested)


def make_images(
    job: Job, index: torch.Tensor, on_step: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """uint8 (B, 32, 32, 3) on the device: the images of int64 (B,) global indices, of one
    micro-batch or several.
    """
    predictors = [predictor(job, part) for part in index.split(job.micro_batch)]
    predict: Predict = predictors[0]
    if len(predictors) > 1:
        x = image_noise(job.seed, index, job.schedule.num_train_steps)
        predict = side_by_side(predictors, x, f"{job.generator.name}, {job.micro_batch} images")
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
    classes = image_classes(job.seed, index, asked.classes)
    if not asked.is_guided:
        return lambda x, t: job.generator(x, t, classes)
    both = torch.cat([classes, torch.full_like(classes, asked.null_class or 0)])  # (2B,)

    def predict(x: torch.Tensor, t: int | torch.Tensor) -> torch.Tensor:
        conditional, null = job.generator(torch.cat([x, x]), t, both).chunk(2)
        return null + asked.guidance * (conditional - null)

    return predict
