"""The cost of runs before any data is at hand: counted exactly, and guessed in hours of a GPU.

The guess takes one measured speed, ResNet18's training at batch 128 in bfloat16 on one H200, and
scales it by multiply-adds. Networks much smaller than that are bound by the launching of kernels
and take longer than it says; float32, the paper's, takes several times as long.
"""

from collections.abc import Iterable
from functools import cache
from typing import Final

from worlds.experiments.plan import Job
from worlds.experiments.registry import Data
from worlds.experiments.run_cost import BACKWARD, Cost, count_cost
from worlds.experiments.sheets import ARCH as SHEET

STEPS_PER_SECOND: Final = 414  # of ResNet18 at batch 128, bf16
RESNET18: Final = 555_422_720  # multiply-adds of an image, forward
PER_SECOND: Final = STEPS_PER_SECOND * 128 * BACKWARD * RESNET18
ASSUMED: Final = (
    f"GPU-hours are of one H200 in bf16 ({STEPS_PER_SECOND} steps/s of ResNet18 at batch 128, "
    "scaled by multiply-adds); fp32 and thin networks take longer. run --dry-run times them here"
)
CLASSES: Final[dict[Data, int]] = {"dogbird": 2}  # else 10
TEST: Final[dict[Data, int]] = {"dogbird": 6_100, "teacher": 100_000, "gray": 100_000}  # or 10,000
# Means over the 500 random networks of figure 2b by (width, cells): counting each of
# them takes minutes.
_RANDOM: Final[dict[tuple[object, object], int]] = {
    (16, 1): 13_580_553,
    (16, 5): 36_305_290,
    (64, 1): 186_469_697,
    (64, 5): 454_071_606,
}


def estimate(job: Job) -> Cost:
    """Return the cost of one run on data of the paper's sizes, measured on its test split alone."""
    config = job.config
    if job.data == "none" or config.arch == SHEET:
        return count_cost(config, [], 0, 0)
    options = tuple(sorted(config.options.items()))
    size = 224 if job.data == "dogbird" else 32
    return count_cost(
        config,
        [TEST.get(job.data, 10_000)],
        *_network(config.arch, options, size, CLASSES.get(job.data, 10)),
    )


def gpu_hours(costs: Iterable[Cost]) -> float:
    return sum(cost.total_multiply_adds for cost in costs) / PER_SECOND / 3600


@cache
def _network(
    arch: str, options: tuple[tuple[str, object], ...], image_size: int, classes: int
) -> tuple[int, int]:
    """Parameters and multiply-adds; random networks are given the mean of their setting."""
    from worlds.models import find
    from worlds.models.measure import describe

    given = dict(options)
    setting = given.get("width"), given.get("cells")
    if arch == "darts" and setting in _RANDOM:
        return 0, _RANDOM[setting]
    row = describe(find(arch, image_size), classes, **given)
    return row.parameters, row.multiply_adds
