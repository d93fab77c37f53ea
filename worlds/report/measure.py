"""An experiment's numbers, and whether they meet its claim.

Every number of a group is a median over its trials (in tables a mean, as published), with their
range beside it. Where the worlds are compared at min(T0, last step) that is each trial's own.

A check is judged by resampling the trials: it holds where 95 % of the resamplings meet it, fails
where 95 % do not, and is open between. A single trial has no interval, and says so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from worlds.experiments.spec import Center, Check, Experiment, name_of
from worlds.report.analysis import (
    METRICS,
    Ending,
    bootstrap_error,
    confusion_of,
    curves,
    endings,
    has,
    last_value,
    least_drop,
    patience_stop,
    scaling_of_trials,
    stopping_time,
)
from worlds.report.collect import Found
from worlds.report.rrm import complexity_bound, rrm
from worlds.report.together import agreements, matched_calibration
from worlds.training.run_folder import Run

Values = dict[str, list[float]]  # a quantity: its value in each trial
Status = Literal["holds", "fails", "open"]

PATIENCE: Final = 20  # log points, or epochs with a validation split
DRAWS: Final = 1_000  # resamplings of the trials
SURE: Final = 0.95  # share of them that settles a check
CENTERS: Final[Mapping[Center, Callable[..., Any]]] = {"median": np.median, "mean": np.mean}
TEST_SETS: Final = {"cifar10_error": "on CIFAR-10", "test_error": "on its own test split"}


@dataclass(frozen=True)
class Measured:
    """A group's numbers, METRIC:NAME for every metric and NAME alone for the experiment's own."""

    found: Found
    values: Values
    reached: int  # trials that reached T0
    center: Center = "median"

    @property
    def label(self) -> str:
        return self.found.label

    def get(self, quantity: str) -> float | None:
        values = self.values.get(quantity)
        return float(CENTERS[self.center](values)) if values else None

    def resampled(self, quantity: str) -> np.ndarray:
        """The centers of resampled trials, float64 (DRAWS,); groups of equally many trials are
        resampled alike, for trials are pairs.
        """
        values = np.asarray(self.values[quantity], dtype=np.float64)
        chosen = np.random.default_rng(len(values)).integers(len(values), size=(DRAWS, len(values)))
        return np.asarray(CENTERS[self.center](values[chosen], axis=1))

    def interval(self, quantity: str) -> tuple[float, float]:
        """95 % of the centers of resampled trials; of a single trial its value twice."""
        low, high = np.quantile(self.resampled(quantity), (0.025, 0.975))
        return float(low), float(high)

    def range(self, quantity: str) -> tuple[float, float]:
        return min(self.values[quantity]), max(self.values[quantity])


def measure(experiment: Experiment, found: Sequence[Found]) -> list[Measured]:
    """Each group that has a run; the kind decides what is measured."""
    special: Mapping[str, Callable[[Found], Values]] = {
        "rrm": _rrm,
        "pairs": _pairs,
        "table": _table,
        "sheet": _sheet,
    }
    measured = []
    for group in found:
        if not group.real and not group.ideal:
            continue
        kind = "rrm" if ("memorization",) in experiment.panels else experiment.kind
        if kind in special:
            values, reached = special[kind](group), 0
        else:
            values, reached = _worlds(group, experiment.metric), _reached(group)
        if experiment.kind == "sizes" and group.real and group.ideal:
            both = zip(values["error:gap"], values["soft_error:gap"], strict=True)
            values["surer"] = [error - soft for error, soft in both]
        if experiment.kind == "stopping":
            values |= _patience(group, experiment.metric)
        measured.append(Measured(group, values, reached, experiment.center))
    if experiment.kind == "samples" and measured:
        _add_scaling(measured, experiment.metric)
    return measured


def _add_scaling(measured: Sequence[Measured], metric: str) -> None:
    """Give the last group, the largest n, the exponents of each trial over all n."""
    real = {one.found.real[0].config.n: one.found.real for one in measured if one.found.real}
    ideal = max((one.found.ideal for one in measured), key=len)
    found = scaling_of_trials(real, ideal, metric) if ideal else []
    names = ("alpha", "beta", "gamma", "product")
    last = measured[-1].values
    last |= {name: [getattr(one, name) for one in found] for name in names}
    last["mismatch"] = [one.product - one.gamma for one in found]


def _worlds(group: Found, metric: str) -> Values:
    values: Values = {}
    runs = (*group.real, *group.ideal)
    for name in METRICS:
        if not all(has(run, f"test_{name}") for run in runs):
            continue
        own = _one_metric(group, name)
        values |= {f"{name}:{quantity}": numbers for quantity, numbers in own.items()}
        values |= own if name == metric else {}
    if all(run.config.compared for run in runs):
        values |= agreements(group.real, group.ideal)
        if group.real and group.ideal:
            ends = endings(group.real, group.ideal)
            values["matched_ece"] = matched_calibration(group.real, group.ideal, ends)
    if any(has(run, "train_error") for run in group.real):
        times = stopping_time(group.real)
        last = times.last_step
        values["t0"] = [1.0 + (last if t is None else t) for t in times.trials.values()]
        if "train" not in values:  # a Recorder's runs may have no other train metric
            measured = [run for run in group.real if has(run, "train_error")]
            values["train_error"] = [last_value(run, "train_error") for run in measured]
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
    # Real against Ideal at the end of each trial.
    if group.real and group.ideal:
        ends = endings(group.real, group.ideal, metric)
        values["gap"] = [end.gap for end in ends]
        last = bootstrap_error(group.real, group.ideal, metric).values[:, -1]
        values["final_gap"] = [float(gap) for gap in last]
        values["largest"] = [end.largest for end in ends]
        values["ideal"] = [end.ideal for end in ends]
        if len(group.real) > 1:  # what chance alone does to a curve, beside `largest`
            trials = curves(group.real, column).until(max(end.step for end in ends)).values
            values["spread"] = [float(np.ptp(trials, axis=0).max())]
    elif group.real:  # alone, it is measured where it would have been compared
        ends = endings(group.real, group.real, metric)
    else:
        values["ideal"] = values["final_ideal"]
    # How far errors fall where the rate does.
    for world, runs in (("real", group.real), ("ideal", group.ideal)):
        drops = [drop for run in runs if (drop := least_drop(run, column)) is not None]
        if drops:
            values[f"drop_{world}"] = drops
    if values.get("gap"):
        values["distance"] = [abs(gap) for gap in values["gap"]]
        values["bootstrap_share"] = [abs(end.gap) / max(end.real, 1e-9) for end in ends]
    # Train metrics, and the generalization gap.
    learned = [run for run in group.real if has(run, f"train_{metric}")]
    if learned:
        values["final_train"] = [last_value(run, f"train_{metric}") for run in learned]
    if ends:
        values["real"] = [end.real for end in ends]
    trained = [end for end in ends if end.train is not None]
    if trained:
        values["train"] = [float(end.train) for end in trained if end.train is not None]
        values["generalization"] = [
            end.real - end.train for end in trained if end.train is not None
        ]
        values["generalization_share"] = [
            1 - end.train / max(end.real, 1e-9) for end in trained if end.train is not None
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
    values["generalization_error"] = [one.generalization_gap for one in twins]
    values["slack"] = [one.bound - one.generalization_gap for one in twins]
    values["memorization_share"] = [one.memorization / max(one.bound, 1e-9) for one in twins]
    clean = all(config.label_noise is None for config in group.group.real)
    shown = group.real if clean else noisy.values()
    for name, column in (("noisy_train", "train_clean_error"), ("noisy_test", "test_error")):
        values[name] = [last_value(run, column) for run in shown if has(run, column)]
    # Of linear classifiers on a representation: what their size alone says.
    fitted = [run for run in noisy.values() if has(run, "probe_bits") and run.config.noise]
    values["probe_bits"] = [last_value(run, "probe_bits") for run in fitted]
    if twins and len(fitted) == len(twins):
        values["complexity_bound"] = [
            complexity_bound(last_value(run, "probe_bits"), run.config.n, run.config.noise.rate)
            for run in fitted
            if run.config.noise is not None
        ]
        pairs = zip(values["complexity_bound"], values["memorization"], strict=True)
        values["complexity_slack"] = [bound - gap for bound, gap in pairs]
    return values


def _pairs(group: Found) -> Values:
    """Per trial, at the last step: share and softmax mass of the partner, and the largest confusion
    among classes without noise in which the worlds differ.
    """
    values: Values = {}
    for world, runs in (("real", group.real), ("ideal", group.ideal)):
        for name, column in (("partner", "test_partner_share"), ("mass", "test_partner_mass")):
            able = [run for run in runs if has(run, column)]
            if able:
                values[f"{name}_{world}"] = [last_value(run, column) for run in able]
    trained = [run for run in group.real if has(run, "train_error")]
    values["pairs_train"] = [last_value(run, "train_error") for run in trained]
    twins = {run.config.trial: run for run in group.ideal}
    both = [(run, twins[run.config.trial]) for run in group.real if run.config.trial in twins]
    values["others_gap"] = [gap for pair in both if (gap := _others_gap(*pair)) is not None]
    return values


def _others_gap(real: Run, ideal: Run) -> float | None:
    ours, theirs = confusion_of(real), confusion_of(ideal)
    if ours is None or theirs is None or real.config.noise is None:
        return None
    others = [k for k in range(len(ours)) if k not in real.config.noise.pairs]
    return float(np.nanmax(np.abs(ours - theirs)[others]))


def _table(group: Found) -> Values:
    runs = group.real or group.ideal
    values: Values = {}
    for name in TEST_SETS:
        measured = [run for run in runs if has(run, name)]
        if measured:
            values[name] = [float(curves([run], name).values[0, -1]) for run in measured]
    return values


def _sheet(group: Found) -> Values:
    names = ("classes_shown", "largest_class", "labeler_accuracy")
    return {n: [run.rows[-1][n] for run in group.real if has(run, n)] for n in names}


def _patience(group: Found, metric: str) -> Values:
    values: Values = {"stopped": [], "stopped_at": [], "best": [], "gained": [], "lost": []}
    values["fitted_later"] = []
    for run in group.real:
        stop = patience_stop(run, patience_of(run), f"test_{metric}")
        curve = curves([run], f"test_{metric}")
        at = curve.steps[-1] if stop.stopped is None else stop.stopped
        values["stopped"].append(float(curve.values[0, curve.steps == at][0]))
        if stop.stopped is not None:
            values["stopped_at"].append(1.0 + stop.stopped)
        values["best"].append(stop.best_value)
        if (ratio := fitted_later(run)) is not None:
            values["fitted_later"].append(ratio)
        values["gained"].append(float(curve.values[0, -1]) - values["stopped"][-1])
        if stop.t0_value is not None:
            values["lost"].append(stop.t0_value - values["stopped"][-1])
    return values


def patience_of(run: Run) -> int:
    return run.config.patience or PATIENCE


def fitted_later(run: Run) -> float | None:
    """Updates until half of the wrong labels are fitted over those of the others; None where the
    labels have no noise. What is not reached counts as the last update.
    """
    columns = ("train_corrupted_error", "train_kept_error")
    if not all(has(run, column) for column in columns):
        return None
    wrong, kept = (curves([run], column) for column in columns)
    at = [int(c.updates[below[0]] if len(below := np.flatnonzero(c.median <= 0.5)) else
              c.updates[-1]) for c in (wrong, kept)]  # fmt: skip
    return at[0] / at[1]


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
    drawn = tuple(group.label for group in experiment.groups if group.drawn)
    wanted = (*(check.groups or drawn), *check.others)
    by_label = {one.label: one for one in measured}
    numbers = {
        label: value
        for label in wanted
        if label in by_label and (value := by_label[label].get(check.quantity)) is not None
    }
    # Without the numbers there is no verdict.
    name = name_of(check.quantity, experiment.metric)
    lacking = len(set(wanted)) - len(numbers)
    if not numbers or (lacking and check.relation in ("rises", "falls", "above", "near")):
        return f"{_claimed(check, name, wanted)}: not measured, runs are missing", "open"
    compared = [label for label in wanted if label in numbers]  # `others` may repeat one
    # The verdict is sure, or open, by resampling the trials.
    chance = met_share(check, [by_label[label] for label in compared])
    text = f"{_claimed(check, name, wanted)}: {_told(check, numbers, by_label)}"
    if lacking:
        text += f" ({lacking} of {len(wanted)} groups not measured)"
    if chance is None:
        met = check.met([numbers[label] for label in compared])
        state: Status = "fails" if not met else "open" if lacking else "holds"
        return f"{text}; a single trial, no interval", state
    state = "holds" if chance >= SURE else "fails" if chance <= 1 - SURE else "open"
    if state == "open":
        text += f"; met in {chance:.0%} of {DRAWS:,} resamplings of the trials"
    return text, "open" if lacking and state == "holds" else state


def met_share(check: Check, groups: Sequence[Measured]) -> float | None:
    """The share of resamplings of the trials in which the groups meet a check; None where every
    group has a single trial.
    """
    if all(len(one.values[check.quantity]) < 2 for one in groups):
        return None
    centers = [one.resampled(check.quantity) for one in groups]
    return float(np.mean([check.met(list(row)) for row in np.stack(centers, axis=1)]))


def _claimed(check: Check, name: str, labels: Sequence[str]) -> str:
    if check.others:
        pairs = list(zip(check.groups, check.others, strict=True))
        first = f"{pairs[0][0]} {check.relation} {pairs[0][1]}"
        more = f" and {len(pairs) - 1} pairs more" if len(pairs) > 1 else ""
        most = f", in {check.share:.0%} of them" if check.share < 1 else ""
        slack = f" (tolerance {check.tolerance:g})" if check.tolerance else ""
        return f"{name}: {first}{more}{most}{slack}"
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
    if check.others:
        gaps = [numbers[a] - numbers[b] for a, b in zip(check.groups, check.others, strict=True)]
        alone = f"{number(numbers[check.groups[0]])} and {number(numbers[check.others[0]])}"
        apart = f"differences of {min(gaps):+.3f} to {max(gaps):+.3f}"
        return alone if len(gaps) == 1 else apart
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
    """Return a value as a page shows it: counts in full, shares to three digits."""
    is_count = abs(value) >= 100 or (abs(value) >= 1 and value == int(value))
    return f"{value:,.0f}" if is_count else f"{value:.3f}"
