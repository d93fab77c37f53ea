"""Figures 5b, 13 and 14: pretrained against from scratch. Needs checkpoints that are not here.

    worlds-experiment run fig13 fig14 --data DIR      the halves from scratch
    worlds-experiment run fig13 fig14 --data DIR --weights fig13=vit.pt --weights fig14=mlp.pt

Weights are state dicts of this project's networks, of any number of classes; the MLP's may be of
another image size (worlds/training/pretrained.py says what becomes of them).

At the paper's scale: 40 runs, 1,560,000 steps, about 12 GPU-hours.

Tables 1 and 2: networks trained on CIFAR-10 and on CIFAR-5m, tested on both.

    worlds-experiment run table1 table2 --data CIFAR5M --cifar10 CIFAR10

n = 50,000 of either (all of CIFAR-10), crop and flip; five trials. The paper gives neither
optimizer nor length: the main protocol's are used.

At the paper's scale: 20 runs, 780,000 steps, about 8 GPU-hours.

    published test error    on CIFAR-10   on CIFAR-5m
    ResNet18, CIFAR-10      0.050         0.096
    ResNet18, CIFAR-5m      0.110         0.106
    WRN28-10 + cutout, CIFAR-10   0.032   0.091
    WRN28-10 + cutout, CIFAR-5m   0.088   0.097
"""

from dataclasses import replace

from worlds.experiments.protocol import INTRODUCTION, RESNET18, pair, reals
from worlds.experiments.registry import Scope, register
from worlds.experiments.spec import Check, Experiment, Group
from worlds.training.config import TrainConfig

IGPT = (
    "OpenAI's iGPT-S checkpoints at 131,000 and 1,000,000 steps, and the color clusters: "
    "https://openaipublic.blob.core.windows.net/image-gpt/checkpoints/igpt-s/{131000,1000000} and "
    ".../image-gpt/color-clusters/kmeans_centers.npy, read with TensorFlow into arrays, then given "
    "to worlds.models.pretrained.load_released_igpt; and Adam with betas of 0.9 and 0.95"
)
VIT = (
    "the pretrained half: ViT-B/4 trained on ImageNet at 32 px (30 passes, Adam, batches of 2,048, "
    "rate 1e-4): give --weights fig13=PATH"
)
MLP = (
    "the pretrained half: MLP[3x2048] trained on ImageNet at 224 px (500 passes, Adam, batches of "
    "1,024): give --weights fig14=PATH"
)


def _both(config: TrainConfig, scope: Scope) -> tuple[Group, ...]:
    """From scratch, and from the weights where they are given."""
    groups = (pair("from scratch", config, scope),)
    if scope.weights is None:
        return groups
    return (*groups, pair("pretrained", replace(config, initial=scope.weights), scope))


@register("cifar5m", absent=VIT)
def fig13(scope: Scope) -> Experiment:
    """ViT-B/4 as in figure 1. Expected: pretrained, it is better in the Real World and learns
    faster in the Ideal World.
    """
    return Experiment(
        "fig13",
        "ViT-B/4 from scratch and pretrained",
        "curves",
        _both(INTRODUCTION["ViT-B/4"], scope),
        claim="Pretraining makes the Real World better and the Ideal World faster.",
        note="" if scope.weights else f"Not here: {VIT}.",
    )


@register("cifar5m", absent=MLP)
def fig14(scope: Scope) -> Experiment:
    """MLP[3x2048] without augmentation. Expected: pretrained, it is better in both worlds."""
    return Experiment(
        "fig14",
        "MLP[3x2048] from scratch and pretrained",
        "curves",
        _both(TrainConfig("mlp_3x2048", augment=None), scope),
        claim="Pretraining makes both worlds better.",
        note="" if scope.weights else f"Not here: {MLP}.",
    )


@register("cifar10", absent=IGPT)
def fig5b(scope: Scope) -> None:
    """iGPT-S fine-tuned whole on n = 2,000 of CIFAR-10 with Adam (0.003, betas 0.9 and 0.95,
    batches of 128, no augmentation), from an early and from the final checkpoint; the Ideal World
    is CIFAR-10's 50,000. Expected: the final one is better in the Real World and faster in the
    Ideal World. The paper states no number of passes. Nothing of it is run.
    """


CLOSE = 0.02  # of the published errors


NOTE = "Both rows are tested on CIFAR-5m's test split and on CIFAR-10's test set."


def _table(
    name: str,
    title: str,
    config: TrainConfig,
    published: dict[str, tuple[float, float]],
    scope: Scope,
) -> Experiment:
    """A row each training set; `published` has its errors on CIFAR-10 and on CIFAR-5m."""
    checks = []
    for label, errors in published.items():
        for quantity, value in zip(("cifar10_error", "test_error"), errors, strict=True):
            checks.append(Check(quantity, "within", value, CLOSE, (label,)))
    return Experiment(
        name,
        title,
        "table",
        (
            reals("trained on CIFAR-10", [config], scope, data="cifar10"),
            reals("trained on CIFAR-5m", [config], scope, data="cifar5m"),
        ),
        claim="CIFAR-5m is close to CIFAR-10: what is trained on one does well on the other.",
        checks=tuple(checks),
        note=NOTE,
    )


@register("cifar5m", trials=5)
def table1(scope: Scope) -> Experiment:
    """Expected: the first two rows above."""
    published = {"trained on CIFAR-10": (0.050, 0.096), "trained on CIFAR-5m": (0.110, 0.106)}
    return _table("table1", "ResNet18 between data sets", TrainConfig(RESNET18), published, scope)


@register("cifar5m", trials=5)
def table2(scope: Scope) -> Experiment:
    """Expected: the last two rows above."""
    published = {"trained on CIFAR-10": (0.032, 0.091), "trained on CIFAR-5m": (0.088, 0.097)}
    config = TrainConfig("wrn28_10", augment="crop+flip+cutout")
    return _table("table2", "WRN28-10 with cutout between data sets", config, published, scope)
