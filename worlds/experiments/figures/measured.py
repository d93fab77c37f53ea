"""The paper's claim, measured on one CPU core: three networks, both worlds, n up to 50,000.

    worlds-experiment run teacher_pool --scale small --trials 5
    worlds-experiment run pool_50k --data CIFAR10 --scale small --trials 5

The same at small and paper scale: 700 steps of 64 with SGD at 0.05 and momentum 0.9, cosine to 0,
no augmentation. `teacher_pool` needs no data: five million images that are made on the fly and
labeled by a fixed random network (worlds/data/teacher.py). `pool_50k` takes a pool of 50,000, such
as CIFAR-10's training set; its Ideal World leaves the largest Real World out.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from worlds.experiments.protocol import ideal_of, over_trials
from worlds.experiments.registry import Scope, register
from worlds.experiments.spec import Check, Experiment, Group
from worlds.training.config import TrainConfig

NETWORKS: Final[Mapping[str, tuple[str, dict[str, int]]]] = {
    "MLP[1x512]": ("mlp_1x512", {}),
    "MLP[3x256]": ("mlp_3x256", {}),
    "D-CONV, base 4": ("dconv", {"base": 4}),
}
TEACHER_SIZES: Final = (1_000, 3_000, 10_000, 50_000)
# 45,000 images are left for an Ideal World of 44,800.
LIMITED_SIZES: Final = (1_000, 2_000, 5_000)
_RUN: Final = TrainConfig(
    "mlp_3x256",
    steps=700,
    batch_size=64,
    learning_rate=0.05,
    momentum=0.9,
    unit=7,
    augment=None,
    log=28,
    test_eval=2_000,
    train_eval=1_000,
)


def _groups(sizes: tuple[int, ...], disjoint: bool, scope: Scope) -> tuple[Group, ...]:
    """A group for each network and n; all n of a network share one Ideal World."""
    groups = []
    for label, (arch, options) in NETWORKS.items():
        config = replace(_RUN, arch=arch, options=options)
        largest = replace(config, n=max(sizes), disjoint=disjoint)
        shared = over_trials(ideal_of(largest), scope)
        for n in sizes:
            runs = over_trials(replace(config, n=n), scope)
            size = f"n = {runs[0].n:,}"
            groups.append(Group(f"{label}, {size}", runs, shared, panel=label, series=size))
    return tuple(groups)


def _experiment(name: str, title: str, groups: tuple[Group, ...], note: str) -> Experiment:
    by_network: dict[str | None, list[str]] = {}
    for group in groups:
        by_network.setdefault(group.panel, []).append(group.label)
    smallest = tuple(labels[0] for labels in by_network.values())
    largest = tuple(labels[-1] for labels in by_network.values())
    return Experiment(
        name,
        title,
        "curves",
        groups,
        claim="Until T0 the worlds stay together, the closer the larger n. At small n the Real "
        "World's error is above the Ideal World's, and its soft-error need not be: it is surer.",
        checks=(
            Check("error:gap", "within", tolerance=0.05, groups=largest),
            Check("soft_error:gap", "within", tolerance=0.05, groups=largest),
            Check("error:gap", "above", groups=smallest, others=largest),
        ),
        note=note,
    )


@register("teacher", trials=5)
def teacher_pool(scope: Scope) -> Experiment:
    """Expected: see docs/experiments.md, which has what was measured."""
    groups = _groups(TEACHER_SIZES, False, scope)
    note = "Not of the paper: its claim on images of a random network."
    return _experiment("teacher_pool", "Three networks on a pool without limit", groups, note)


@register("cifar5m", trials=5)
def pool_50k(scope: Scope) -> Experiment:
    """Expected: see docs/experiments.md, which has what was measured."""
    groups = _groups(LIMITED_SIZES, True, scope)
    note = "Not of the paper. The Ideal World leaves the Real World's samples out."
    return _experiment("pool_50k", "Three networks on a pool of 50,000", groups, note)
