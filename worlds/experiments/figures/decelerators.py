"""Early stopping under label noise, and what slows the Real World down. Not of the paper.

    worlds-experiment run early_stopping decelerators aggressive --data DIR

ResNet18 without augmentation at momentum 0.9 stops by the error on 5,000 validation samples beside
its n = 45,000, labeled as they are: patience of 5 epochs without a fall of more than 0.002. The
decelerators are those of an MLP, whose dropout is an option; the augmentations those of ResNet18.

At the paper's scale: 190 runs, 7,410,000 steps, about 11 GPU-hours.
"""

from dataclasses import replace

from worlds.experiments.figures.noise import FITTED
from worlds.experiments.protocol import RESNET18, pair, reals
from worlds.experiments.registry import Scope, register
from worlds.experiments.spec import Check, Experiment
from worlds.training.config import TrainConfig

NOISE = {"no noise": None, "20 % noise": "symmetric:0.2", "40 % noise": "symmetric:0.4"}
SPLIT = replace(FITTED, n=45_000, validation=5_000, patience=5, min_improvement=0.002)
PLAIN = TrainConfig("mlp_3x2048", augment=None, momentum=0.9, learning_rate=0.01)
SLOWER = {
    "weight decay 5e-4": replace(PLAIN, weight_decay=5e-4),
    "dropout 0.5": replace(PLAIN, options={"dropout": 0.5}),
    "a tenth of the rate": replace(PLAIN, learning_rate=0.001),
}
AUGMENTED = {
    "crop+flip": TrainConfig(RESNET18),
    "crop+flip+cutout": TrainConfig(RESNET18, augment="crop+flip+cutout"),
    "cutout": TrainConfig(RESNET18, augment="cutout"),
    "mixup": TrainConfig(RESNET18, augment=None, mixup=1.0),
}


@register("cifar5m")
def early_stopping(scope: Scope) -> Experiment:
    """Expected (a textbook): clean labels are fitted first and wrong ones later, so that early
    stopping gains much where labels are noisy, and little where they are not.
    """
    groups = tuple(
        reals(label, [replace(SPLIT, label_noise=noise)], scope) for label, noise in NOISE.items()
    )
    clean, *noisy = (group.label for group in groups)
    return Experiment(
        "early_stopping",
        "Early stopping by a validation split, with and without label noise",
        "stopping",
        groups,
        claim="Early stopping gains test error where labels are noisy and hardly any where they "
        "are not; clean labels are fitted before wrong ones.",
        checks=(
            Check("gained", "within", 0.0, 0.03, (clean,)),
            Check("gained", "at least", 0.05, groups=tuple(noisy)),
            Check("fitted_later", "at least", 1.5, groups=tuple(noisy)),
        ),
        metric="error",
        note="Not of the paper. Steps and samples shrink with the scale, the patience does not.",
    )


@register("cifar5m")
def decelerators(scope: Scope) -> Experiment:
    """Weight decay, dropout and a lower rate. Expected (the blog): they act by a later T0, with a
    bootstrap error as small as before.
    """
    plain = pair("plain", PLAIN, scope)
    slower = tuple(pair(label, config, scope) for label, config in SLOWER.items())
    labels = tuple(group.label for group in slower)
    return Experiment(
        "decelerators",
        "What slows the Real World down",
        "curves",
        (plain, *slower),
        claim="Regularization puts the Real World's T0 off and leaves the bootstrap error small.",
        checks=(
            Check("t0", "above", groups=labels, others=(plain.label,) * len(labels)),
            Check("gap", "within", tolerance=0.05),
        ),
        note="Of the blog, not of the paper. A run that ends before T0 counts as its last step.",
    )


@register("cifar5m")
def aggressive(scope: Scope) -> Experiment:
    """Cutout with crops and alone, and mixup (alpha 1) alone, against crop and flip. Expected (the
    blog): in the Ideal World they hurt, in the Real World a later T0 makes up for it.
    """
    groups = tuple(pair(label, config, scope) for label, config in AUGMENTED.items())
    mild, *hard = (group.label for group in groups)
    return Experiment(
        "aggressive",
        "Aggressive augmentation in both worlds",
        "curves",
        groups,
        claim="Aggressive augmentation makes the Ideal World worse and puts T0 off.",
        checks=(
            Check("final_ideal", "above", groups=tuple(hard), others=(mild,) * len(hard)),
            Check("t0", "above", groups=(hard[0],), others=(mild,)),
        ),
        metric="error",
        note="Of the blog, not of the paper. Test images are never mixed.",
    )
