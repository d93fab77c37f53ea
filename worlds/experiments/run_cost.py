"""The cost of a run before it is begun: counted exactly, and timed on a few steps."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch

from worlds.models import find
from worlds.models.measure import describe
from worlds.training.build import Data, batch_format, make_loader, make_model
from worlds.training.config import TrainConfig
from worlds.training.evaluation import CLEAN, evaluation_batch
from worlds.training.stepper import Stepper

BACKWARD: Final = 3  # a training step costs about as much as this many forward passes
MEASURING: Final = 0.25  # most of a run's multiply-adds that go to measuring, where it is chosen
_WARM, _TIMED = 2, 5  # steps


@dataclass(frozen=True)
class Cost:
    """Cost of one run; multiply-adds count convolutions, linear layers and attention."""

    steps: int
    training_images: int
    log_points: int
    evaluation_images: int
    parameters: int
    multiply_adds: int  # of one image, forward

    @property
    def evaluation_share(self) -> float:
        """Evaluation's part of all multiply-adds."""
        return self.evaluation_images / (self.evaluation_images + BACKWARD * self.training_images)

    @property
    def total_multiply_adds(self) -> int:
        forward = self.evaluation_images + BACKWARD * self.training_images
        return forward * self.multiply_adds


def cost(config: TrainConfig, data: Data) -> Cost:
    """Return the cost of the run to the end of its schedule."""
    architecture = find(config.arch, data.train.image_shape[0])
    row = describe(architecture, len(data.train.class_names), **config.options)
    tests = [data.test] if data.cifar10 is None else [data.test, data.cifar10]
    return count_cost(config, list(map(len, tests)), row.parameters, row.multiply_adds)


def count_cost(
    config: TrainConfig, tests: Sequence[int], parameters: int, multiply_adds: int
) -> Cost:
    """Return the cost of a run that is measured on test sets of these sizes (none: never)."""
    points = len(config.points)
    images = sum(min(size, config.test_eval or size) for size in tests)
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


def choose_measuring(
    config: TrainConfig, tests: Sequence[int], chosen: Mapping[str, Any]
) -> TrainConfig:
    """Return the config with the densest log points on the most images that cost at most
    `MEASURING` of the run, or the least there are. Fields in `chosen` stay as they are.
    """
    sparse = [("spaced", images) for images in (10_000, 4_000, 2_000, 1_000)]
    few = [
        (max(1, config.steps // n), images) for n, images in ((20, 1_000), (10, 1_000), (10, 400))
    ]
    for log, images in (("paper", 10_000), ("fast", 10_000), *sparse, *few):
        fields = {"log": log, "test_eval": images, "train_eval": images}
        config = replace(config, **{**fields, **chosen})
        if count_cost(config, tests, 0, 0).evaluation_share <= MEASURING:
            break
    return config


def seconds(config: TrainConfig, data: Data, device: torch.device) -> tuple[float, float]:
    """Seconds of a training step and of one image's evaluation, timed here on a few."""
    form = batch_format(config, device)
    loader = make_loader(config, data.train, form)
    stepper = Stepper(config, make_model(config, data).to(device), device)
    batches = iter(loader)
    started = time.perf_counter()
    steps = min(_WARM + _TIMED, config.steps)
    warm = min(_WARM, steps - 1)
    for step in range(steps):
        if step == warm:
            stepper.check()
            started = time.perf_counter()
        stepper.step(*next(batches), config.learning_rate)
    stepper.check()
    step_seconds = (time.perf_counter() - started) / (steps - warm)
    height, width, _ = data.train.image_shape
    batch = evaluation_batch(device, data.train)
    images = torch.zeros(batch, 3, height, width, dtype=form.dtype, device=device)
    with torch.no_grad():
        stepper.predict(images)
        started = time.perf_counter()
        stepper.predict(images).sum().item()
    return step_seconds, (time.perf_counter() - started) / len(images)
