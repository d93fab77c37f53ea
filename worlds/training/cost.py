"""What a run will cost, before it is begun: counted exactly, and timed on a few steps."""

import time
from dataclasses import dataclass
from typing import Final

import torch

from worlds.models import find
from worlds.models.measure import describe
from worlds.training.build import Data, make_loader, make_model, place_of
from worlds.training.config import TrainConfig
from worlds.training.evaluation import BATCH
from worlds.training.stepper import Stepper

BACKWARD: Final = 3  # a training step costs about as much as this many forward passes
_WARM, _TIMED = 2, 5  # steps


@dataclass(frozen=True)
class Cost:
    """Of one run; multiply-adds count convolutions, linear layers and attention."""

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
    """The cost of the run to the end of its schedule."""
    log_points = len(config.points)
    architecture = find(config.arch, data.train.image_shape[0])
    row = describe(architecture, len(data.train.class_names), **config.options)
    return Cost(
        steps=config.steps,
        training_images=config.steps * config.batch_size,
        log_points=log_points,
        evaluation_images=log_points * images_per_point(config, data),
        parameters=row.parameters,
        multiply_adds=row.multiply_adds,
    )


def images_per_point(config: TrainConfig, data: Data) -> int:
    """Images that one log point runs through the network."""
    tests = [data.test] if data.cifar10 is None else [data.test, data.cifar10]
    images = sum(min(len(test), config.test_eval or len(test)) for test in tests)
    if config.world == "real":
        passes = 1 if config.augment is None else 2
        images += passes * min(config.n, config.train_eval or config.n)
    return images


def seconds(config: TrainConfig, data: Data, device: torch.device) -> tuple[float, float]:
    """Seconds of a training step and of one image's evaluation, timed here on a few."""
    place = place_of(config, device)
    loader = make_loader(config, data.train, place)
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
    images = torch.zeros(BATCH[device.type], 3, height, width, dtype=place.dtype, device=device)
    with torch.no_grad():
        stepper.predict(images)
        started = time.perf_counter()
        stepper.predict(images).sum().item()
    return step_seconds, (time.perf_counter() - started) / len(images)
