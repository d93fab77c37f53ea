"""Figures 5b, 13 and 14: pretrained against from scratch. The paper's checkpoints are not here.

    worlds-experiment run fig5b fig13 fig14 --data DIR --cifar10 DIR      the arms from scratch
    worlds-experiment run fig13 fig14 --data DIR --weights fig13=vit.pt --weights fig14=mlp.pt
    worlds-experiment run fig13 fig14 --data DIR --scale small            pretrained at hand
    worlds-experiment run fig5b --data DIR --cifar10 DIR --weights fig5b=early.pt,imagegpt-small

Weights are state dicts of this project's networks, or with --model of torchvision's or timm's, of
any number of classes; the MLP's may be of another image size (worlds/training/pretrained.py says
what becomes of them). Without them, figures 13 and 14 pretrain below the paper's scale: on the
first five classes of the pool (Adam, 0.001, two passes), before they are trained on the other five.
Those of figure 5b are one file or two, the final or the early and the final one; the final one may
be the directory that `hf download openai/imagegpt-small --local-dir imagegpt-small` fills.

At the paper's scale: 60 runs, 1,567,800 steps, about 23 GPU-hours.

Tables 1 and 2: networks trained on CIFAR-10 and on CIFAR-5m, tested on both.

    worlds-experiment run table1 table2 table2_cited --data CIFAR5M --cifar10 CIFAR10

n = 50,000 of either (all of CIFAR-10), crop and flip; means of five trials, as published. The paper
gives neither optimizer nor length: the main protocol's are used, and in table2_cited those of the
paper that it cites for cutout.

At the paper's scale: 30 runs, 1,560,000 steps, about 38 GPU-hours.

    published test error    on CIFAR-10   on CIFAR-5m
    ResNet18, CIFAR-10      0.050         0.096
    ResNet18, CIFAR-5m      0.110         0.106
    WRN28-10 + cutout, CIFAR-10   0.032   0.091
    WRN28-10 + cutout, CIFAR-5m   0.088   0.097
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from worlds.experiments.protocol import INTRODUCTION, RESNET18, ideals, pair, reals
from worlds.experiments.registry import Recipe, Scope
from worlds.experiments.spec import Check, Group
from worlds.training.config import RUN, TrainConfig

# What is needed that is not here, and how to give it.
IGPT = (
    "OpenAI's iGPT-S checkpoints at 131,000 and 1,000,000 steps, and the color clusters: "
    "https://openaipublic.blob.core.windows.net/image-gpt/checkpoints/igpt-s/{131000,1000000} and "
    ".../image-gpt/color-clusters/kmeans_centers.npy, read with TensorFlow into arrays, then given "
    "to worlds.models.pretrained.load_released_igpt and saved; the Hub's openai/imagegpt-small is "
    "the final one: give --weights fig5b=EARLY,FINAL"
)
VIT = (
    "the pretrained half: ViT-B/4 trained on ImageNet at 32 px (30 passes, Adam, batches of 2,048, "
    "rate 1e-4): give --weights fig13=PATH"
)
MLP = (
    "the pretrained half: MLP[3x2048] trained on ImageNet at 224 px (500 passes, Adam, batches of "
    "1,024): give --weights fig14=PATH"
)
HERE = (
    "Pretrained on the first five classes of the same pool and trained on its other five; the "
    "paper pretrains on ImageNet."
)
CLOSE = 0.02  # of the published errors
# Fine-tuning as for figure 5b.
IGPT_S = TrainConfig(
    "igpt_s",
    options={"norm": "layer"},
    n=2_000,
    steps=390,
    optimizer="adam",
    learning_rate=0.003,
    betas=(0.9, 0.95),
    schedule="constant",
    augment=None,
    log=8,
)
WRN = TrainConfig("wrn28_10", augment="crop+flip+cutout")
# DeVries and Taylor, 2017.
CITED = replace(
    WRN,
    optimizer="nesterov",
    momentum=0.9,
    weight_decay=5e-4,
    steps=200 * 390,  # 200 epochs
    schedule="steps",
    drops=(60, 120, 160),  # epochs
    factor=0.2,
)
_TABLE: dict[str, Any] = {
    "kind": "table",
    "claim": "CIFAR-5m is close to CIFAR-10: what is trained on one does well on the other.",
    "note": "Both rows are tested on CIFAR-5m's test split and on CIFAR-10's test set.",
    "trials": 5,
    "center": "mean",
}


def _both(config: TrainConfig) -> Callable[[Scope], list[Group]]:
    """Return both arms: from scratch, and from weights, given or at smaller scales made here."""

    def groups(scope: Scope) -> list[Group]:
        if scope.weights is None and scope.scale != "paper":
            return _pretrained_here(config, scope)
        found = [pair("from scratch", config, scope)]
        if scope.weights is not None:
            found.append(pair("pretrained", replace(config, initial=scope.weights), scope))
        return found

    return groups


def _pretrained_here(config: TrainConfig, scope: Scope) -> list[Group]:
    """Five classes of the pool from scratch, and after pretraining on the five others; of half the
    length, as the pool has half the images.
    """
    adam = replace(config, passes=2, learning_rate=1e-3, momentum=0.0, weight_decay=0.0)
    adam = replace(adam, optimizer="adam", schedule="constant")
    before = ideals("pretraining", adam, scope, drawn=False, data="first5")
    plain = pair("from scratch", replace(config, steps=config.steps // 2), scope, data="last5")
    # Of each trial both worlds begin from the same weights.
    names = [RUN + run.fingerprint() for run in before.ideal]
    real, ideal = (
        tuple(replace(run, initial=name) for run, name in zip(runs, names, strict=True))
        for runs in (plain.real, plain.ideal)
    )
    return [before, plain, replace(plain, label="pretrained", real=real, ideal=ideal)]


def _checkpoints(scope: Scope) -> list[Group]:
    """Return the arms: from scratch, and from the final checkpoint or the early and the final."""
    # Of one file the final checkpoint, of two the early one first.
    groups, given = [pair("from scratch", IGPT_S, scope)], _given(scope)
    for label, path in zip(("early", "final")[-len(given) :], given, strict=bool(given)):
        tuned = replace(IGPT_S, options={"train_gains": False}, initial=path)
        groups.append(pair(f"{label} checkpoint", tuned, scope))
    return groups


def _given(scope: Scope) -> list[str]:
    return scope.weights.split(",") if scope.weights else []


def _near_and_better(groups: Sequence[Group]) -> tuple[Check, ...]:
    """Check that the worlds are close, and that each arm is better in the Real World, and faster in
    the Ideal World, than the one before.
    """
    drawn = tuple(group.label for group in groups if group.drawn)
    near = Check("gap", "within", tolerance=0.05, groups=drawn)
    better = (Check(quantity, "falls", groups=drawn) for quantity in ("real", "mean_ideal"))
    return (near, *better) if len(drawn) > 1 else (near,)


def _absent(what: str, wanted: int = 1, here: str = "") -> Callable[[Scope], str]:
    """Return the note of what is missing, or of what small scales take instead."""

    def note(scope: Scope) -> str:
        if len(_given(scope)) >= wanted:
            return ""
        return here if here and scope.scale != "paper" else f"Not here: {what}."

    return note


def _rows(config: TrainConfig) -> Callable[[Scope], list[Group]]:
    """Return a row for each training set."""
    return lambda scope: [
        reals("trained on CIFAR-10", [config], scope, data="cifar10"),
        reals("trained on CIFAR-5m", [config], scope, data="cifar5m"),
    ]


def _published(*rows: tuple[float, float]) -> Callable[[Sequence[Group]], tuple[Check, ...]]:
    """Return checks against the published errors on CIFAR-10 and on CIFAR-5m, a row a group."""
    return lambda groups: tuple(
        Check(quantity, "within", value, CLOSE, (group.label,))
        for group, errors in zip(groups, rows, strict=True)
        for quantity, value in zip(("cifar10_error", "test_error"), errors, strict=True)
    )


RECIPES = (
    Recipe(
        "fig13",
        "ViT-B/4 from scratch and pretrained",
        "curves",
        _both(INTRODUCTION["ViT-B/4"]),
        "Pretraining makes the Real World better and the Ideal World faster.",
        _near_and_better,
        text="ViT-B/4 as in figure 1.",
        absent=VIT,
        note=_absent(VIT, here=HERE),
    ),
    Recipe(
        "fig14",
        "MLP[3x2048] from scratch and pretrained",
        "curves",
        _both(TrainConfig("mlp_3x2048", augment=None)),
        "Pretraining makes both worlds better.",
        _near_and_better,
        text="MLP[3x2048] without augmentation.",
        absent=MLP,
        note=_absent(MLP, here=HERE),
    ),
    Recipe(
        "fig5b",
        "iGPT-S from scratch and from its checkpoints",
        "curves",
        _checkpoints,
        "A longer pretraining makes the Real World better and the Ideal World faster.",
        _near_and_better,
        text="iGPT-S fine-tuned whole on n = 2,000 of CIFAR-10 with Adam (0.003, betas 0.9 and "
        "0.95, batches of 128, no augmentation), from an early and from the final checkpoint, and "
        "from scratch. The Ideal World is CIFAR-10's 50,000, which last for 390 steps; the paper "
        "states no number of passes.",
        data="cifar10",
        absent=IGPT,
        note=_absent(IGPT, wanted=2),
    ),
    Recipe(
        "table1",
        "ResNet18 between data sets",
        groups=_rows(TrainConfig(RESNET18)),
        checks=_published((0.050, 0.096), (0.110, 0.106)),
        text="Expected: the first two rows above.",
        **_TABLE,
    ),
    Recipe(
        "table2",
        "WRN28-10 with cutout between data sets",
        groups=_rows(WRN),
        checks=_published((0.032, 0.091), (0.088, 0.097)),
        text="Expected: the last two rows above.",
        **_TABLE,
    ),
    Recipe(
        "table2_cited",
        "WRN28-10 with cutout between data sets, by the recipe of the cutout paper",
        groups=_rows(CITED),
        checks=_published((0.032, 0.091), (0.088, 0.097)),
        text="Table 2 by the recipe of DeVries and Taylor, which it cites: Nesterov momentum 0.9, "
        "weight decay 5e-4, 200 epochs, rate 0.1 times 0.2 after epochs 60, 120 and 160. Expected: "
        "as table2.",
        **_TABLE,
    ),
)
