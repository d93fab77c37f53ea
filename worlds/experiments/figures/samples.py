"""Figure 4a, and its like on a pool of 50,000 images: more samples, later T0.

    worlds-experiment run fig4a --data DIR
    worlds-experiment run samples_50k --data CIFAR10 --scale small

Every n trains for the same 39,000 steps (not for 100 passes of each n), so that one Ideal World
serves all.

At the paper's scale: 76 runs, 2,737,800 steps, about 5.2 GPU-hours.

Figures 5a, 10 and 11b: what crop and flip do in each world.

    worlds-experiment run fig5a fig10 fig11b --data DIR

At the paper's scale: 140 runs, 4,212,000 steps, about 4.6 GPU-hours.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from worlds.experiments.protocol import (
    AUGMENTATIONS,
    RESNET18,
    ideals,
    pairs,
    sizes,
)
from worlds.experiments.registry import Recipe, Scope
from worlds.experiments.spec import Check, Group
from worlds.training.config import TrainConfig

SIZES = (1_000, 2_000, 5_000, 10_000, 25_000, 50_000)
# 42,000 images are left for the Ideal World of a pool of 50,000: 1,312 batches of 32.
SMALL_SIZES = (500, 1_000, 2_000, 4_000, 8_000)
# A minute of a CPU core a run.
SMALL_NET = TrainConfig(
    "myrtle5",
    options={"width": 8},
    steps=1_300,
    batch_size=32,
    learning_rate=0.02,
    momentum=0.9,
    unit=13,
    augment=None,
    log="spaced",
    test_eval=2_000,
    train_eval=500,
)
_DISJOINT = replace(SMALL_NET, n=max(SMALL_SIZES), disjoint=True)
# Figure 11b's axis ends near 7,000 steps: 100 passes over n = 10,000, of 78 whole batches each.
UNIT, EPOCHS = 78, 100
# Networks of figure 10.
ALONE = {
    "VGG11-bn": "vgg11_bn",
    "ResNet18": RESNET18,
    "AlexNet": "alexnet",
    "MLP[3x2048]": "mlp_3x2048",
}
_WITH, _WITHOUT = (f"augmentation {name}" for name in AUGMENTATIONS)
_WHERE_AUGMENTATION_ACTS = (
    Check("t0", "falls"),
    Check("final_ideal", "near", 0.0, 0.03, groups=(_WITH,), others=(_WITHOUT,)),
)


def _later_and_nearer(groups: Sequence[Group]) -> tuple[Check, ...]:
    """Return the checks; without T0 a run counts as its last step, which several n may share."""
    # The groups are in the order of n.
    smallest, largest = (groups[0].label,), (groups[-1].label,)
    return (
        Check("t0", "rises", tolerance=1),
        Check("gap", "within", tolerance=0.05, groups=largest),
        Check("distance", "above", groups=smallest, others=largest),
        # The slides: scaling exponents multiply.
        Check("mismatch", "within", tolerance=0.1, groups=largest),
    )


def _with_and_without(config: TrainConfig) -> Callable[[Scope], list[Group]]:
    return pairs(
        {
            f"augmentation {label}": replace(config, augment=augment)
            for label, augment in AUGMENTATIONS.items()
        }
    )


def _ideal_alone(scope: Scope) -> list[Group]:
    return [
        ideals(
            f"{label}, augmentation {name}",
            TrainConfig(arch, augment=augment),
            scope,
            panel=label,
            series=f"augmentation {name}",
        )
        for label, arch in ALONE.items()
        for name, augment in AUGMENTATIONS.items()
    ]


def _hurt_or_not(groups: Sequence[Group]) -> tuple[Check, ...]:
    """Return the checks; a network's labels follow one another: with augmentation, without."""
    # Networks that augmentation hurts in the Ideal World, and the others.
    labels = [group.label for group in groups]
    hurt = [label for label in labels if label.startswith(("AlexNet", "MLP"))]
    same = [label for label in labels if label not in hurt]
    return (
        Check("final_ideal", "near", 0.0, 0.03, tuple(same[::2]), others=tuple(same[1::2])),
        Check("final_ideal", "above", groups=tuple(hurt[::2]), others=tuple(hurt[1::2])),
    )


RECIPES = (
    Recipe(
        "fig4a",
        "ResNet18: more samples train longer",
        "samples",
        lambda scope: sizes(TrainConfig(RESNET18), SIZES, scope),
        "A larger n puts T0 off, and makes the gap smaller.",
        _later_and_nearer,
        text="A later T0 is what a larger n mostly gives; past T0 the Real World's curve is flat.",
    ),
    Recipe(
        "samples_50k",
        "A thin Myrtle5 on a pool of 50,000: more samples train longer",
        "samples",
        lambda scope: sizes(SMALL_NET, SMALL_SIZES, scope, ideal=_DISJOINT),
        "A larger n puts T0 off, and makes the gap smaller.",
        _later_and_nearer,
        text="""\
Figure 4a on a pool of 50,000, such as CIFAR-10's training set: a thin Myrtle5 without
augmentation, n = 500 to 8,000. The Ideal World takes the other 42,000 images, each once, so it
shares none with any Real World (smaller n are parts of the largest). The same at small and
paper scale: a run takes about a minute of one CPU core.

Expected, as measured on a JPEG copy of CIFAR-10 (one trial): T0 after 302, 555 and 1,151
updates at n = 500, 1,000 and 2,000, not reached at 4,000 and 8,000; bootstrap errors of -0.03
to -0.05: a network that is certain of samples it has seen often is the better in soft-error.""",
        trials=1,
        note="Not of the paper. No augmentation; the Ideal World leaves the Real World's samples "
        "out.",
    ),
    Recipe(
        "fig5a",
        "ResNet18 with and without augmentation",
        "curves",
        _with_and_without(TrainConfig(RESNET18)),
        "Augmentation leaves the Ideal World as it is and puts the Real World's T0 off.",
        _WHERE_AUGMENTATION_ACTS,
        text="With augmentation the Real World ends better.",
    ),
    Recipe(
        "fig11b",
        "ResNet18 with and without augmentation at n = 10,000 of the paper's scale",
        "curves",
        _with_and_without(TrainConfig(RESNET18, n=10_000, steps=UNIT * EPOCHS, unit=UNIT)),
        "At smaller n, too, augmentation puts T0 off and hardly changes the Ideal World.",
        (
            *_WHERE_AUGMENTATION_ACTS,
            Check("gap", "above", groups=(_WITHOUT,), others=(_WITH,)),
        ),
        text="Figure 5a at n = 10,000, for 7,800 steps in 100 units of 78, with an Ideal World of "
        "its own. Without augmentation the gap is larger.",
        note="100 passes: 7,800 steps in units of 78.",
    ),
    Recipe(
        "fig10",
        "Augmentation in the Ideal World",
        "curves",
        _ideal_alone,
        "In the Ideal World augmentation does not change VGG and ResNet, and hurts AlexNet "
        "and the MLP.",
        _hurt_or_not,
        text="Ideal World alone.",
    ),
)
