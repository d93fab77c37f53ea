"""Figure 5c: a convolutional network and its fully connected like.

    worlds-experiment run fig5c --data DIR

D-CONV has 8 convolutions and two linear layers, D-FC a dense layer for each of them (1.17 billion
parameters; a training step holds three times that many floats). Rate 0.1, base width 32.

At the paper's scale: 40 runs, 1,560,000 steps, about 2.6 GPU-hours.
"""

from worlds.config import TrainConfig
from worlds.experiments.protocol import pair
from worlds.experiments.registry import Scope, register
from worlds.report.experiment import Check, Experiment


@register("cifar5m")
def fig5c(scope: Scope) -> Experiment:
    """Expected: both fit their training set, D-CONV generalises much better, and each Real World is
    close to its Ideal World: the bias of convolution shows as faster online learning.
    """
    groups = tuple(
        pair(label, TrainConfig(arch), scope)
        for label, arch in (("D-CONV", "dconv"), ("D-FC", "dfc"))
    )
    return Experiment(
        "fig5c",
        "Convolutions against dense layers",
        "curves",
        groups,
        claim="D-CONV generalises better than D-FC because it learns faster in the Ideal World.",
        checks=(
            Check("gap", "within", tolerance=0.05),
            Check("ideal", "rises"),
            Check("real", "rises"),
        ),
    )
