"""Noise on the training labels: random labels, and two experiments beyond the paper.

    worlds-experiment run random_labels rrm rrm_50k class_pair --data DIR

ResNet18 by the main protocol; test labels stay clean. The paper's released code corrupts them too.

At the paper's scale: 62 runs, 2,342,600 steps, about 3.9 GPU-hours.

Beyond the paper, from runs of its figures: two decompositions, and early stopping.

    worlds-experiment run erm stopping --data DIR

Nothing of its own is trained.

At the paper's scale: 140 runs, 5,460,000 steps, about 16 GPU-hours.
"""

from dataclasses import replace

from worlds.experiments.figures.samples import SMALL_NET
from worlds.experiments.protocol import AUGMENTATIONS, INTRODUCTION, RESNET18, TEN, pair, reals
from worlds.experiments.registry import Scope, register
from worlds.experiments.spec import Check, Experiment
from worlds.training.config import TrainConfig

CLASSES = 10
CAT_TO_DOG = "pairs:0.3:3>5"


@register("cifar5m")
def random_labels(scope: Scope) -> Experiment:
    """Every label wrong or right by chance: noise of 0.9 among ten classes. In the paper a thought
    experiment, without a figure. Expected: a test error of 0.9 in both worlds.
    """
    config = TrainConfig(RESNET18, label_noise="symmetric:0.9")
    chance = 1 - 1 / CLASSES
    return Experiment(
        "random_labels",
        "Random labels",
        "curves",
        (pair("ResNet18", config, scope),),
        claim="On random labels both worlds are at chance, so their gap is 0, even where the Real "
        "World fits its training set.",
        checks=(
            Check("final_real", "within", chance, 0.02),
            Check("final_ideal", "within", chance, 0.02),
        ),
        metric="error",
    )


@register("cifar5m")
def rrm(scope: Scope) -> Experiment:
    """A clean run and one with a fifth of the labels changed. Expected (Bansal, Kaplun and Barak):
    trained end to end the generalization gap is mostly memorization; the sum bounds it.
    """
    clean = TrainConfig(RESNET18)
    return _rrm("rrm", "ResNet18", clean, scope)


@register("cifar5m", trials=1)
def rrm_50k(scope: Scope) -> Experiment:
    """The same for the network of samples_50k at n = 2,000; its clean run is that experiment's.
    Expected, as measured on a JPEG copy of CIFAR-10 (one trial): robustness 0.21, memorization
    0.60, rationality 0.00, against a generalization gap of 0.48.
    """
    return _rrm("rrm_50k", "thin Myrtle5", replace(SMALL_NET, n=2_000), scope)


def _rrm(name: str, label: str, clean: TrainConfig, scope: Scope) -> Experiment:
    noisy = replace(clean, label_noise="symmetric:0.2")
    return Experiment(
        name,
        f"Robustness, rationality and memorization of a {label} at 20 % label noise",
        "rrm",
        (reals(label, [clean, noisy], scope),),
        claim="The generalization gap is at most the sum of the three gaps, of which memorization "
        "is the largest for networks trained end to end.",
        note="Not of the paper.",
    )


@register("cifar5m")
def class_pair(scope: Scope) -> Experiment:
    """30 % of the training cats are labeled dogs. Expected (Nakkiran and Bansal): a Real World
    that has fitted its labels calls about that share of the test cats dogs; the Ideal World goes
    with the majority and calls few so. Their decisions differ, their soft-errors need not.
    """
    return Experiment(
        "class_pair",
        "Cats called dogs",
        "pairs",
        (pair("ResNet18", TrainConfig(RESNET18, label_noise=CAT_TO_DOG), scope),),
        claim="A Real World that fits noisy labels repeats their share on test images, the Ideal "
        "World decides for the majority.",
        checks=(
            Check("partner_real", "within", 0.3, 0.1),
            Check("partner_ideal", "at most", 0.1),
        ),
        note="Not of the paper.",
    )


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
    """Compare where patience of 20 log points would end the runs of figure 1 with T0. Expected:
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
