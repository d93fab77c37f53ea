"""Learning rates, step counts and log points: pure functions of the step.

    schedule = Schedule("cosine", learning_rate=0.1, steps=39_000)   # the paper's: 100 units of 390
    schedule(0), schedule(390), schedule(38_999)                     # 0.1, 0.09998, 0.0000247

Steps count from 0; the rate of step i is used by the update that makes i + 1 updates. The paper's
code moves the rate once per unit of 390 steps (an epoch of 50,000 samples at batch 128) and never
within; `unit=1` moves it every step, and so does a run of less than two units, which would never
see its rate change: every schedule ends with the run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

UNIT: Final = 390
KINDS: Final = ("cosine", "constant", "3step", "exponential", "steps")
FINAL_EXPONENTIAL: Final = 1e-3  # what "exponential" has decayed to after the last unit


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each of `steps` steps.

    In unit e = step // unit of T = steps // unit, `learning_rate` is multiplied by

    cosine       (1 + cos(pi e / T)) / 2; 0 in the steps left over behind the last unit
    constant     1
    3step        `factor` once more every round(T / 3) units: 17, 34 of 50; 33, 66, 99 of 100
    exponential  0.001^(e / T)
    steps        `factor` once more at each unit in `drops`

    and in the first `warmup` steps also by (step + 1) / warmup. A run of less than two units has
    units of one step (`drops` count steps there).
    """

    kind: str
    learning_rate: float
    steps: int
    unit: int = UNIT
    drops: tuple[int, ...] = ()
    factor: float = 0.1
    warmup: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"schedule must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.steps < 1 or self.unit < 1:
            raise ValueError(
                f"steps and unit must be at least 1, got steps={self.steps}, unit={self.unit}"
            )
        if not 0 <= self.warmup <= self.steps:
            raise ValueError(f"warmup must be in [0, steps={self.steps}], got {self.warmup}")
        if (self.kind == "steps") != bool(self.drops):
            raise ValueError(f'drops are for kind "steps" and needed there, got {self.drops}')
        if list(self.drops) != sorted(set(self.drops)) or any(drop < 1 for drop in self.drops):
            raise ValueError(f"drops must be increasing units of at least 1, got {self.drops}")
        if not 0 < self.factor <= 1:
            raise ValueError(f"factor must be in (0, 1], got {self.factor}")

    @property
    def unit_steps(self) -> int:
        """Steps between changes of the rate: `unit`, or 1 where the run has less than two."""
        return self.unit if self.steps >= 2 * self.unit else 1

    @property
    def units(self) -> int:
        return self.steps // self.unit_steps

    def __call__(self, step: int) -> float:
        if not 0 <= step < self.steps:
            raise ValueError(f"step must be in [0, {self.steps}), got {step}")
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0  # a share
        return self.learning_rate * warm * self._multiplier(step // self.unit_steps)

    def _multiplier(self, e: int) -> float:
        units = self.units
        if self.kind == "cosine":
            return (1 + math.cos(math.pi * min(e, units) / units)) / 2
        if self.kind == "3step":
            return self.factor ** (e // max(1, round(units / 3)))
        if self.kind == "exponential":
            return FINAL_EXPONENTIAL ** (e / units)
        if self.kind == "steps":
            return self.factor ** sum(drop <= e for drop in self.drops)
        return 1.0


def steps_of_epochs(n: int, batch_size: int, epochs: int) -> int:
    """Return steps as the paper's code counts them, int(n / batch_size * epochs)."""
    if min(n, batch_size, epochs) < 1:
        raise ValueError(
            f"n, batch_size and epochs must be at least 1, got {n}, {batch_size} and {epochs}"
        )
    return n * epochs // batch_size


def log_points(steps: int, every: int = 64, dense: bool = True) -> list[int]:
    """Return the steps after which the paper measures: each 64th; below 2,048 8th, below 1,024 4th.

    962 points in 39,000 steps; 610 without the dense beginning, the code's "fast". The last step is
    not among them.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    chosen = set(range(0, steps, every))
    # The released code adds every 4th and 8th of the first steps.
    if dense:
        chosen.update(range(0, min(steps, 1024), 4), range(0, min(steps, 2048), 8))
    return sorted(chosen)


def series_points(series: str | Sequence[int], steps: int) -> list[int]:
    """Return the numbers of updates in [0, steps] of a series: "log:K", 0 and K a decade to the
    last; "every:K", 0 and each K-th; or numbers, listed or as in "1,10,100".

    Raises ValueError if it is none of these, or a number is not in the run.
    """
    try:
        # log:K and every:K, or the numbers themselves.
        kind, colon, number = series.partition(":") if isinstance(series, str) else ("", "", "")
        if colon and kind in ("log", "every") and int(number) > 0:
            k = int(number)
            if kind == "every":
                return list(range(0, steps + 1, k))
            decades = range(math.ceil(k * math.log10(steps)))  # K of each
            return sorted({0, *(round(10 ** (i / k)) for i in decades), steps})
        listed = series.split(",") if isinstance(series, str) else series
        points = sorted({int(item) for item in listed if item != ""})
    except (TypeError, ValueError):
        points = [-1]
    if points and not 0 <= points[0] <= points[-1] <= steps:
        raise ValueError(
            f"a series of checkpoints is log:K, every:K or updates from 0 to {steps:,} such as "
            f"1,10,100, got {series!r}"
        )
    return points


def spaced_log_points(steps: int, count: int = 60) -> list[int]:
    """Return at most `count` steps, even on a log axis, from the first to the last: cheaper."""
    if steps < 1 or count < 2:
        raise ValueError(f"steps must be at least 1 and count 2, got {steps} and {count}")
    ratios = (i / (count - 1) for i in range(count))  # 0 to 1
    return sorted({round(steps**ratio) - 1 for ratio in ratios})
