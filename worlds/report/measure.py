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

from worlds.experiments.spec import Center, Check, Experiment
from worlds.report.analysis import (
    METRICS,
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

    def number(self, quantity: str) -> float:
        """Return a number as a page shows it: counts in full, shares to three digits."""
        return self.get(quantity) or 0.0

    def point(self, quantity: str, **columns: Any) -> dict[str, Any]:
        """Return a row of the table of points, with the range over trials."""
        low, high = self.range(quantity)
        row = {"panel": "", "group": self.label, "world": "", "quantity": quantity}
        numbers = {"y": self.get(quantity), "low": low, "high": high}
        return {**row, **numbers, "trials": len(self.values[quantity]), **columns}

    def resampled(self, quantity: str) -> np.ndarray:
        """Return the centers of resampled trials, float64 (DRAWS,); groups of equally many trials
        are resampled alike, for trials are pairs.
        """
        values = np.asarray(self.values[quantity], dtype=np.float64)  # (trials,)
        chosen = np.random.default_rng(len(values)).integers(len(values), size=(DRAWS, len(values)))
        return np.asarray(CENTERS[self.center](values[chosen], axis=1))

    def interval(self, quantity: str) -> tuple[float, float]:
        """95 % of the centers of resampled trials; of a single trial its value twice."""
        low, high = np.quantile(self.resampled(quantity), (0.025, 0.975))
        return float(low), float(high)

    def range(self, quantity: str) -> tuple[float, float]:
        return min(self.values[quantity]), max(self.values[quantity])


def measure(experiment: Experiment, found: Sequence[Found]) -> list[Measured]:
    """Measure each group that has a run; the kind decides what."""
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
        # What is measured depends on the figure.
        kind = "rrm" if ("memorization",) in experiment.panels else experiment.kind
        if kind in special:
            values, reached = special[kind](group), 0
        else:
            values = _worlds(group, experiment.metric)
            reached = sum(run.stopping_step is not None for run in group.real)
        # How much more confident the Real World is than it is right.
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
    # The slides: exponents multiply, so L(n) falls as n^-(alpha beta).
    real = {one.found.real[0].config.n: one.found.real for one in measured if one.found.real}
    ideal = max((one.found.ideal for one in measured), key=len)
    found = scaling_of_trials(real, ideal, metric) if ideal else []
    names = ("alpha", "beta", "gamma", "product")
    last = measured[-1].values
    last |= {name: [getattr(one, name) for one in found] for name in names}
    last["mismatch"] = [one.product - one.gamma for one in found]


def _last(runs: Sequence[Run], column: str) -> list[float]:
    """Return the last value of each run that has any."""
    return [last_value(run, column) for run in runs if has(run, column)]


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
        # A trial that did not reach T0 counts as its last update.
        times = stopping_time(group.real)
        last = times.last_step
        values["t0"] = [1.0 + (last if t is None else t) for t in times.trials.values()]
        if "train" not in values:  # a Recorder's runs may have no other train metric
            values["train_error"] = _last(group.real, "train_error")
    return values


def _one_metric(group: Found, metric: str) -> Values:
    column, real, ideal = f"test_{metric}", group.real, group.ideal
    values: Values = {"final_real": _last(real, column), "final_ideal": _last(ideal, column)}
    if ideal:  # the lower, the faster
        values["mean_ideal"] = [float(curves([run], column).values[0].mean()) for run in ideal]
    # Real against Ideal at the end of each trial; alone, Real where it would have been compared.
    ends = endings(real, ideal or real, metric) if real else ()
    if real and ideal:
        values["gap"] = [end.gap for end in ends]
        values["final_gap"] = bootstrap_error(real, ideal, metric).values[:, -1].tolist()
        values["largest"] = [end.largest for end in ends]
        values["ideal"] = [end.ideal for end in ends]
        if len(real) > 1:  # what chance alone does to a curve, beside `largest`
            trials = curves(real, column).until(max(end.step for end in ends)).values
            values["spread"] = [float(np.ptp(trials, axis=0).max())]
        values["distance"] = [abs(end.gap) for end in ends]
        values["bootstrap_share"] = [abs(end.gap) / max(end.real, 1e-9) for end in ends]
    elif ideal:
        values["ideal"] = values["final_ideal"]
    # How far errors fall where the rate does.
    for world, runs in (("real", real), ("ideal", ideal)):
        drops = [least_drop(run, column) for run in runs]
        values[f"drop_{world}"] = [drop for drop in drops if drop is not None]
    # Train metrics, and the generalization gap.
    values["final_train"] = _last(real, f"train_{metric}")
    values["real"] = [end.real for end in ends]
    both = [(end.train, end.real) for end in ends if end.train is not None]
    values["train"] = [train for train, _ in both]
    values["generalization"] = [test - train for train, test in both]
    values["generalization_share"] = [1 - train / max(test, 1e-9) for train, test in both]
    return {name: numbers for name, numbers in values.items() if numbers}


def _rrm(group: Found) -> Values:
    # A clean and a noisy run of each trial.
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
    shown = list(group.real if clean else noisy.values())
    values["noisy_train"] = _last(shown, "train_clean_error")
    values["noisy_test"] = _last(shown, "test_error")
    # Of linear classifiers on a representation: what their size alone says (Theorem II).
    fitted = [
        (last_value(run, "probe_bits"), run.config.n, run.config.noise.rate)
        for run in noisy.values()
        if run.config.noise is not None and has(run, "probe_bits")
    ]
    values["probe_bits"] = [bits for bits, _, _ in fitted]
    if twins and len(fitted) == len(twins):
        values["complexity_bound"] = [complexity_bound(*one) for one in fitted]
        pairs = zip(values["complexity_bound"], values["memorization"], strict=True)
        values["complexity_slack"] = [bound - gap for bound, gap in pairs]
    return values


def _pairs(group: Found) -> Values:
    """Return per trial, at the last step: share and softmax mass of the partner, and the largest
    confusion among classes without noise in which the worlds differ.
    """
    values: Values = {}
    for world, runs in (("real", group.real), ("ideal", group.ideal)):
        values[f"partner_{world}"] = _last(runs, "test_partner_share")
        values[f"mass_{world}"] = _last(runs, "test_partner_mass")
    values["pairs_train"] = _last(group.real, "train_error")
    # Where classes without noise are called otherwise in the two worlds.
    twins = {run.config.trial: run for run in group.ideal}
    both = [(run, twins[run.config.trial]) for run in group.real if run.config.trial in twins]
    values["others_gap"] = [gap for pair in both if (gap := _others_gap(*pair)) is not None]
    return values


def _others_gap(real: Run, ideal: Run) -> float | None:
    ours, theirs = confusion_of(real), confusion_of(ideal)
    if ours is None or theirs is None or real.config.noise is None:
        return None
    others = [k for k in range(len(ours)) if k not in real.config.noise.pairs]  # classes
    return float(np.nanmax(np.abs(ours - theirs)[others]))


def _table(group: Found) -> Values:
    return {name: _last(group.real or group.ideal, name) for name in TEST_SETS}


def _sheet(group: Found) -> Values:
    names = ("classes_shown", "largest_class", "labeler_accuracy")
    return {name: _last(group.real, name) for name in names}


def _patience(group: Found, metric: str) -> Values:
    values: Values = {"stopped": [], "stopped_at": [], "best": [], "gained": [], "lost": []}
    values["fitted_later"] = []
    for run in group.real:
        # Where patience ends the run, or its last step.
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
    # The first update at which half of them are fitted.
    wrong, kept = (curves([run], column) for column in columns)
    at = []
    for curve in (wrong, kept):
        below = np.flatnonzero(curve.median <= 0.5)
        at.append(int(curve.updates[below[0] if len(below) else -1]))
    return at[0] / at[1]


@dataclass(frozen=True)
class Verdict:
    """Verdict of an experiment: "open" if nothing is claimed, or a check lacks its runs."""

    status: Status
    lines: tuple[tuple[str, Status], ...]


def judge(experiment: Experiment, measured: Sequence[Measured]) -> Verdict:
    # One check that fails decides, one that is open leaves it open.
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
    wanted = experiment.labels_of(check)
    by_label = {one.label: one for one in measured}
    numbers = {
        label: value
        for label in wanted
        if label in by_label and (value := by_label[label].get(check.quantity)) is not None
    }
    # Without the numbers there is no verdict.
    claimed = check.describe(experiment.metric, wanted)
    lacking = len(set(wanted)) - len(numbers)
    if not numbers or (lacking and check.relation in ("rises", "falls", "above", "near")):
        return f"{claimed}: not measured, runs are missing", "open"
    compared = [label for label in wanted if label in numbers]  # `others` may repeat one
    # The verdict is sure, or open, by resampling the trials.
    chance = met_share(check, [by_label[label] for label in compared])
    text = f"{claimed}: {_told(check, numbers, by_label)}"
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
    """Return the share of resamplings of the trials in which the groups meet a check; None if every
    group has a single trial.
    """
    if all(len(one.values[check.quantity]) < 2 for one in groups):
        return None
    centers = [one.resampled(check.quantity) for one in groups]  # (DRAWS,) each
    return float(np.mean([check.met(list(row)) for row in np.stack(centers, axis=1)]))


def _told(check: Check, numbers: Mapping[str, float], measured: Mapping[str, Measured]) -> str:
    """Return the numbers, of many the farthest, and the spread over trials beside it."""
    # An order is told by all numbers, pairs by their differences.
    if check.relation in ("rises", "falls"):
        return ", ".join(number(value) for value in numbers.values())
    if check.others:
        gaps = [numbers[a] - numbers[b] for a, b in zip(check.groups, check.others, strict=True)]
        alone = f"{number(numbers[check.groups[0]])} and {number(numbers[check.others[0]])}"
        apart = f"differences of {min(gaps):+.3f} to {max(gaps):+.3f}"
        return alone if len(gaps) == 1 else apart
    # Of many groups the one that is farthest from the claim.
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
    """Return a number as a page shows it: counts in full, shares to three digits."""
    is_count = abs(value) >= 100 or (abs(value) >= 1 and value == int(value))  # or a share
    return f"{value:,.0f}" if is_count else f"{value:.3f}"
