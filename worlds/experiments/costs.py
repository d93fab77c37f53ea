"""The cost of a run: counted exactly before any data is at hand, timed on a few steps with it, and
guessed in hours of a GPU.

The guess takes one measured speed, ResNet18's training at batch 128 in bfloat16 on one H200, and
scales it by multiply-adds. Networks much smaller than that are bound by the launching of kernels
and take longer than it says; float32, the paper's, takes several times as long.
"""

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import torch

from worlds.cli.tables import duration
from worlds.experiments.plan import Job
from worlds.experiments.registry import Data
from worlds.experiments.sheets import ARCH as SHEET
from worlds.models import find
from worlds.models.measure import describe
from worlds.training.build import Data as RunData
from worlds.training.build import (
    batch_format,
    in_layout,
    make_loader,
    make_model,
    takes_channels_last,
)
from worlds.training.config import TrainConfig
from worlds.training.evaluation import CLEAN, evaluation_batch
from worlds.training.stepper import Stepper

BACKWARD: Final = 3  # a training step costs about as much as this many forward passes
MEASURING: Final = 0.25  # most of a run's multiply-adds that go to measuring, where it is chosen
_WARM, _TIMED = 2, 5  # steps
LONG_STEPS, LONG_WORK = 5_000, 1e13  # of all runs; multiply-adds of some minutes of two CPU cores
STEPS_PER_SECOND: Final = 414  # of ResNet18 at batch 128, bf16
RESNET18: Final = 555_422_720  # multiply-adds of an image, forward
PER_SECOND: Final = STEPS_PER_SECOND * 128 * BACKWARD * RESNET18
ASSUMED: Final = (
    f"GPU-hours are of one H200 in bf16 ({STEPS_PER_SECOND} steps/s of ResNet18 at batch 128, "
    "scaled by multiply-adds); fp32 and thin networks take longer. run --dry-run times them here"
)
CLASSES: Final[dict[Data, int]] = {"dogbird": 2, "first5": 5, "last5": 5}  # else 10
TEST: Final[dict[Data, int]] = {"dogbird": 6_100, "teacher": 100_000, "gray": 100_000}  # or 10,000
# Means over the 500 random networks of figure 2b by (width, cells): counting each of
# them takes minutes.
_RANDOM: Final[dict[tuple[object, object], int]] = {
    (16, 1): 13_580_553,
    (16, 5): 36_305_290,
    (64, 1): 186_469_697,
    (64, 5): 454_071_606,
}


@dataclass(frozen=True)
class Cost:
    """Cost of one run; multiply-adds count convolutions, linear layers and attention."""

    steps: int
    training_images: int
    log_points: int
    evaluation_images: int
    parameters: int
    multiply_adds: int  # of one image, forward

    def __str__(self) -> str:
        return (
            f"{self.steps:,} steps, {self.training_images:,} samples, {self.log_points:,} log "
            f"points that measure {self.evaluation_images:,} images ({self.evaluation_share:.0%} "
            f"of {self.total_multiply_adds:.3g} multiply-adds), {self.parameters:,} parameters"
        )

    @property
    def evaluation_share(self) -> float:
        """Evaluation's part of all multiply-adds."""
        return self.evaluation_images / (self.evaluation_images + BACKWARD * self.training_images)

    def timed(self, step: float, image: float) -> float:
        """Return the run's seconds, from those of a step and of an image's evaluation."""
        return self.steps * step + self.evaluation_images * image

    @property
    def total_multiply_adds(self) -> int:
        forward = self.evaluation_images + BACKWARD * self.training_images
        return forward * self.multiply_adds


def cost(config: TrainConfig, data: RunData) -> Cost:
    """Return the cost of the run to the end of its schedule."""
    network = _network(config, data.train.image_shape[0], len(data.train.class_names))
    return count_cost(config, data.test_sizes, *network)


def count_cost(
    config: TrainConfig, tests: Sequence[int], parameters: int, multiply_adds: int
) -> Cost:
    """Return the cost of a run that is measured on test sets of these sizes (none: never)."""
    # Test images, of averaged weights once more, then training and validation samples.
    points = len(config.points)
    images = sum(min(size, config.test_eval or size) for size in tests)  # of a log point
    total = points * images * (2 if config.ema else 1)
    if not config.fresh and tests:
        train = min(config.n, config.train_eval or config.n)
        total += points * (train + config.validation)
        if config.augment:  # beside the crops, some of them as they are stored
            clean = min(train, CLEAN) if config.fresh_crops else train
            total += clean * (1 + -(-(points - 1) // config.clean_every))
    return Cost(
        steps=config.steps,
        training_images=config.steps * config.batch_size,
        log_points=points,
        evaluation_images=total,
        parameters=parameters,
        multiply_adds=multiply_adds,
    )


def may_be_timed(costs: Sequence[Cost]) -> bool:
    """Return whether these runs take so long that timing a few steps first costs little."""
    steps, work = sum(c.steps for c in costs), sum(c.total_multiply_adds for c in costs)
    return costs[0].steps >= 100 and (steps >= LONG_STEPS or work >= LONG_WORK)


def choose_measuring(config: TrainConfig, data: RunData, free: Collection[str]) -> TrainConfig:
    """Return the config with the densest log points on the most images that cost at most
    `MEASURING` of the run, or the least there are. Only fields in `free` change.
    """
    # From the paper's grid down to ten log points of 400 images.
    sparse = [("spaced", images) for images in (10_000, 4_000, 2_000, 1_000)]
    few = [
        (max(1, config.steps // n), images) for n, images in ((20, 1_000), (10, 1_000), (10, 400))
    ]
    for log, images in (("paper", 10_000), ("fast", 10_000), *sparse, *few):
        fields: dict[str, Any] = {"log": log, "test_eval": images, "train_eval": images}
        config = replace(config, **{name: fields[name] for name in free})
        if count_cost(config, data.test_sizes, 0, 0).evaluation_share <= MEASURING:
            break
    return config


def seconds(config: TrainConfig, data: RunData, device: torch.device) -> tuple[float, float]:
    """Return seconds of a training step and of one image's evaluation, timed here on a few."""
    # Training steps, after some that warm caches up.
    model = in_layout(make_model(config, data), config, device)
    form = batch_format(config, device, model)
    loader = make_loader(config, data.train, form)
    stepper = Stepper(config, model, device)
    batches = iter(loader)
    started = time.perf_counter()
    steps = min(_WARM + _TIMED, config.steps)  # at most
    warm = min(_WARM, steps - 1)
    for step in range(steps):
        if step == warm:
            stepper.check()
            started = time.perf_counter()
        stepper.step(*next(batches), config.learning_rate)
    stepper.check()
    step_seconds = (time.perf_counter() - started) / (steps - warm)
    # One batch of evaluation, after one that is not timed.
    height, width, _ = data.train.image_shape
    batch = evaluation_batch(device, data.train)
    images = torch.zeros(batch, 3, height, width, dtype=form.dtype, device=device)
    if takes_channels_last(model, config):
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        stepper.predict(images)
        started = time.perf_counter()
        stepper.predict(images).sum().item()
    return step_seconds, (time.perf_counter() - started) / len(images)


def describe_time(
    config: TrainConfig, data: RunData, device: torch.device, costs: Sequence[Cost]
) -> str:
    """Return a line on the speed of this network here, and the time of runs of these costs."""
    step, image = seconds(config, data, device)
    total = duration(sum(c.timed(step, image) for c in costs))
    return (
        f"on {device}: {1 / step:.1f} steps/s, {1 / image:,.0f} evaluated images/s, about {total} "
        "for all"
    )


def estimate(job: Job) -> Cost:
    """Return the cost of one run on data of the paper's sizes, measured on its test split alone."""
    config = job.config
    # The toy example and the sample sheets train no network.
    if job.data == "none" or config.arch == SHEET:
        return count_cost(config, [], 0, 0)
    # Random networks are given the mean of their setting.
    setting = config.options.get("width"), config.options.get("cells")
    if config.arch == "darts" and setting in _RANDOM:
        network = 0, _RANDOM[setting]
    else:
        size = 224 if job.data == "dogbird" else 32
        network = _network(config, size, CLASSES.get(job.data, 10))
    return count_cost(config, [TEST.get(job.data, 10_000)], *network)


def gpu_hours(costs: Iterable[Cost]) -> float:
    return sum(cost.total_multiply_adds for cost in costs) / PER_SECOND / 3600


def _network(config: TrainConfig, image_size: int, classes: int) -> tuple[int, int]:
    """Return parameters and multiply-adds of a config's network."""
    return _counted(config.arch, tuple(sorted(config.options.items())), image_size, classes)


@cache
def _counted(
    arch: str, options: tuple[tuple[str, object], ...], image_size: int, classes: int
) -> tuple[int, int]:
    """Count a network once, however many runs train it."""
    row = describe(find(arch, image_size), classes, **dict(options))
    return row.parameters, row.multiply_adds
