"""Figures 5b, 13 and 14: pretrained against from scratch. Needs checkpoints that are not here.

    worlds-experiment run fig13 fig14 --data DIR      the halves from scratch
    worlds-experiment run fig13 fig14 --data DIR --weights fig13=vit.pt --weights fig14=mlp.pt

Weights are state dicts of this project's networks, of any number of classes; the MLP's may be of
another image size (worlds/initial.py says what becomes of them).

At the paper's scale: 40 runs, 1,560,000 steps, about 12 GPU-hours.
"""

from dataclasses import replace

from worlds.config import TrainConfig
from worlds.experiments.protocol import INTRODUCTION, pair
from worlds.experiments.registry import Scope, register
from worlds.report.experiment import Experiment, Group

IGPT = (
    "OpenAI's iGPT-S checkpoints at 131,000 and 1,000,000 steps, and the colour clusters: "
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
