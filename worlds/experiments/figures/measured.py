"""The paper's claim, measured on a CPU core: three networks, both worlds, n up to 50,000.

    worlds-experiment run teacher_pool --scale small --trials 5
    worlds-experiment run pool_50k --data CIFAR10 --scale small --trials 5

The same at small and paper scale: 700 steps of 64 with SGD at 0.05 and momentum 0.9, cosine to 0,
no augmentation. `teacher_pool` needs no data: five million images that are made on the fly and
labeled by a fixed random network (worlds/data/teacher.py). `pool_50k` takes a pool of 50,000, such
as CIFAR-10's training set; its Ideal World leaves the largest Real World out.

At the paper's scale: 135 runs, 94,500 steps, about 0.0001 GPU-hours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from worlds.experiments.protocol import sizes
from worlds.experiments.registry import Recipe, Scope
from worlds.experiments.spec import Check, Group
from worlds.training.config import TrainConfig

NETWORKS: Final[Mapping[str, tuple[str, dict[str, int]]]] = {
    "MLP[1x512]": ("mlp_1x512", {}),
    "MLP[3x256]": ("mlp_3x256", {}),
    "D-CONV, base 4": ("dconv", {"base": 4}),
}
TEACHER_SIZES: Final = (1_000, 3_000, 10_000, 50_000)  # of a pool of five million
# 45,000 images are left for an Ideal World of 44,800.
LIMITED_SIZES: Final = (1_000, 2_000, 5_000)
RUN: Final = TrainConfig(
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


def _at(each: Sequence[int], disjoint: bool = False) -> Callable[[Scope], list[Group]]:
    """Return a group for each network and n; all n of a network share one Ideal World."""

    def groups(scope: Scope) -> list[Group]:
        found: list[Group] = []
        for label, (arch, options) in NETWORKS.items():
            config = replace(RUN, arch=arch, options=options)
            ideal = replace(config, n=max(each), disjoint=disjoint)
            found += sizes(config, each, scope, ideal, f"{label}, ", panel=label)
        return found

    return groups


def _smallest_and_largest(groups: Sequence[Group]) -> tuple[Check, ...]:
    """Return the checks; the sizes of a network follow one another."""
    # So many sizes follow one another, then the next network's.
    count = len({group.series for group in groups})
    smallest = tuple(group.label for group in groups[::count])
    largest = tuple(group.label for group in groups[count - 1 :: count])
    return (
        Check("error:gap", "within", tolerance=0.05, groups=largest),
        Check("gap", "within", tolerance=0.05, groups=largest),
        Check("error:gap", "above", groups=smallest, others=largest),
        Check("surer", "at least", 0.0, groups=smallest),
    )


_COMMON: Final[dict[str, Any]] = {
    "kind": "sizes",
    "claim": "Until T0 the worlds stay together, the closer the larger n. Where n is small the "
    "Real World's error is above the Ideal World's; its soft-error need not be, for it is more "
    "confident.",
    "checks": _smallest_and_largest,
    "text": "Measured in docs/experiments.md.",
    "trials": 5,
}

RECIPES = (
    Recipe(
        "teacher_pool",
        "Three networks on a pool without limit",
        groups=_at(TEACHER_SIZES),
        data="teacher",
        note="Not of the paper: its claim on made images with the labels of a random network.",
        **_COMMON,
    ),
    Recipe(
        "pool_50k",
        "Three networks on a pool of 50,000",
        groups=_at(LIMITED_SIZES, disjoint=True),
        note="Not of the paper. The Ideal World leaves the Real World's samples out.",
        **_COMMON,
    ),
)
