"""Figure 4a, and its like on a pool of 50,000 images: more samples, later T0.

    worlds-experiment run fig4a --data DIR
    worlds-experiment run samples_50k --data CIFAR10 --scale small

Every n trains for the same 39,000 steps (not for 100 passes of each n), so that one Ideal World
serves all.

At the paper's scale: 76 runs, 2,737,800 steps, about 4.3 GPU-hours.
"""

from dataclasses import replace

from worlds.config import TrainConfig
from worlds.experiments.protocol import RESNET18, ideal_of, over_trials
from worlds.experiments.registry import Scope, register
from worlds.report.experiment import Check, Experiment, Group

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
    )
