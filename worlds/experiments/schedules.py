"""Figure 15: a learning rate that drops.

    worlds-experiment run fig15 --data DIR

ResNet18, n = 50,000, 19,500 steps in 50 units, rate 0.1 and a tenth of it after units 17 and 34.
The Ideal World has the same schedule, so it is one of its own.

At the paper's scale: 20 runs, 390,000 steps, about 0.72 GPU-hours.
"""

from worlds.config import TrainConfig
from worlds.experiments.protocol import RESNET18, pair
from worlds.experiments.registry import Scope, register
from worlds.report.experiment import Check, Experiment


@register("cifar5m")
def fig15(scope: Scope) -> Experiment:
    """Expected: where the rate drops the Ideal World's error drops, as the Real World's does."""
    config = TrainConfig(RESNET18, steps=19_500, schedule="3step")
    return Experiment(
        "fig15",
        "ResNet18 with a learning rate that drops",
        "curves",
        (pair("ResNet18", config, scope),),
        claim="The Ideal World's error drops at the same steps as the Real World's.",
        checks=(Check("gap", "within", tolerance=0.05),),
    )
