"""Beyond the paper, from runs of its figures: two decompositions, and early stopping.

    worlds-experiment run erm stopping --data DIR

Nothing of its own is trained.

At the paper's scale: 140 runs, 5,460,000 steps, about 16 GPU-hours.
"""

from worlds.config import TrainConfig
from worlds.experiments.protocol import AUGMENTATIONS, INTRODUCTION, RESNET18, TEN, pair
from worlds.experiments.registry import Scope, register
from worlds.report.experiment import Experiment


@register("cifar5m")
def erm(scope: Scope) -> Experiment:
    """Test error as train error plus generalization gap (empirical risk minimisation), and as Ideal
    World error plus bootstrap error. Expected: in the first the gap is nearly all of it, in the
    second the Ideal World is.
    """
    groups = tuple(
        pair(f"{label}, augmentation {name}", TrainConfig(arch, augment=augment), scope)
        for label, arch in (("ResNet18", RESNET18), ("MLP[3x2048]", TEN["MLP[3x2048]"]))
        for name, augment in AUGMENTATIONS.items()
    )
    return Experiment(
        "erm",
        "Two decompositions of the test error",
        "decompositions",
        groups,
        claim="The generalization gap is nearly all of the test error, the bootstrap error little.",
        note="Not of the paper. The runs of figures 2a, 5a and 11a.",
    )


@register("cifar5m")
def stopping(scope: Scope) -> Experiment:
    """Where patience of 20 log points would end the runs of figure 1, against T0. Expected:
    patience ends before T0 where the test soft-error wavers; it gains little over T0.
    """
    groups = tuple(pair(label, config, scope) for label, config in INTRODUCTION.items())
    return Experiment(
        "stopping",
        "Early stopping by patience against T0",
        "stopping",
        groups,
        claim="Stopping at T0 costs little against stopping by patience.",
        note="Not of the paper. The runs of figure 1.",
    )
