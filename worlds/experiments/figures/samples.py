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

from dataclasses import replace

from worlds.experiments.protocol import AUGMENTATIONS, RESNET18, ideal_of, ideals, over_trials, pair
from worlds.experiments.registry import Scope, register
from worlds.experiments.spec import Check, Experiment, Group
from worlds.training.config import TrainConfig

SIZES = (1_000, 2_000, 5_000, 10_000, 25_000, 50_000)
# 42,000 images are left for the Ideal World of a pool of 50,000: 1,312 batches of 32.
SMALL_SIZES = (500, 1_000, 2_000, 4_000, 8_000)
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


@register("cifar5m")
def fig4a(scope: Scope) -> Experiment:
    """Expected: T0 grows with n, which is what larger n mostly does; the gap at T0 shrinks; past T0
    the Real World's curve is flat.
    """
    groups = _sizes(TrainConfig(RESNET18), SIZES, ideal_of(TrainConfig(RESNET18)), scope)
    return Experiment(
        "fig4a",
        "ResNet18: more samples train longer",
        "samples",
        groups,
        claim="A larger n puts T0 off, and makes the gap smaller.",
        checks=_checks(groups),
    )


@register("cifar5m", trials=1)
def samples_50k(scope: Scope) -> Experiment:
    """Figure 4a on a pool of 50,000, such as CIFAR-10's training set: a thin Myrtle5 without
    augmentation, n = 500 to 8,000. The Ideal World takes the other 42,000 images, each once, so it
    shares none with any Real World (smaller n are parts of the largest). The same at small and
    paper scale: a run takes about a minute of one CPU core.

    Expected, as measured on a JPEG copy of CIFAR-10 (one trial): T0 after 302, 555 and 1,151
    updates at n = 500, 1,000 and 2,000, not reached at 4,000 and 8,000; bootstrap errors of -0.03
    to -0.05: a network that is certain of samples it has seen often is the better in soft-error.
    """
    largest = replace(SMALL_NET, n=max(SMALL_SIZES), disjoint=True)
    groups = _sizes(SMALL_NET, SMALL_SIZES, ideal_of(largest), scope)
    return Experiment(
        "samples_50k",
        "A thin Myrtle5 on a pool of 50,000: more samples train longer",
        "samples",
        groups,
        claim="A larger n puts T0 off, and makes the gap smaller.",
        checks=_checks(groups),
        note="Not of the paper. No augmentation; the Ideal World leaves the Real World's samples "
        "out.",
    )


def _sizes(
    config: TrainConfig, sizes: tuple[int, ...], ideal: TrainConfig, scope: Scope
) -> tuple[Group, ...]:
    """A group for each n, all against one Ideal World."""
    shared = over_trials(ideal, scope)
    reals = [over_trials(replace(config, n=n), scope) for n in sizes]
    return tuple(Group(f"n = {runs[0].n:,}", runs, shared) for runs in reals)


def _checks(groups: tuple[Group, ...]) -> tuple[Check, ...]:
    """A run that ends before T0 counts as its last step, which several n may share."""
    return (
        Check("t0", "rises", tolerance=1),
        Check("gap", "within", tolerance=0.05, groups=(groups[-1].label,)),
        Check("distance", "above", groups=(groups[0].label,), others=(groups[-1].label,)),
        # The slides: scaling exponents multiply.
        Check("mismatch", "within", tolerance=0.1, groups=(groups[-1].label,)),
    )


# Figure 11b's axis ends near 7,000 steps: 100 passes over n = 10,000, of 78 whole batches each.
UNIT, EPOCHS = 78, 100


ALONE = {
    "VGG11-bn": "vgg11_bn",
    "ResNet18": RESNET18,
    "AlexNet": "alexnet",
    "MLP[3x2048]": "mlp_3x2048",
}


_LABELS = tuple(f"augmentation {name}" for name in AUGMENTATIONS)  # with, without
_WHERE_AUGMENTATION_ACTS = (
    Check("t0", "falls"),
    Check("final_ideal", "near", 0.0, 0.03, groups=_LABELS[:1], others=_LABELS[1:]),
)


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
        checks=_WHERE_AUGMENTATION_ACTS,
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
        checks=(
            *_WHERE_AUGMENTATION_ACTS,
            Check("gap", "above", groups=_LABELS[1:], others=_LABELS[:1]),
        ),
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
    labels = [group.label for group in groups]
    hurt = [label for label in labels if label.startswith(("AlexNet", "MLP"))]
    same = [label for label in labels if label not in hurt]
    return Experiment(
        "fig10",
        "Augmentation in the Ideal World",
        "curves",
        groups,
        claim="In the Ideal World augmentation does not change VGG and ResNet, and hurts AlexNet "
        "and the MLP.",
        checks=(
            Check("final_ideal", "near", 0.0, 0.03, tuple(same[::2]), others=tuple(same[1::2])),
            Check("final_ideal", "above", groups=tuple(hurt[::2]), others=tuple(hurt[1::2])),
        ),
    )
