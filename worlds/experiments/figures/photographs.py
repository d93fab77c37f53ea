"""Figures 3a and 3b: networks at 224 px on ImageNet-DogBird, a dot each.

    worlds-experiment run fig3a fig3b --dogbird DIR

n = 10,000, 120 passes in units of 78 steps, SGD at 0.01 with momentum 0.9, random resized crop and
flip (what crop+flip is on photographs), pixels in [0, 1]. The Ideal World is approximate: 9,360
steps take 1.2 million images, 7.7 passes over the 155 thousand there are, with fresh crops each
time.

At the paper's scale: 440 runs, 4,118,400 steps, about 51 GPU-hours.
Reference: ResNet18 at n = 10,000 reaches 95 % test accuracy.

Figures 19, 20 and 21: samples of the data sets. Nothing is trained.

    worlds-experiment run fig19 fig21 --data DIR --cifar10 DIR --dogbird DIR

At the paper's scale: 3 runs, 3 steps, about 0 GPU-hours.
"""

from dataclasses import replace

from worlds.experiments.protocol import pair, pairs
from worlds.experiments.registry import Recipe, Scope
from worlds.experiments.sheets import config_of as sheet_of
from worlds.experiments.spec import Check, Group
from worlds.training.config import TrainConfig

UNIT, EPOCHS = 78, 120  # 78 whole batches of 128 in 10,000
DOGBIRD = TrainConfig(
    "resnet18",
    n=10_000,
    steps=UNIT * EPOCHS,
    unit=UNIT,
    learning_rate=0.01,
    momentum=0.9,
    passes=8,
    normalize="unit",
    log=32,
    test_eval=None,
)
# Figure 3a.
NETWORKS = {
    "ResNet18": "resnet18",
    "ResNet34": "resnet34",
    "ResNet50": "resnet50",
    "VGG11": "vgg11",
    "VGG16": "vgg16",
    "DenseNet121": "densenet121",
    "MobileNet-v2": "mobilenet_v2",
    "ResNeXt50": "resnext50_32x4d",
    "AlexNet": "alexnet",
    "BagNet9": "bagnet9",
    "BagNet17": "bagnet17",
    "BagNet33": "bagnet33",
    "S-CONV9": "sconv9",
    "S-CONV33": "sconv33",
    "MLP[3x2048]": "mlp_3x2048",
}
# Figure 3b.
WIDTHS = (8, 10, 12, 16, 24, 32, 64, 96)
NOTE = "The Ideal World is approximate: up to 8 passes over the pool with fresh crops."


def _widths(scope: Scope) -> list[Group]:
    """Return a group for each width; 64 is the network of figure 3a, whose runs are shared."""
    # Three widths are enough to see that it runs.
    widths = WIDTHS[:3] if scope.scale == "smoke" else WIDTHS
    return [
        pair(
            f"width {width}",
            replace(DOGBIRD, options={} if width == 64 else {"width": width}),
            scope,
        )
        for width in widths
    ]


def _sheet(label: str, scope: Scope, data: str | None = None) -> Group:
    count = 100 if label != "ImageNet-DogBird" else 36
    return Group(label, tuple(sheet_of(count, trial) for trial in scope.trials), data=data)


RECIPES = (
    Recipe(
        "fig3a",
        "Fifteen networks on photographs",
        "scatter",
        pairs({label: replace(DOGBIRD, arch=arch) for label, arch in NETWORKS.items()}),
        "On photographs of dogs and birds the worlds agree across networks.",
        (
            Check("gap", "within", tolerance=0.05),
            # The text: ResNet18 reaches 95 % with these 10,000 images.
            Check("error:real", "within", 0.05, tolerance=0.01, groups=("ResNet18",)),
        ),
        text="Soft-errors are 0.1 to 0.35.",
        data="dogbird",
        note=NOTE,
    ),
    Recipe(
        "fig3b",
        "ResNet18 of eight widths on photographs",
        "scatter",
        _widths,
        "Across widths the worlds agree, and wider networks are better in both.",
        (
            Check("gap", "within", tolerance=0.05),
            Check("real", "falls", tolerance=0.01),
            Check("ideal", "falls", tolerance=0.01),
        ),
        text="Soft-errors are 0.075 to 0.15.",
        data="dogbird",
        note=NOTE,
    ),
    Recipe(
        "fig21",
        "Samples of ImageNet-DogBird",
        "sheet",
        lambda scope: [_sheet("ImageNet-DogBird", scope)],
        "Both classes, dogs and birds, are there, about equally often.",
        (Check("classes_shown", "at least", 2), Check("largest_class", "at most", 0.55)),
        text="Samples of ImageNet-DogBird, under the crop that evaluation takes. Nothing is "
        "trained. Expected: as the paper's figure 21, which shows others of the same images.",
        data="dogbird",
        trials=1,
    ),
    Recipe(
        "fig19",
        "Samples of CIFAR-5m and of CIFAR-10",
        "sheet",
        lambda scope: [_sheet("CIFAR-5m", scope), _sheet("CIFAR-10", scope, data="cifar10")],
        "CIFAR-5m has CIFAR-10's ten classes, about equally often, and a labeler of 98.5 %.",
        (
            Check("classes_shown", "at least", 10),
            Check("largest_class", "at most", 0.12),
            Check("labeler_accuracy", "within", 0.985, 0.005, ("CIFAR-5m",)),
        ),
        text="Figures 19 and 20: samples of CIFAR-5m beside those of CIFAR-10. Expected: hard to "
        "tell apart; the labeler's accuracy on CIFAR-10, where the plan of the data states it, is "
        "98.5 %.",
        trials=1,
    ),
)
