"""Noise on the labels: random labels, and experiments of the slides and of other articles.

    worlds-experiment run random_labels noisy_test rrm rrm_50k class_pair --data DIR

ResNet18; test labels stay clean but in noisy_test. The paper's released code corrupts them too.

At the paper's scale: 82 runs, 3,122,600 steps, about 8 GPU-hours.

Beyond the paper, from runs of its figures: two decompositions, and early stopping.

    worlds-experiment run erm stopping --data DIR

Nothing of its own is trained.

At the paper's scale: 140 runs, 5,460,000 steps, about 24 GPU-hours.
"""

from collections.abc import Callable
from dataclasses import replace

from worlds.experiments.figures.samples import SMALL_NET
from worlds.experiments.protocol import AUGMENTATIONS, INTRODUCTION, RESNET18, TEN, pairs, reals
from worlds.experiments.registry import Recipe, Scope
from worlds.experiments.spec import Check, Group
from worlds.training.config import TrainConfig

CHANCE = 0.9  # error of a guess among ten classes
CAT_TO_DOG = "pairs:0.3:3>5"  # of class 3, which become class 5
# Labels are fitted for certain: without augmentation and with momentum.
FITTED = TrainConfig(RESNET18, augment=None, momentum=0.9)
_NOISY_TEST = replace(FITTED, label_noise="symmetric:0.2", test_noise=True)
# Two experiments that differ in their network.
_RRM_TITLE = "Robustness, rationality and memorization of a {} at 20 % label noise"
_RRM_CLAIM = (
    "The generalization gap is at most the sum of the three gaps, of which memorization is the "
    "largest for networks trained end to end."
)
_RRM_CHECKS = (
    Check("slack", "at least", 0.0, tolerance=1e-9),
    Check("memorization_share", "at least", 0.5),
)


def _clean_and_noisy(label: str, clean: TrainConfig) -> Callable[[Scope], tuple[Group, ...]]:
    """Return a clean run and one with a fifth of the labels changed."""
    configs = [clean, replace(clean, label_noise="symmetric:0.2")]
    return lambda scope: (reals(label, configs, scope),)


RECIPES = (
    Recipe(
        "random_labels",
        "Random labels",
        "curves",
        pairs({"ResNet18": replace(FITTED, label_noise="symmetric:0.9")}),
        "On random labels the Real World's test error is far above its train error of 0; "
        "both worlds are at chance, so their gap is 0.",
        (
            Check("final_real", "within", CHANCE, 0.02),
            Check("final_ideal", "within", CHANCE, 0.02),
            Check("final_train", "at most", 0.01),
            Check("generalization", "at least", 0.8),
        ),
        text="Every label wrong or right by chance: noise of 0.9 among ten classes. In the paper a "
        "thought experiment, without a figure. No augmentation and momentum 0.9, so that the Real "
        "World fits its labels.",
        metric="error",
    ),
    Recipe(
        "noisy_test",
        "Why soft-error: noise in the distribution",
        "metrics",
        pairs({"ResNet18": _NOISY_TEST}),
        "Where labels are noisy the worlds differ in error, and less in soft-error.",
        (
            Check("error:gap", "at least", 0.05),
            Check("soft_error:gap", "at most", 0.05),
            Check("final_train", "at most", 0.05),
        ),
        text="20 % label noise in the distribution, so on test labels too: a Bayes risk of 0.2. "
        "Expected (the slides): the Ideal World goes to the best decision, the Real World to a "
        "sample of p(y|x), so their errors differ by up to 0.16; their soft-errors need not.",
        note="Of the slides, not of the paper. CIFAR-10's own test labels stay clean.",
    ),
    Recipe(
        "rrm",
        _RRM_TITLE.format("ResNet18"),
        "rrm",
        _clean_and_noisy("ResNet18", TrainConfig(RESNET18)),
        _RRM_CLAIM,
        _RRM_CHECKS,
        text="A clean run and one with a fifth of the labels changed (Bansal, Kaplun and Barak).",
        note="Not of the paper.",
    ),
    Recipe(
        "rrm_50k",
        _RRM_TITLE.format("thin Myrtle5"),
        "rrm",
        _clean_and_noisy("thin Myrtle5", replace(SMALL_NET, n=2_000)),
        _RRM_CLAIM,
        _RRM_CHECKS,
        text="The same for the network of samples_50k at n = 2,000; its clean run is that "
        "experiment's. Expected, as measured on a JPEG copy of CIFAR-10 (one trial): robustness "
        "0.21, memorization 0.60, rationality 0.00, against a generalization gap of 0.48.",
        trials=1,
        note="Not of the paper.",
    ),
    Recipe(
        "class_pair",
        "Cats called dogs",
        "pairs",
        pairs({"ResNet18": replace(FITTED, label_noise=CAT_TO_DOG)}),
        "A Real World that fits noisy labels repeats their share on test images, the Ideal "
        "World decides for the majority but gives that share in its softmax; other classes are "
        "unaffected.",
        (
            Check("pairs_train", "at most", 0.01),
            Check("partner_real", "within", 0.3, 0.1),
            Check("partner_ideal", "at most", 0.2),
            Check("mass_real", "within", 0.3, 0.1),
            Check("mass_ideal", "within", 0.3, 0.1),
            Check("others_gap", "at most", 0.1),
        ),
        text="30 % of the training cats are labeled dogs; no augmentation and momentum 0.9, so "
        "that the Real World fits its labels. Expected (Nakkiran and Bansal): it calls about that "
        "share of the test cats dogs and is as the Ideal World in other classes; the Ideal World "
        "goes with the majority and calls few so, but its softmax gives them that share.",
        note="Of the slides, not of the paper.",
    ),
    Recipe(
        "erm",
        "Two decompositions of the test error",
        "decompositions",
        pairs(
            {
                f"{label}, augmentation {name}": TrainConfig(TEN[label], augment=augment)
                for label in ("ResNet18", "MLP[3x2048]")
                for name, augment in AUGMENTATIONS.items()
            }
        ),
        "The generalization gap is nearly all of the test error, the bootstrap error little.",
        (
            Check("generalization_share", "at least", 0.8),
            Check("bootstrap_share", "at most", 0.2),
        ),
        text="Test error as train error plus generalization gap (empirical risk minimization), and "
        "as Ideal World error plus bootstrap error.",
        note="Not of the paper. The runs of figures 2a, 5a and 11a.",
    ),
    Recipe(
        "stopping",
        "Early stopping by patience against T0",
        "stopping",
        pairs(INTRODUCTION),
        "Stopping at T0 costs little against stopping by patience.",
        (Check("lost", "at most", 0.02),),
        text="Patience of 20 log points ends a run before T0 where the test soft-error wavers.",
        note="Not of the paper. The runs of figure 1.",
    ),
)
