"""An experiment's numbers, and whether they meet its claim.

Every number of a group is a median over its trials, with their range beside it. Where the worlds
are compared at min(T0, last step) that is each trial's own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from worlds.experiments.spec import Check, Experiment, name_of
from worlds.report.analysis import (
    METRICS,
    Ending,
    curves,
    endings,
    has,
    patience_stop,
    stopping_time,
)
from worlds.report.collect import Found
from worlds.report.rrm import partner_share, rrm
from worlds.training.run_folder import Run

Values = dict[str, list[float]]  # a quantity: its value in each trial
Status = Literal["holds", "fails", "open"]

PATIENCE: Final = 20  # log points
TEST_SETS: Final = {"cifar10_error": "on CIFAR-10", "test_error": "on its own test split"}


@dataclass(frozen=True)
class Measured:
    """A group's numbers, METRIC:NAME for every metric and NAME alone for the experiment's own."""

    found: Found
    values: Mapping[str, list[float]]
    reached: int  # trials that reached T0

    @property
    def label(self) -> str:
        return self.found.label

    def get(self, quantity: str) -> float | None:
        values = self.values.get(quantity)
        return float(np.median(values)) if values else None

    def range(self, quantity: str) -> tuple[float, float]:
        return min(self.values[quantity]), max(self.values[quantity])


def measure(experiment: Experiment, found: Sequence[Found]) -> list[Measured]:
    """Each group that has a run; the kind decides what is measured."""
    special: Mapping[str, Callable[[Found], Values]] = {
        "rrm": _rrm,
        "pairs": _pairs,
        "table": _table,
    }
    measured = []
    for group in found:
        if not group.real and not group.ideal:
            continue
        if experiment.kind in special:
            values, reached = special[experiment.kind](group), 0
        else:
            values, reached = _worlds(group, experiment.metric), _reached(group)
        if experiment.kind == "stopping":
            values |= _patience(group, experiment.metric)
        measured.append(Measured(group, values, reached))
    return measured


def _worlds(group: Found, metric: str) -> Values:
    values: Values = {}
    runs = (*group.real, *group.ideal)
    for name in METRICS:
        if not all(has(run, f"test_{name}") for run in runs):
            continue
        own = _one_metric(group, name)
        values |= {f"{name}:{quantity}": numbers for quantity, numbers in own.items()}
        values |= own if name == metric else {}
    if any(has(run, "train_error") for run in group.real):
        times = stopping_time(group.real)
        last = times.last_step
        values["t0"] = [1.0 + (last if t is None else t) for t in times.trials.values()]
    return values


def _reached(group: Found) -> int:
    return sum(run.stopping_step is not None for run in group.real)


def _one_metric(group: Found, metric: str) -> Values:
    column = f"test_{metric}"
    ends: tuple[Ending, ...] = ()
    values: Values = {
        f"final_{world}": [float(curves([run], column).values[0, -1]) for run in runs]
        for world, runs in (("real", group.real), ("ideal", group.ideal))
        if runs
    }
    if group.real and group.ideal:
        ends = endings(group.real, group.ideal, metric)
        values["gap"] = [end.gap for end in ends]
        values["largest"] = [end.largest for end in ends]
        values["ideal"] = [end.ideal for end in ends]
        if len(group.real) > 1:  # what chance alone does to a curve, beside `largest`
            trials = curves(group.real, column).until(max(end.step for end in ends)).values
            values["spread"] = [float(np.ptp(trials, axis=0).max())]
    elif group.real:  # alone, it is measured where it would have been compared
        ends = endings(group.real, group.real, metric)
    else:
        values["ideal"] = values["final_ideal"]
    if ends:
        values["real"] = [end.real for end in ends]
    trained = [end for end in ends if end.train is not None]
    if trained:
        values["train"] = [float(end.train) for end in trained if end.train is not None]
        values["generalization"] = [
            end.real - end.train for end in trained if end.train is not None
        ]
    return values


def _rrm(group: Found) -> Values:
    noisy = {run.config.trial: run for run in group.real if run.config.label_noise is not None}
    twins = [
        rrm(run, noisy[run.config.trial])
        for run in group.real
        if run.config.label_noise is None and run.config.trial in noisy
    ]
    names = ("robustness", "memorization", "rationality", "bound")
    values = {name: [float(getattr(one, name)) for one in twins] for name in names}
    return values | {"generalization_error": [one.generalization_gap for one in twins]}


def _pairs(group: Found) -> Values:
    if group.real and group.ideal:
        share = partner_share(group.real, group.ideal)
        return {"partner_real": [share.real], "partner_ideal": [share.ideal]}
    world, runs = ("real", group.real) if group.real else ("ideal", group.ideal)
    column = "test_partner_share"
    return {f"partner_{world}": [float(curves([run], column).values[0, -1]) for run in runs]}


def _table(group: Found) -> Values:
    runs = group.real or group.ideal
    values: Values = {}
    for name in TEST_SETS:
        measured = [run for run in runs if has(run, name)]
        if measured:
            values[name] = [float(curves([run], name).values[0, -1]) for run in measured]
    return values


def _patience(group: Found, metric: str) -> Values:
    values: Values = {"stopped": [], "stopped_at": [], "best": []}
    for run in group.real:
        stop = patience_stop(run, patience_of(run), f"test_{metric}")
        curve = curves([run], f"test_{metric}")
        at = curve.steps[-1] if stop.stopped is None else stop.stopped
        values["stopped"].append(float(curve.values[0, curve.steps == at][0]))
        if stop.stopped is not None:
            values["stopped_at"].append(1.0 + stop.stopped)
        values["best"].append(stop.best_value)
    return values


def patience_of(run: Run) -> int:
    return run.config.patience or PATIENCE


@dataclass(frozen=True)
class Verdict:
    """Verdict of an experiment: "open" if nothing is claimed, or a check lacks its runs."""

    status: Status
    lines: tuple[tuple[str, Status], ...]


def judge(experiment: Experiment, measured: Sequence[Measured]) -> Verdict:
    lines = tuple(_judge(check, experiment, measured) for check in experiment.checks)
    states = {state for _, state in lines}
    status: Status = "holds"
    if "fails" in states:
        status = "fails"
    elif "open" in states or not lines:
        status = "open"
    return Verdict(status, lines)


def _judge(
    check: Check, experiment: Experiment, measured: Sequence[Measured]
) -> tuple[str, Status]:
    wanted = check.groups or tuple(group.label for group in experiment.groups)
    by_label = {one.label: one for one in measured}
    numbers = {
        label: value
        for label in wanted
        if label in by_label and (value := by_label[label].get(check.quantity)) is not None
    }
    name = name_of(check.quantity, experiment.metric)
    lacking = len(wanted) - len(numbers)
    if not numbers or (lacking and check.relation in ("rises", "falls")):
        return f"{_claimed(check, name, wanted)}: not measured, runs are missing", "open"
    met = check.met(list(numbers.values()))
    text = f"{_claimed(check, name, wanted)}: {_told(check, numbers, by_label)}"
    if lacking:
        text += f" ({lacking} of {len(wanted)} groups not measured)"
    state: Status = "fails" if not met else "open" if lacking else "holds"
    return text, state


def _claimed(check: Check, name: str, labels: Sequence[str]) -> str:
    of = f" of {labels[0]}" if len(labels) == 1 else ""
    if check.relation in ("rises", "falls"):
        slack = f" (slack {check.tolerance:g})" if check.tolerance else ""
        return f"{name} {check.relation} from {labels[0]} to {labels[-1]}{slack}"
    if check.share < 1:
        of = f"{of} in {check.share:.0%} of the groups"
    if check.relation == "within":
        return f"{name}{of} within {check.tolerance:g} of {check.value:g}"
    slack = f" (less {check.tolerance:g})" if check.tolerance else ""
    return f"{name}{of} {check.relation} {check.value:g}{slack}"


def _told(check: Check, numbers: Mapping[str, float], measured: Mapping[str, Measured]) -> str:
    """Return the numbers, of many the farthest, and the spread over trials beside it."""
    if check.relation in ("rises", "falls"):
        return ", ".join(number(value) for value in numbers.values())
    signs = {"within": lambda v: abs(v - check.value), "at least": lambda v: -v}
    farthest = max(numbers, key=lambda label: signs.get(check.relation, float)(numbers[label]))
    one = measured[farthest]
    text = number(numbers[farthest])
    if len(one.values[check.quantity]) > 1:
        low, high = map(number, one.range(check.quantity))
        text += f", {low} to {high} over {len(one.values[check.quantity])} trials"
    spread = one.get("spread") if check.quantity == "largest" else None
    if spread is not None:
        text += f"; two Real trials differ by up to {number(spread)}"
    return text if len(numbers) == 1 else f"{len(numbers)} groups, farthest {text} ({farthest})"


def number(value: float) -> str:
    """As a page shows it: counts in full, shares to three digits."""
    is_count = abs(value) >= 100 or (abs(value) >= 1 and value == int(value))
    return f"{value:,.0f}" if is_count else f"{value:.3f}"
