"""Open questions of the slides, in small, each with both worlds.

    worlds-experiment run calibration agreement representation transfer ensembles --data CIFAR10 \\
        --scale small

An MLP[3x256] and a thin Myrtle5 without augmentation at n = 1,000 and 5,000 of a pool of 50,000,
whose others the Ideal World takes; the same at small and paper scale. Each run keeps what it says
of 2,000 test images. There are four trials or more.

At the paper's scale: 68 runs, 40,820 steps, about 0 GPU-hours.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from worlds.experiments.figures.measured import RUN
from worlds.experiments.figures.samples import SMALL_NET
from worlds.experiments.protocol import ideal_of, over_trials, probes
from worlds.experiments.registry import Recipe, Scope
from worlds.experiments.spec import Check, Group
from worlds.training.config import TrainConfig

SIZES: Final = (1_000, 5_000)
TRIALS: Final = 4
_MLP, _CNN, _REAL = "MLP[3x256]", "thin Myrtle5", "Real World, n = 5,000"
_WEIGHTS, _SAMPLES = "other initial weights", "other samples"
_NETWORKS = {_MLP: replace(RUN, compared=2_000), _CNN: replace(SMALL_NET, compared=2_000, log=130)}
# What a trial changes: its initial weights, or which samples it sees and in what order.
_CHANCES = {
    _WEIGHTS: replace(_NETWORKS[_MLP], data_seed=0, order_seed=0),
    _SAMPLES: replace(_NETWORKS[_MLP], init_seed=0),
}


def _several(scope: Scope) -> Scope:
    return replace(scope, trials=tuple(range(max(TRIALS, len(scope.trials)))))


def _sizes(configs: Mapping[str, TrainConfig]) -> Callable[[Scope], list[Group]]:
    """Return what makes a group of each config and n; all n of a config share one Ideal World."""

    def groups(scope: Scope) -> list[Group]:
        found, scope = [], _several(scope)
        for series, config in configs.items():
            ideal = over_trials(_apart(config), scope)
            for n in SIZES:
                runs = over_trials(replace(config, n=n), scope)
                found.append(Group(_label(series, n), runs, ideal, series=series, x=n))
        return found

    return groups


def _apart(config: TrainConfig) -> TrainConfig:
    return ideal_of(replace(config, n=max(SIZES), disjoint=True))


def _label(series: str, n: int) -> str:
    return f"{series}, n = {n:,}"


def _of(n: int) -> tuple[str, ...]:
    return tuple(_label(name, n) for name in _NETWORKS)


def _transfer(scope: Scope) -> list[Group]:
    """Linear classifiers of another task on frozen networks of both worlds, and of none."""
    config, scope = _NETWORKS[_CNN], _several(scope)
    fields: dict[str, Any] = {"n": SIZES[0], "steps": 1, "learning_rate": 1e-9}
    first = {_label("Real World", n): replace(config, n=n) for n in SIZES}
    first |= {"Ideal World": _apart(config), "untrained": replace(config, **fields)}
    groups = []
    for label, begun in first.items():
        runs = over_trials(begun, scope)
        real, ideal = ((), runs) if runs[0].fresh else (runs, ())
        groups.append(Group(f"{label}, stage one", real, ideal, drawn=False))
        fitted = probes(runs, n=over_trials(replace(config, n=SIZES[1]), scope)[0].n)
        groups.append(Group(label, fitted, data="teacher"))
    return groups


_COMMON: Final[dict[str, Any]] = {
    "trials": TRIALS,
    "note": "Not of the paper. Each n is that of the paper's scale.",
}
_AGAINST: Final[dict[str, Any]] = {"kind": "against", "axis": "log n", **_COMMON}

RECIPES = (
    Recipe(
        "calibration",
        "Calibration of both worlds",
        "curves",
        _sizes(_NETWORKS),
        "Where both are equally wrong in soft-error, the Real World is no better calibrated.",
        (Check("matched_ece", "at least", 0.0),),
        metric="ece",
        text="Expected calibration error (15 bins of equal width) at each log point. Expected: a "
        "Real World network grows more confident than it is right as its samples come again.",
        **_COMMON,
    ),
    Recipe(
        "agreement",
        "Agreement of the worlds' predictions",
        groups=_sizes(_NETWORKS),
        claim="A Real and an Ideal network agree at least as much as two Real networks, more for a "
        "larger n.",
        checks=(
            Check("agreement_gap", "at least", 0.0, tolerance=0.01),
            Check("agreement_between", "above", groups=_of(5_000), others=_of(1_000)),
        ),
        text="The share of test images that two networks of other initial weights call the same. "
        "Expected: at small n two Real networks, of other samples, differ most.",
        panels=(("agreement_between", "agreement_real", "agreement_ideal"),),
        **_AGAINST,
    ),
    Recipe(
        "representation",
        "Similarity of the worlds' representations",
        groups=_sizes(_NETWORKS),
        claim="The features of a Real and an Ideal network are at least as similar as those of two "
        "Real networks, more for a larger n.",
        checks=(
            Check("cka_gap", "at least", 0.0, tolerance=0.05),
            Check("cka_between", "above", groups=_of(5_000), others=_of(1_000)),
        ),
        text="Linear CKA (Kornblith et al., 2019) of what the last layer takes, on test images. "
        "Expected: features of the Ideal World are nearer to one another than those of the Real.",
        panels=(("cka_between", "cka_real", "cka_ideal"),),
        **_AGAINST,
    ),
    Recipe(
        "transfer",
        "Linear classifiers of another task on networks of both worlds",
        "table",
        _transfer,
        "Features of both worlds are of equal use for another task, and of more than those of an "
        "untrained network.",
        (
            Check("test_error", "near", 0.0, 0.03, (_REAL,), others=("Ideal World",)),
            Check("test_error", "above", groups=("untrained",), others=("Ideal World",)),
        ),
        text="The thin Myrtle5, frozen; logistic regression on 5,000 images of teacher:0, smooth "
        "noise that a random network labels. Expected: hardly a difference between the worlds.",
        **_COMMON,
    ),
    Recipe(
        "ensembles",
        "Ensembles over initial weights and over training sets",
        groups=_sizes(_CHANCES),
        claim="In the Real World the mean over networks of other samples gains more than that over "
        "other initial weights.",
        checks=(
            Check("gain_real", "at least", 0.0),
            Check(
                "gain_real",
                "above",
                groups=tuple(_label(_SAMPLES, n) for n in SIZES),
                others=tuple(_label(_WEIGHTS, n) for n in SIZES),
            ),
        ),
        text="The error of the mean softmax of the MLPs of all trials but one. Trials have one "
        "sample and other initial weights, or one initialization and other samples; in the Ideal "
        "World fresh images in one order, or in another. Expected: networks of other samples "
        "gain more, for together they have seen more.",
        panels=(
            ("ensemble_real", "member_real"),
            ("ensemble_ideal", "member_ideal"),
            ("gain_real", "gain_ideal"),
        ),
        **_AGAINST,
    ),
)
