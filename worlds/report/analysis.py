"""Compare the two worlds: bootstrap error, T0, medians over trials, scaling with n.

    real, ideal = [runs of one config in each world], [...]
    endings(real, ideal)                    # each trial at min(T0, its last common step)
    curves(real, "test_soft_error").median  # over trials, at the steps that all of them have
    power_law(curves(ideal, "test_soft_error"), first=100)

Pure functions of run folders as worlds/training/run_folder.py reads them. Steps count from 0, as in
the rows; laws in time are fitted on updates (step + 1). Metrics are named as in the rows,
without the leading `test_`: soft_error, error, loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from worlds.training.metrics import patience_point, stopping_point
from worlds.training.run_folder import Run, patience_reached

METRICS: Final = ("soft_error", "error", "loss", "ece")
BAND: Final = (0.25, 0.75)  # quantiles over trials that figures shade


@dataclass(frozen=True)
class Curves:
    """One measurement of several trials at the steps that all of them have."""

    trials: tuple[int, ...]
    steps: np.ndarray  # int64 (T,), increasing
    values: np.ndarray  # float64 (trials, T)

    @property
    def updates(self) -> np.ndarray:
        return self.steps + 1

    @property
    def median(self) -> np.ndarray:
        """Over trials, float64 (T,)."""
        return np.median(self.values, axis=0)

    def quantiles(self, shares: Sequence[float] = BAND) -> np.ndarray:
        """Over trials, float64 (shares, T)."""
        return np.quantile(self.values, shares, axis=0)

    def until(self, step: int | None) -> "Curves":
        """Return the part at or before `step`; all of it for None."""
        keep = self.steps <= (self.steps[-1] if step is None else step)
        return Curves(self.trials, self.steps[keep], self.values[:, keep])

    def of_trial(self, trial: int) -> np.ndarray:
        """Return the trial's values, or the median where it is not among them: float64 (T,)."""
        return self.values[self.trials.index(trial)] if trial in self.trials else self.median


def has(run: Run, column: str) -> bool:
    """Return whether the run measured this."""
    return any(row.get(column) is not None for row in run.rows)


def curves(runs: Sequence[Run], column: str) -> Curves:
    """Return `column` of each run. Raises ValueError if the runs have no step with it in common."""
    if not runs:
        raise ValueError(f"there is no run to take {column} from")
    # Each run's steps and values, then those that all of them have.
    series = [
        {row["step"]: row[column] for row in run.rows if row.get(column) is not None}
        for run in runs
    ]
    steps = sorted(set.intersection(*map(set, series)))
    if not steps:
        names = ", ".join(str(run.folder) for run in runs)
        raise ValueError(f"no step at which {column} was measured in every one of {names}")
    values = np.array([[values[step] for step in steps] for values in series], dtype=np.float64)
    return Curves(tuple(run.config.trial for run in runs), np.array(steps), values)


def last_value(run: Run, column: str) -> float:
    """Return `column` in the last row that has it."""
    return float(curves([run], column).values[0, -1])


def confusion_of(run: Run) -> np.ndarray | None:
    """Return shares of the test images of each class (rows) that are called each class, (K, K)
    float64, in the last row; None where the run did not measure them.
    """
    # test_confusion_A_B for all pairs of classes A, B.
    row = run.final or {}
    prefix = "test_confusion_"
    named = {name.removeprefix(prefix): value for name, value in row.items() if prefix in name}
    count = round(len(named) ** 0.5)
    if not count:
        return None
    shares = [[named[f"{a}_{b}"] for b in range(count)] for a in range(count)]  # (K, K)
    return np.array(shares, dtype=np.float64)


def least_drop(run: Run, column: str) -> float | None:
    """Return the least fall of `column` over a change of the learning rate: the mean of the unit
    before it less that of the unit after. None for schedules without sudden changes, or too few
    rows.
    """
    config = run.config
    if config.schedule not in ("3step", "steps"):
        return None
    curve, unit = curves([run], column), config.unit
    # Where the rate falls, and by how much the means of the units around it do.
    changes = [s for s in range(1, config.steps) if config.rate(s) < 0.99 * config.rate(s - 1)]
    falls = []
    for change in changes:
        before = curve.values[0, (curve.steps >= change - unit) & (curve.steps < change)]
        after = curve.values[0, (curve.steps >= change) & (curve.steps < change + unit)]
        if len(before) and len(after):
            falls.append(float(before.mean() - after.mean()))
    return min(falls) if falls else None


@dataclass(frozen=True)
class StoppingTime:
    """T0, the first logged step with a train error of at most the threshold, in three readings."""

    trials: Mapping[int, int | None]  # of each trial; None: not reached
    of_median_curve: int | None  # of the median of the trials' train errors
    last_step: int  # that the trials have in common

    @property
    def reached(self) -> int:
        return sum(step is not None for step in self.trials.values())

    @property
    def median(self) -> float | None:
        """The median over trials, one that did not reach it counting as later than all that did;
        None where that leaves no number.
        """
        steps = sorted(np.inf if step is None else step for step in self.trials.values())
        middle = float(np.median(steps)) if steps else np.inf
        return middle if np.isfinite(middle) else None


def stopping_time(real: Sequence[Run]) -> StoppingTime:
    """T0 of the trials of one Real World, by the threshold of their config."""
    measured = [run for run in real if has(run, "train_error")]
    if not measured:
        return StoppingTime({}, None, int(curves(real, "test_loss").steps[-1]))
    # Trial by trial, and of the median curve.
    train = curves(measured, "train_error")
    index = stopping_point(train.median.tolist(), measured[0].config.threshold)
    return StoppingTime(
        {run.config.trial: run.stopping_step for run in measured},
        None if index is None else int(train.steps[index]),
        int(train.steps[-1]),
    )


@dataclass(frozen=True)
class Ending:
    """One trial where the worlds are compared: at min(T0, the last step both have)."""

    trial: int
    step: int
    t0: int | None  # where it was not reached, or nobody measured at it, `step` is the last
    real: float
    ideal: float
    largest: float  # |Real - Ideal| at its greatest, at or before `step`
    train: float | None  # of the Real World, as the paper measured it

    @property
    def reached(self) -> bool:
        """Return whether the worlds are compared at T0."""
        return self.step == self.t0

    @property
    def gap(self) -> float:
        """The bootstrap error."""
        return self.real - self.ideal

    def __str__(self) -> str:
        reached = f"T0 = step {self.t0:,}" if self.t0 is not None else "T0 not reached"
        return (
            f"trial {self.trial}: {reached}; at step {self.step:,} soft-error real "
            f"{self.real:.4f}, ideal {self.ideal:.4f}, bootstrap error {self.gap:+.4f}"
        )


def endings(
    real: Sequence[Run], ideal: Sequence[Run], metric: str = "soft_error"
) -> tuple[Ending, ...]:
    """Compare each Real trial with the Ideal run of the same trial, or with the median of the Ideal
    runs where that trial has none (one Ideal run may serve several Real Worlds). Raises ValueError
    if a pair has no step in common.
    """
    return tuple(_ending(run, ideal, metric) for run in real)


def _ending(run: Run, ideal: Sequence[Run], metric: str) -> Ending:
    # The Ideal run of the same trial, or all of them.
    twin = [other for other in ideal if other.config.trial == run.config.trial]
    mine, theirs = curves([run], f"test_{metric}"), curves(twin or ideal, f"test_{metric}")
    steps = np.intersect1d(mine.steps, theirs.steps)
    t0 = run.stopping_step
    steps = steps[steps <= (steps.max(initial=-1) if t0 is None else t0)]
    if not len(steps):
        raise ValueError(f"{run.folder} and its Ideal World have no step in common up to T0")
    # Both curves at these steps; the last of them is where the trial ends.
    real_values = mine.median[np.isin(mine.steps, steps)]
    ideal_values = theirs.median[np.isin(theirs.steps, steps)]
    end = int(steps[-1])
    train = next((row.get(f"train_{metric}") for row in run.rows if row["step"] == end), None)
    return Ending(
        trial=run.config.trial,
        step=end,
        t0=t0,
        real=float(real_values[-1]),
        ideal=float(ideal_values[-1]),
        largest=float(np.max(np.abs(real_values - ideal_values))),
        train=train,
    )


def bootstrap_error(
    real: Sequence[Run], ideal: Sequence[Run], metric: str = "soft_error"
) -> Curves:
    """Return Real - Ideal of each Real trial (see `endings`) at the steps that all have."""
    ours, theirs = curves(real, f"test_{metric}"), curves(ideal, f"test_{metric}")
    steps = np.intersect1d(ours.steps, theirs.steps)
    if not len(steps):
        raise ValueError("the Real and the Ideal World were measured at no common step")
    # Trial by trial against its twin, or against the median.
    at_ours, at_theirs = np.isin(ours.steps, steps), np.isin(theirs.steps, steps)
    gaps = [
        values[at_ours] - theirs.of_trial(trial)[at_theirs]
        for trial, values in zip(ours.trials, ours.values, strict=True)
    ]
    return Curves(ours.trials, steps, np.array(gaps))


@dataclass(frozen=True)
class PowerLaw:
    """value ~ scale * x^-exponent, with a 95 % interval of the exponent."""

    scale: float
    exponent: float
    low: float
    high: float
    first: float  # the range of x it was fitted on
    last: float
    method: str  # where the interval comes from

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.scale * np.asarray(x, dtype=np.float64) ** -self.exponent


def power_law(
    learned: Curves,
    first: int = 1,
    last: int | None = None,
    points: int = 40,
    draws: int = 1_000,
    seed: int = 0,
) -> PowerLaw:
    """Fit a power law: least squares in logarithms, through the mean over trials of log(value) at
    up to `points` measured updates in [first, last] that are about even on a log axis.

    The interval comes from resampling trials (`draws` times, seeded) where there are three or more;
    otherwise from the covariance of the fit, which takes the points as independent and is then too
    narrow. ValueError for fewer than three points or a value that is not positive.
    """
    x = learned.updates
    # Measured updates in the window, of many an even choice on the log axis.
    inside = np.flatnonzero((x >= first) & (x <= (x[-1] if last is None else last)))
    if len(inside) >= 3:
        grid = np.geomspace(x[inside[0]], x[inside[-1]], points)
        inside = np.unique(inside[np.minimum(np.searchsorted(x[inside], grid), len(inside) - 1)])
    if len(inside) < 3:
        raise ValueError(
            f"a power law needs 3 points, there are {len(inside)} with {first} or more updates"
        )
    if np.any(learned.values[:, inside] <= 0):
        raise ValueError("a power law needs positive values, there is one of 0 or less")
    logs = np.log(learned.values[:, inside])  # (trials, points)
    law = power_law_of_points(x[inside], np.exp(logs.mean(axis=0)))
    if len(logs) < 3:
        return replace(law, method=f"{law.method}, points taken as independent")
    # The interval of the exponent: fits to the means over resampled trials.
    generator = np.random.default_rng(seed)  # equal runs give equal reports
    chosen = generator.integers(len(logs), size=(draws, len(logs)))  # (draws, trials)
    slopes = np.polyfit(np.log(x[inside]), logs[chosen].mean(axis=1).T, 1)[0]  # (draws,)
    low, high = np.quantile(-slopes, (0.025, 0.975))
    method = f"{draws:,} resamplings of {len(logs)} trials"
    return replace(law, low=float(low), high=float(high), method=method)


def power_law_of_points(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray
) -> PowerLaw:
    """Fit a power law through single points, such as T0 against n; three or more, all positive."""
    if len(x) < 3 or min(*x, *y) <= 0:
        raise ValueError(f"a power law needs 3 or more positive points, got {list(x)}, {list(y)}")
    at, logs = np.log(x), np.log(y)
    slope, intercept = np.polyfit(at, logs, 1)  # of the logarithms
    # 1.96 standard errors of the slope.
    residual = logs - slope * at - intercept
    variance = residual @ residual / (len(x) - 2) / np.sum((at - at.mean()) ** 2)
    half = 1.96 * float(np.sqrt(variance))
    bounds = float(-slope - half), float(-slope + half)
    window = float(min(x)), float(max(x))
    return PowerLaw(
        float(np.exp(intercept)), float(-slope), *bounds, *window, "covariance of the fit"
    )


@dataclass(frozen=True)
class Scaling:
    """The slides' "scaling exponents multiply" for one trial: with Ideal(t) ~ t^-alpha and
    T(n) ~ n^beta, L(n) ~ n^-gamma should have gamma = alpha beta.
    """

    alpha: float
    beta: float
    gamma: float

    @property
    def product(self) -> float:
        return self.alpha * self.beta


def scaling_of_trials(
    real: Mapping[int, Sequence[Run]], ideal: Sequence[Run], metric: str = "soft_error"
) -> list[Scaling]:
    """Return the three exponents of each trial that reached T0 at three or more n; the Ideal World
    is fitted between the least and the greatest T0. Trials without enough points are left out.
    """
    trials = sorted({run.config.trial for runs in real.values() for run in runs})
    found = []
    for trial in trials:
        # The runs of this trial at each n, and where they end.
        runs = {n: [r for r in rs if r.config.trial == trial] for n, rs in real.items()}
        ends = {n: endings(rs, ideal, metric)[0] for n, rs in runs.items() if rs}
        sizes = [n for n, end in sorted(ends.items()) if end.reached]
        own = [run for run in ideal if run.config.trial == trial] or list(ideal)
        if len(sizes) < 3 or not own:
            continue
        # alpha of Ideal(t) between the T0s, beta of T(n), gamma of L(n).
        times = [float(ends[n].step + 1) for n in sizes]
        learned = curves(own, f"test_{metric}")
        try:
            alpha = power_law(learned, int(min(times)), int(max(times))).exponent
            beta = -power_law_of_points(sizes, times).exponent
            gamma = power_law_of_points(sizes, [ends[n].real for n in sizes]).exponent
        except ValueError:
            continue
        found.append(Scaling(alpha, beta, gamma))
    return found


@dataclass(frozen=True)
class Patience:
    """Early stopping by patience, read off a whole run, against T0."""

    stopped: int | None  # the step it would have ended at; None: it never would
    best: int  # the step with the least value until then
    best_value: float
    t0: int | None
    t0_value: float | None


def patience_stop(run: Run, patience: int, column: str = "test_soft_error") -> Patience:
    """Stop at the log point that is `patience` log points past the least value so far; with
    a validation split so many epochs past the last improvement of the validation error.
    """
    curve = curves([run], column)
    values = curve.median
    if run.config.validation:
        index, best = patience_reached(run.config, run.rows, patience)
    else:
        index, best = patience_point(values.tolist(), patience)
    stopped = None if index is None else int(curve.steps[index])
    t0 = run.stopping_step
    at_t0 = None if t0 is None else float(values[curve.steps == t0][0])
    return Patience(stopped, int(curve.steps[best]), float(values[best]), t0, at_t0)
