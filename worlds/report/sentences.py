"""One sentence for each experiment, saying what was measured."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from worlds.experiments.spec import METRIC_NAMES, Experiment, name_of
from worlds.report.measure import TEST_SETS, Measured, number


def sentence(experiment: Experiment, measured: Sequence[Measured]) -> str:
    """Describe the experiment's figure; it says where T0 was not reached."""
    drawn = [one for one in measured if one.found.group.drawn]
    # Kinds with a sentence a group.
    if experiment.kind in _TELLERS:
        return _each(drawn, _TELLERS[experiment.kind])
    if experiment.kind == "against":
        return _against(experiment, drawn)
    # The others are about the bootstrap error, where both worlds were run.
    both = [one for one in measured if one.get("gap") is not None]
    if experiment.kind == "decompositions":
        return _each(both, _decomposed)
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


def _sheet(one: Measured) -> str:
    shown, largest = (one.get(name) or 0.0 for name in ("classes_shown", "largest_class"))
    return f"{one.label}: {number(shown)} classes shown, the largest has {number(largest)} of all"


def signed(value: float) -> str:
    return f"{value:+.3f}"


def _each(measured: Sequence[Measured], tell: Callable[[Measured], str]) -> str:
    parts = [text for one in measured if (text := tell(one))]
    return "; ".join(parts) + "." if parts else "Nothing could be measured."


def _one(one: Measured, metric: str) -> str:
    real, ideal, gap = (one.get(name) or 0.0 for name in ("real", "ideal", "gap"))
    # The range over trials, where they differ as printed.
    trials = len(one.values["gap"])
    low, high = one.range("gap")
    spread = ""
    if trials > 1 and signed(low) == signed(high):
        spread = f" in each of {trials} trials"
    elif trials > 1:
        spread = f"; {signed(low)} to {signed(high)} over {trials} trials"
    return (
        f"{one.label}: test {metric} {number(real)} in the Real World and {number(ideal)} in the "
        f"Ideal World, a bootstrap error of {signed(gap)}{spread}."
    )


def _t0(both: Sequence[Measured]) -> str:
    """Describe where the worlds are compared."""
    # Over all groups.
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
    """Describe one world without the other."""
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
    # The sum of the three, and what it bounds.
    parts = [one.get(name) or 0.0 for name in ("robustness", "memorization", "rationality")]
    total, gap = one.get("bound") or 0.0, one.get("generalization_error") or 0.0
    robustness, memorization, rationality = map(number, parts)
    bits, most = one.get("probe_bits"), one.get("complexity_bound")
    size = f"; its {bits:,.0f} bits bound memorization by {most:.2f}" if bits and most else ""
    return (
        f"{one.label}: robustness {robustness} + memorization {memorization} + rationality "
        f"{rationality} = {number(total)}, against a generalization gap of {number(gap)}{size}"
    )


def _decomposed(one: Measured) -> str:
    train, gap, ideal, real = (
        one.get(name) or 0.0 for name in ("train", "generalization", "ideal", "real")
    )
    return (
        f"{one.label}: {number(real)} = train {number(train)} + generalization gap {number(gap)} = "
        f"Ideal {number(ideal)} + bootstrap error {signed(one.get('gap') or 0.0)}"
    )


def _patience(one: Measured) -> str:
    """Describe where patience ends a run, beside T0 and the schedule."""
    at, stopped, last = (one.get(n) for n in ("stopped_at", "stopped", "final_real"))
    if stopped is None or last is None:
        return ""
    # Against T0 and the last step.
    patience = (
        f"{number(stopped)} where patience stops ({number(at)} updates)"
        if at
        else ("patience stops no trial")
    )
    t0 = "T0 not reached"
    if one.reached:
        t0 = f"{number(one.get('real') or 0)} at T0 ({number(one.get('t0') or 0)} updates)"
    return f"{one.label}: {t0}, {patience}, {number(last)} at the last step"


def _pairs(one: Measured) -> str:
    # As called, and in the softmax where it was measured.
    shares = {world: one.get(f"partner_{world}") for world in ("real", "ideal")}
    told = [f"{v:.1%} in the {w.capitalize()} World" for w, v in shares.items() if v is not None]
    masses = {world: one.get(f"mass_{world}") for world in ("real", "ideal")}
    given = [f"{v:.1%} in the {w.capitalize()} World" for w, v in masses.items() if v is not None]
    text = f"{one.label}: the noisy class is called its partner in {' and '.join(told)}"
    return f"{text}; the softmax gives the partner {' and '.join(given)}" if given else text


def _table(one: Measured) -> str:
    told = [
        f"{number(v)} {text}"
        for name, text in TEST_SETS.items()
        if (v := one.get(name)) is not None
    ]
    return f"{one.label}: {' and '.join(told)}" if told else ""


def _against(experiment: Experiment, measured: Sequence[Measured]) -> str:
    """Describe the first quantity of each panel, by line, at its first and its last x."""
    axis, told = experiment.axis.removeprefix("log "), []
    for quantity, *_ in experiment.panels:
        for series in dict.fromkeys(one.found.group.series for one in measured):
            # The first and the last point of a line.
            line = [
                (one.found.group.x, value)
                for one in measured
                if one.found.group.series == series and (value := one.get(quantity)) is not None
            ]
            if line:
                ends = [f"{value:.3f} at {x:g}" for x, value in (line[0], line[-1])]
                name = name_of(quantity, experiment.metric)
                told.append(f"{name}{f' of {series}' if series else ''} {' and '.join(ends)}")
    return f"Against the {axis}: {'; '.join(told)}." if told else "Nothing could be measured."


_TELLERS: Final[dict[str, Callable[[Measured], str]]] = {
    "rrm": _rrm,
    "pairs": _pairs,
    "sheet": _sheet,
    "table": _table,
    "stopping": _patience,
}
