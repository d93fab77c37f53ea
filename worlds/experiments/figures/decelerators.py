"""Early stopping under label noise, and what slows the Real World down. Not of the paper.

    worlds-experiment run early_stopping decelerators aggressive --data DIR

ResNet18 without augmentation at momentum 0.9 stops by the error on 5,000 validation samples beside
its n = 45,000, labeled as they are: patience of 5 epochs without a fall of more than 0.002. The
decelerators are those of an MLP, whose dropout is an option; the augmentations those of ResNet18.

At the paper's scale: 190 runs, 7,410,000 steps, about 11 GPU-hours.
"""

from dataclasses import replace

from worlds.experiments.figures.noise import FITTED
from worlds.experiments.protocol import RESNET18, pairs, reals
from worlds.experiments.registry import Recipe
from worlds.experiments.spec import Check
from worlds.training.config import TrainConfig

NOISE = {"no noise": None, "20 % noise": "symmetric:0.2", "40 % noise": "symmetric:0.4"}
# 45,000 to train on and 5,000 to validate on.
SPLIT = replace(FITTED, n=45_000, validation=5_000, patience=5, min_improvement=0.002)
# Regularization that slows the fit of the training set.
PLAIN = TrainConfig("mlp_3x2048", augment=None, momentum=0.9, learning_rate=0.01)
SLOWER = {
    "weight decay 5e-4": replace(PLAIN, weight_decay=5e-4),
    "dropout 0.5": replace(PLAIN, options={"dropout": 0.5}),
    "a tenth of the rate": replace(PLAIN, learning_rate=0.001),
}
# From mild to aggressive.
AUGMENTED = {
    "crop+flip": TrainConfig(RESNET18),
    "crop+flip+cutout": TrainConfig(RESNET18, augment="crop+flip+cutout"),
    "cutout": TrainConfig(RESNET18, augment="cutout"),
    "mixup": TrainConfig(RESNET18, augment=None, mixup=1.0),
}
_CLEAN, *_NOISY = NOISE
_MILD, *_HARD = AUGMENTED

RECIPES = (
    Recipe(
        "early_stopping",
        "Early stopping by a validation split, with and without label noise",
        "stopping",
        lambda scope: [
            reals(label, [replace(SPLIT, label_noise=noise)], scope)
            for label, noise in NOISE.items()
        ],
        "Early stopping gains test error where labels are noisy and hardly any where they "
        "are not; clean labels are fitted before wrong ones.",
        (
            Check("gained", "within", 0.0, 0.03, (_CLEAN,)),
            Check("gained", "at least", 0.05, groups=tuple(_NOISY)),
            Check("fitted_later", "at least", 1.5, groups=tuple(_NOISY)),
        ),
        metric="error",
        note="Of a textbook, not of the paper. Steps and samples shrink with the scale, the "
        "patience does not.",
    ),
    Recipe(
        "decelerators",
        "What slows the Real World down",
        "curves",
        pairs({"plain": PLAIN} | SLOWER),
        "Regularization puts the Real World's T0 off and leaves the bootstrap error small.",
        (
            Check("t0", "above", groups=tuple(SLOWER), others=("plain",) * len(SLOWER)),
            Check("gap", "within", tolerance=0.05),
        ),
        text="Weight decay, dropout and a lower rate: they act by a later T0.",
        note="Of the blog, not of the paper. A run that ends before T0 counts as its last step.",
    ),
    Recipe(
        "aggressive",
        "Aggressive augmentation in both worlds",
        "curves",
        pairs(AUGMENTED),
        "Aggressive augmentation makes the Ideal World worse and puts T0 off.",
        (
            Check("final_ideal", "above", groups=tuple(_HARD), others=(_MILD,) * len(_HARD)),
            Check("t0", "above", groups=(_HARD[0],), others=(_MILD,)),
        ),
        text="Cutout with crops and alone, and mixup (alpha 1) alone, against crop and flip. In "
        "the Real World a later T0 makes up for what they hurt.",
        metric="error",
        note="Of the blog, not of the paper. Test images are never mixed.",
    ),
)
