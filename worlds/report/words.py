"""What was measured, in one sentence for each experiment."""

from collections.abc import Sequence

import numpy as np

from worlds.report.experiment import Experiment
from worlds.report.measure import METRIC_NAMES, Measured, number


def sentence(experiment: Experiment, measured: Sequence[Measured]) -> str:
    """Of the experiment's figure; it says where T0 was not reached."""
    if experiment.kind == "rrm":
        return _each(measured, _rrm)
    if experiment.kind == "pairs":
        return _each(measured, _pairs)
    if experiment.kind == "table":
        return _each(measured, _table)
    both = [one for one in measured if one.get("gap") is not None]
    metric = METRIC_NAMES[experiment.metric]
    if not both:
        return _alone(measured, metric)
    if len(both) == 1:
        text = _one(both[0], metric)
    else:
        gaps = {one.label: one.get("gap") or 0.0 for one in both}
        worst = max(gaps, key=lambda label: abs(gaps[label]))
        middle = float(np.median(list(gaps.values())))
        text = (
            f"Over {len(both)} groups the bootstrap error in test {metric} is {signed(middle)} in "
            f"the median and {signed(gaps[worst])} at its largest ({worst})."
        )
    return f"{text} {_t0(both)}".strip()


def signed(value: float) -> str:
    return f"{value:+.3f}"


def _each(measured: Sequence[Measured], tell: object) -> str:
    assert callable(tell)
    parts = [text for one in measured if (text := tell(one))]
    return "; ".join(parts) + "." if parts else "Nothing could be measured."


def _one(one: Measured, metric: str) -> str:
    real, ideal, gap = (one.get(name) or 0.0 for name in ("real", "ideal", "gap"))
    trials = len(one.values["gap"])
    low, high = one.range("gap")
    spread = f"; {signed(low)} to {signed(high)} over {trials} trials" if trials > 1 else ""
    return (
        f"{one.label}: test {metric} {number(real)} in the Real World and {number(ideal)} in the "
        f"Ideal World, a bootstrap error of {signed(gap)}{spread}."
    )


def _t0(both: Sequence[Measured]) -> str:
    """Where the worlds are compared."""
    trials = sum(len(one.values["gap"]) for one in both)
    reached = sum(one.reached for one in both)
    with_train = any(one.get("t0") is not None for one in both)
    if not with_train:
        return "There is no train error, hence no T0: the worlds are compared at the last step."
    if not reached:
        return "No trial reached T0: the worlds are compared at the last step."
    if reached < trials:
        return f"T0 was reached in {reached} of {trials} trials, the others end at their last step."
    if len(both) == 1:
        return f"Compared at T0, {number(both[0].get('t0') or 0)} updates in the median."
    return f"All {trials} trials reached T0, and are compared there."


def _alone(measured: Sequence[Measured], metric: str) -> str:
    """One world without the other."""
    values = [
        f"{one.label} {number(value)}"
        for one in measured
        if (value := one.get("real") if one.found.real else one.get("ideal")) is not None
    ]
    worlds = {"real" if one.found.real else "ideal" for one in measured}
    name = " and ".join(sorted(world.capitalize() for world in worlds))
    return f"{name} World only, no bootstrap error: test {metric} {', '.join(values)}."


def _rrm(one: Measured) -> str:
    if one.get("bound") is None:
        return ""
    parts = [one.get(name) or 0.0 for name in ("robustness", "memorization", "rationality")]
    total, gap = one.get("bound") or 0.0, one.get("generalization_error") or 0.0
    robustness, memorization, rationality = map(number, parts)
    return (
        f"{one.label}: robustness {robustness} + memorization {memorization} + rationality "
        f"{rationality} = {number(total)}, against a generalization gap of {number(gap)}"
    )


def _pairs(one: Measured) -> str:
    shares = {world: one.get(f"partner_{world}") for world in ("real", "ideal")}
    told = [f"{v:.1%} in the {w.capitalize()} World" for w, v in shares.items() if v is not None]
    return f"{one.label}: the noisy class is called its partner in {' and '.join(told)}"


def _table(one: Measured) -> str:
    texts = {"cifar10_error": "on CIFAR-10", "test_error": "on its own test split"}
    told = [
        f"{number(v)} {text}" for name, text in texts.items() if (v := one.get(name)) is not None
    ]
    return f"{one.label}: {' and '.join(told)}" if told else ""
