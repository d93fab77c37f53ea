"""Figures 5a, 10 and 11b: what crop and flip do in each world.

    worlds-experiment run fig5a fig10 fig11b --data DIR

At the paper's scale: 140 runs, 4,212,000 steps, about 3.3 GPU-hours.
"""

from dataclasses import replace

from worlds.config import TrainConfig
from worlds.experiments.protocol import AUGMENTATIONS, RESNET18, ideals, pair
from worlds.experiments.registry import Scope, register
from worlds.report.experiment import Check, Experiment, Group

# Figure 11b's axis ends near 7,000 steps: 100 passes over n = 10,000, of 78 whole batches each.
UNIT, EPOCHS = 78, 100
ALONE = {
    "VGG11-bn": "vgg11_bn",
    "ResNet18": RESNET18,
    "AlexNet": "alexnet",
    "MLP[3x2048]": "mlp_3x2048",
}


def _with_and_without(config: TrainConfig, scope: Scope) -> tuple[Group, ...]:
    return tuple(
        pair(f"augmentation {label}", replace(config, augment=augment), scope)
        for label, augment in AUGMENTATIONS.items()
    )


@register("cifar5m")
def fig5a(scope: Scope) -> Experiment:
    """Expected: the Ideal World barely changes with augmentation, the Real World converges later
    with it (T0 is later), and ends better.
    """
    return Experiment(
        "fig5a",
        "ResNet18 with and without augmentation",
        "curves",
        _with_and_without(TrainConfig(RESNET18), scope),
        claim="Augmentation leaves the Ideal World as it is and puts the Real World's T0 off.",
        checks=(Check("t0", "falls"),),
    )


@register("cifar5m")
def fig11b(scope: Scope) -> Experiment:
    """Figure 5a at n = 10,000, for 7,800 steps in 100 units of 78, with an Ideal World of its own.
    Expected: as there; without augmentation the gap is larger.
    """
    config = TrainConfig(RESNET18, n=10_000, steps=UNIT * EPOCHS, unit=UNIT)
    return Experiment(
        "fig11b",
        "ResNet18 with and without augmentation at n = 10,000 of the paper's scale",
        "curves",
        _with_and_without(config, scope),
        claim="At smaller n, too, augmentation puts T0 off and hardly changes the Ideal World.",
        checks=(Check("t0", "falls"),),
        note="100 passes: 7,800 steps in units of 78.",
    )


@register("cifar5m")
def fig10(scope: Scope) -> Experiment:
    """Ideal World alone. Expected: VGG and ResNet end where they end without augmentation, AlexNet
    and the MLP clearly worse with it.
    """
    groups = tuple(
        ideals(
            f"{label}, augmentation {name}",
            TrainConfig(arch, augment=augment),
            scope,
            panel=label,
            series=f"augmentation {name}",
        )
        for label, arch in ALONE.items()
        for name, augment in AUGMENTATIONS.items()
    )
    hurt = [group.label for group in groups if group.label.startswith(("AlexNet", "MLP"))]
    return Experiment(
        "fig10",
        "Augmentation in the Ideal World",
        "curves",
        groups,
        claim="In the Ideal World augmentation does not change VGG and ResNet, and hurts AlexNet "
        "and the MLP.",
        checks=tuple(
            Check("final_ideal", "falls", groups=(both, without))
            for both, without in zip(hurt[::2], hurt[1::2], strict=True)
        ),
    )
