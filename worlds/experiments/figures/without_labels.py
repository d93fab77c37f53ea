"""Representations learned without labels under a simple classifier (SSS, Bansal, Kaplun and Barak).

    worlds-experiment run sss rrm_sss rrm_sweep --data CIFAR10 --scale small

A thin Myrtle5 at n = 2,000 of a pool of 50,000, the same at small and paper scale: SimCLR and
rotation in both worlds (the Ideal World leaves the n samples out), then logistic regression.

At the paper's scale: 26 runs, 13,014 steps, about 0 GPU-hours.
"""

from dataclasses import replace
from typing import Any

from worlds.experiments.figures.samples import SMALL_NET
from worlds.experiments.protocol import ideal_of, over_trials, pairs, probes, reals
from worlds.experiments.registry import Recipe, Scope
from worlds.experiments.spec import Check, Group

NOISE = 0.05  # the article's
RATES = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
END_TO_END = replace(SMALL_NET, n=2_000, train_eval=None, log=130)
# Stage one, without labels.
_SIMCLR = replace(
    END_TO_END, objective="simclr", batch_size=64, steps=650, learning_rate=0.05, disjoint=True
)
_ROTATION = replace(_SIMCLR, objective="rotation", batch_size=32)
_LEARNERS = {"SimCLR": _SIMCLR, "rotation": _ROTATION}
_TRAINED, _FITTED = "end to end", "SimCLR + linear"


def _gaps(scope: Scope) -> list[Group]:
    """Clean and noisy runs end to end, and of classifiers on each representation."""
    # End to end, with and without noise.
    noise = f"symmetric:{NOISE}"
    both = [END_TO_END, replace(END_TO_END, label_noise=noise)]
    groups = [reals(_TRAINED, both, scope)]
    # Representations of both worlds, and the classifiers on each.
    first = {f"{name} + linear": over_trials(one, scope) for name, one in _LEARNERS.items()}
    first["SimCLR of the Ideal World + linear"] = over_trials(ideal_of(_SIMCLR), scope)
    for label, runs in first.items():
        real, ideal = ((), runs) if runs[0].fresh else (runs, ())
        groups.append(Group(f"{label}, stage one", real, ideal, drawn=False))
        groups.append(Group(label, (*probes(runs), *probes(runs, noise))))
        if label == _FITTED:  # another simple classifier, of the same features
            votes = [*probes(runs, optimizer="knn"), *probes(runs, noise, optimizer="knn")]
            groups.append(Group("SimCLR + k-NN", tuple(votes)))
    return groups


def _sweep(scope: Scope) -> list[Group]:
    """End to end and linear classifiers at each noise; both splits have it."""
    # One representation for all rates.
    first = over_trials(_SIMCLR, scope)
    groups = [Group("stage one", first, drawn=False)]
    for rate in RATES:
        # End to end without and with noise, then the classifier.
        noise: dict[str, Any] = {"label_noise": f"uniform:{rate}", "test_noise": True}
        changed = [replace(END_TO_END, **noise)] * (rate > 0)
        one = reals(f"{_TRAINED}, {rate:g}", [END_TO_END, *changed], scope)
        groups.append(replace(one, series=_TRAINED, x=rate))
        fitted = probes(first)
        if rate:
            fitted += tuple(replace(run, **noise) for run in fitted)
        groups.append(Group(f"{_FITTED}, {rate:g}", fitted, series=_FITTED, x=rate))
    return groups


def _at(series: str, *rates: float) -> tuple[str, ...]:
    return tuple(f"{series}, {rate:g}" for rate in rates)


RECIPES = (
    Recipe(
        "sss",
        "Representations without labels in both worlds",
        "curves",
        pairs(_LEARNERS),
        "Linear classifiers on representations of both worlds are close.",
        (Check("final_gap", "within", tolerance=0.05),),
        text="Stage one on the n samples again and again, or on fresh images; at each log point "
        "the classifier is fitted on the same n labeled samples.",
        trials=1,
        note="Not of the paper.",
    ),
    Recipe(
        "rrm_sss",
        "Robustness, rationality and memorization end to end and without labels, at 5 % noise",
        "rrm",
        _gaps,
        "The three gaps bound the generalization gap of both; the memorization gap, and with it "
        "the generalization gap, is small for simple classifiers on a representation.",
        (
            Check("slack", "at least", 0.0, tolerance=1e-9),
            Check("memorization", "above", groups=(_TRAINED,), others=(_FITTED,)),
            Check("generalization_error", "above", groups=(_TRAINED,), others=(_FITTED,)),
            Check("complexity_slack", "at least", 0.0, groups=(_FITTED,)),
        ),
        text="Expected (the article): robustness and rationality gaps are small for both, the "
        "memorization gap is large end to end. The size of the linear classifier, its weights "
        "rounded and compressed, bounds its memorization gap by sqrt(C / 2n) / noise (Theorem II); "
        "at this n the bound is above 1 and says nothing. A k-NN classifier (20 votes) reads the "
        "same features; it keeps them all, so no size bounds it.",
        trials=1,
        note="Of the article. The bound by bits is sqrt(bits ln 2 / 2n) / 0.05.",
    ),
    Recipe(
        "rrm_sweep",
        "Train and test error against label noise, end to end and without labels",
        "against",
        _sweep,
        "End to end the noise is fitted; a simple classifier's train error rises with the test "
        "error.",
        (
            Check("noisy_train", "at most", 0.05, groups=_at(_TRAINED, 0.05, 0.4, 0.8)),
            Check("noisy_train", "rises", groups=_at(_FITTED, *RATES)),
            Check("slack", "at least", 0.0, 1e-9, groups=_at(_FITTED, *RATES[1:])),
            Check("slack", "at least", 0.0, 1e-9, groups=_at(_TRAINED, *RATES[1:])),
        ),
        text="Labels of both splits are drawn at random with probability 0 to 1. Expected (the "
        "article's figure): end to end the train error stays at 0 and the test error rises; with "
        "a frozen representation both rise together.",
        trials=1,
        note="Of the article.",
        axis="share of labels drawn at random",
        panels=(("noisy_train", "noisy_test"), ("memorization",), ("generalization_error",)),
    ),
)
