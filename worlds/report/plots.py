"""Figures of the two worlds: functions that draw on an `ax` and return the points they drew.

    with style():
        figure, axes, _ = new_figure(1)
        points = draw_runs(axes[0], runs, "test_soft_error", REAL, t0=median_t0(runs), ring=True)

Solid is Real, dashed Ideal, faint the Real World's train; a ring marks T0, and what follows it is
faded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from worlds.cli.drawing import BLUE, FAINT, GRAY, INK, PAPER, RED
from worlds.report.analysis import Curves, PowerLaw, curves, has, stopping_time
from worlds.training.run_folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REAL, IDEAL, TRAIN = BLUE, RED, GRAY
DASHES: Final = (0, (4, 2))  # of the Ideal World

Style = dict[str, Any]
Point = dict[str, Any]
COLUMNS: Final = ("panel", "group", "world", "quantity", "x", "y", "low", "high", "trials")

# Lines and marks of legends.
SOLID: Final[Style] = {"color": REAL, "linestyle": "-"}
DASHED: Final[Style] = {"color": IDEAL, "linestyle": DASHES}
DOTTED: Final[Style] = {"color": FAINT, "linestyle": (0, (1, 1.5)), "linewidth": 1.2}
DIAGONAL: Final[Style] = {"color": FAINT, "linewidth": 1}
RING: Final[Style] = {
    "color": REAL,
    "marker": "o",
    "linestyle": "none",
    "markersize": 8,
    "markerfacecolor": "none",
    "markeredgewidth": 2,
}


@dataclass(frozen=True)
class Drawn:
    figure: "Figure"
    points: list[Point]
    remark: str = ""  # a sentence that the figure has to say, such as a fit


def curve_of(runs: Sequence[Run], column: str) -> Curves | None:
    """Return the curves of the runs that have the column, if any."""
    able = [run for run in runs if has(run, column)]
    return curves(able, column) if able else None


def median_t0(real: Sequence[Run]) -> int | None:
    """Return T0 of the median train error of Real World runs; None if it is not measured."""
    measured = [run for run in real if has(run, "train_error")]
    return stopping_time(measured).of_median_curve if measured else None


def draw_runs(
    ax: "Axes", runs: Sequence[Run], column: str, color: str, **options: Any
) -> list[Point]:
    """Draw `column` of the runs that have it, as `draw_curve`."""
    return draw_curve(ax, curve_of(runs, column), color, quantity=column, **options)


def draw_curve(
    ax: "Axes",
    curve: Curves | None,
    color: str,
    *,
    t0: int | None = None,
    ring: bool = False,
    dashes: Any = "-",
    width: float = 2.0,
    **names: str,
) -> list[Point]:
    """Draw the median over its quartiles against updates, faded past T0, which `ring` marks.

    Return the points, with `names` as their other columns; none without a curve.
    """
    from matplotlib.ticker import MaxNLocator

    if curve is None:
        return []
    # The band, the median up to T0, and paler what follows.
    low, high = curve.quantiles()
    if len(curve.trials) > 1:
        ax.fill_between(curve.updates, low, high, color=color, alpha=0.2, linewidth=0)
    line = {"color": color, "linestyle": dashes}
    ax.plot(curve.until(t0).updates, curve.until(t0).median, linewidth=width, **line)
    if t0 is not None and t0 < curve.steps[-1]:
        past = curve.steps >= t0
        ax.plot(curve.updates[past], curve.median[past], alpha=0.4, linewidth=0.75 * width, **line)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(_thousands)
    ax.set_xlabel("updates")
    # What was drawn, for the tables of points.
    columns = zip(curve.updates, curve.median, low, high, strict=True)
    points: list[Point] = [
        {**names, "x": int(x), "y": float(y), "low": float(lo), "high": float(hi)}
        | {"trials": len(curve.trials)}
        for x, y, lo, hi in columns
    ]
    if ring and t0 is not None and t0 in curve.steps:
        at = float(curve.median[curve.steps == t0][0])
        ax.plot(t0 + 1, at, **{**RING, "color": color, "markerfacecolor": PAPER})
        points.append({**names, "quantity": "t0", "x": t0 + 1, "y": at})
    return points


def _thousands(value: float, position: float) -> str:
    if abs(value) >= 10_000 and value % 1_000 == 0:
        return f"{value / 1_000:,.0f}k"
    return f"{value:,.0f}" if abs(value) >= 1 or value == 0 else f"{value:g}"


def power_law_line(ax: "Axes", law: PowerLaw) -> None:
    """Draw the fitted law on the range of its fit."""
    x = np.geomspace(law.first, law.last, 50)  # updates, or n
    ax.plot(x, law(x), **DOTTED)


def stacked_bars(
    ax: "Axes",
    names: Sequence[str],
    parts: Sequence[tuple[Sequence[float], str]],
    marks: Sequence[float],
) -> None:
    """Draw a horizontal bar a name, stacked of `parts` (values, color); a dark tick at each of
    `marks`. A negative part is drawn to the left of what precedes it.
    """
    # Parts from the left, each where the one before it ended.
    rows, start = _rows(ax, names), np.zeros(len(names))
    for values, color in parts:
        ax.barh(rows, values, left=start, color=color, height=0.55)
        start = start + np.asarray(values, dtype=np.float64)
    for row, mark in zip(rows, marks, strict=True):
        ax.plot([mark, mark], [row - 0.38, row + 0.38], color=INK, linewidth=2)
    ax.axvline(0, color=FAINT, linewidth=0.8)
    ax.set_xlim(right=1.04 * max(ax.get_xlim()[1], *marks))


def grouped_bars(
    ax: "Axes", names: Sequence[str], parts: Sequence[tuple[Sequence[float], str]]
) -> None:
    """Draw horizontal bars for each name, one for each of `parts`, with its value at its end."""
    # One bar below the other around the row of the group.
    rows, height = _rows(ax, names), 0.8 / len(parts)
    for index, (values, color) in enumerate(parts):
        at = rows + 0.4 - height * (index + 0.5)
        bars = ax.barh(at, values, color=color, height=0.86 * height)
        ax.bar_label(bars, fmt="%.3f", padding=4, fontsize=10, color=INK)
    ax.margins(x=0.2)


def _rows(ax: "Axes", names: Sequence[str]) -> np.ndarray:
    """Name the rows of bars from the top; return their heights."""
    rows = np.arange(len(names), dtype=np.float64)[::-1]  # (names,), the first on top
    ax.set_yticks(rows, [fill(name, 24) for name in names])
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.grid(axis="y", visible=False)
    return rows


def fit_limits(axes: Sequence["Axes"], points: Sequence[Point]) -> None:
    """Fit the axes to the points at T0 and after the first twentieth: a loss may begin far higher.

    The y axis begins at 0 where the values come near it.
    """
    if not points:
        return
    # What is drawn at T0 and later than the first twentieth.
    end: float = max(point["x"] for point in points)
    late = [p for p in points if p["x"] > 0.05 * end or p["quantity"] == "t0"]
    low: float = min(p["low"] if "low" in p else p["y"] for p in late)
    high: float = max(p["high"] if "high" in p else p["y"] for p in late)
    pad = 0.08 * ((high - low) or high or 1.0)  # of the height
    for ax in axes:
        ax.set_ylim(0 if low < 0.4 * high else low - pad, high + pad)
        ax.set_xlim(0, 1.03 * end)
