"""Figures 3a and 3b: networks at 224 px on ImageNet-DogBird, a dot each.

    worlds-experiment run fig3a fig3b --dogbird DIR

n = 10,000, 120 passes in units of 78 steps, SGD at 0.01 with momentum 0.9, random resized crop and
flip (what crop+flip is on photographs), pixels in [0, 1]. The Ideal World is approximate: 9,360
steps take 1.2 million images, 7.7 passes over the 155 thousand there are, with fresh crops each
time.

At the paper's scale: 440 runs, 4,118,400 steps, about 51 GPU-hours.
Reference: ResNet18 at n = 10,000 reaches 95 % test accuracy.
"""

from dataclasses import replace

from worlds.experiments.protocol import pair
from worlds.experiments.registry import Scope, register
from worlds.experiments.spec import Check, Experiment
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
WIDTHS = (8, 10, 12, 16, 24, 32, 64, 96)
NOTE = "The Ideal World is approximate: up to 8 passes over the pool with fresh crops."


@register("dogbird")
def fig3a(scope: Scope) -> Experiment:
    """Expected: near y = x, over soft-errors of 0.1 to 0.35."""
    groups = (pair(label, replace(DOGBIRD, arch=arch), scope) for label, arch in NETWORKS.items())
    return Experiment(
        "fig3a",
        "Fifteen networks on photographs",
        "scatter",
        tuple(groups),
        claim="On photographs of dogs and birds the worlds agree across networks.",
        checks=(Check("gap", "within", tolerance=0.05),),
        note=NOTE,
    )


@register("dogbird")
def fig3b(scope: Scope) -> Experiment:
    """Expected: near y = x, over soft-errors of 0.075 to 0.15; wider is better in both worlds."""
    widths = WIDTHS[:3] if scope.scale == "smoke" else WIDTHS
    groups = tuple(
        pair(f"width {width}", replace(DOGBIRD, options=_options(width)), scope) for width in widths
    )
    return Experiment(
        "fig3b",
        "ResNet18 of eight widths on photographs",
        "scatter",
        groups,
        claim="Across widths the worlds agree, and wider networks are better in both.",
        checks=(Check("gap", "within", tolerance=0.05),),
        note=NOTE,
    )


def _options(width: int) -> dict[str, int]:
    """None for 64, the network of figure 3a, so that its runs are shared."""
    return {} if width == 64 else {"width": width}
