"""Figures of the two worlds: functions that take an `ax`, draw on it and return it.

    with style():
        figure, axes, _ = new_figure(1)
        world_curves(axes[0], real=curves(runs, "test_soft_error"), ideal=...)

Solid is Real, dashed Ideal, faint the Real World's train; a ring marks T0, and what follows it is
faded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from worlds.cli.drawing import BLUE, COLORS, FAINT, GRAY, INK, PAPER, RED, WASH
from worlds.report.analysis import Curves, PowerLaw, curves, has
from worlds.training.run_folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REAL, IDEAL, TRAIN = BLUE, RED, GRAY

Style = dict[str, Any]

# Lines and marks of legends.
SOLID: Final[Style] = {"color": REAL, "linestyle": "-"}
DASHED: Final[Style] = {"color": IDEAL, "linestyle": (0, (4, 2))}
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


def world_curves(
    ax: "Axes",
    real: Curves | None = None,
    ideal: Curves | None = None,
    train: Curves | None = None,
    t0: int | None = None,
    colors: tuple[str, str] = (REAL, IDEAL),
) -> "Axes":
    """Medians over trials with their quartiles shaded, against updates."""
    if real is not None:
        curve_with_band(ax, real, colors[0], t0=t0)
    if ideal is not None:
        curve_with_band(ax, ideal, colors[1], t0=t0, dashes=(0, (4, 2)))
    if train is not None:
        ax.plot(train.updates, train.median, color=TRAIN, linewidth=1.3, alpha=0.8)
    if t0 is not None and real is not None:
        mark_t0(ax, real, t0, colors[0])
    ax.set_xlabel("updates")
    return ax


def mark_t0(ax: "Axes", real: Curves, t0: int, color: str) -> "Axes":
    """A ring on the Real World's median at T0."""
    index = int(np.searchsorted(real.steps, t0))
    if index < len(real.steps):
        point = real.updates[index], real.median[index]
        ax.plot(*point, "o", markersize=8, markerfacecolor=PAPER, color=color, markeredgewidth=2)
    return ax


def curve_with_band(
    ax: "Axes",
    curve: Curves,
    color: str,
    *,
    t0: int | None = None,
    dashes: Any = "-",
    width: float = 2.0,
) -> "Axes":
    """The median against updates, faded past T0, over its quartiles."""
    from matplotlib.ticker import MaxNLocator

    if len(curve.trials) > 1:
        low, high = curve.quantiles()
        ax.fill_between(curve.updates, low, high, color=color, alpha=0.2, linewidth=0)
    line = {"color": color, "linestyle": dashes}
    ax.plot(curve.until(t0).updates, curve.until(t0).median, linewidth=width, **line)
    if t0 is not None and t0 < curve.steps[-1]:
        past = curve.steps >= t0
        ax.plot(curve.updates[past], curve.median[past], alpha=0.4, linewidth=0.75 * width, **line)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(_thousands)
    return ax


def _thousands(value: float, position: float) -> str:
    if abs(value) >= 10_000 and value % 1_000 == 0:
        return f"{value / 1_000:,.0f}k"
    return f"{value:,.0f}" if abs(value) >= 1 or value == 0 else f"{value:g}"


@dataclass(frozen=True)
class Dot:
    """One point of a scatter: medians over trials, and their quartiles."""

    label: str
    ideal: float
    real: float
    ideal_range: tuple[float, float]
    real_range: tuple[float, float]
    series: int = 0  # of COLORS
    marker: int = 0  # of MARKERS
    hollow: bool = False


MARKERS: Final = ("o", "s", "^", "D", "v", "P")


def marker_of(dot: Dot) -> str:
    return MARKERS[dot.marker % len(MARKERS)]


def final_scatter(
    ax: "Axes", dots: Sequence[Dot], tolerance: float | None = None, names: int = 12
) -> "Axes":
    """Ideal (y) against Real (x) with y = x and a strip of `tolerance` above and below it.

    Up to `names` dots are all named; of more, those outside the strip.
    """
    values = np.array([(*dot.ideal_range, *dot.real_range) for dot in dots])
    pad = 0.08 * max(float(np.ptp(values)), 0.02)
    low, high = max(0.0, float(values.min()) - pad), float(values.max()) + pad
    line = np.array([low, high])
    if tolerance is not None:
        ax.fill_between(line, line - tolerance, line + tolerance, color=WASH, linewidth=0, zorder=0)
    ax.plot(line, line, color=FAINT, linewidth=1, zorder=1)
    for dot in dots:
        color = COLORS[dot.series % len(COLORS)]
        ax.plot(dot.real_range, (dot.ideal, dot.ideal), color=color, linewidth=1.2, alpha=0.6)
        ax.plot((dot.real, dot.real), dot.ideal_range, color=color, linewidth=1.2, alpha=0.6)
        ax.plot(
            dot.real, dot.ideal, marker_of(dot), markersize=7.5, linestyle="none",
            color=PAPER if dot.hollow else color, markeredgecolor=color if dot.hollow else PAPER,
            markeredgewidth=1.6 if dot.hollow else 0.8,
        )  # fmt: skip
    named = dots
    if len(dots) > names:
        named = [dot for dot in dots if tolerance and abs(dot.real - dot.ideal) > tolerance]
    _name_dots(ax, named[:names], low, high)
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    return ax


def _name_dots(ax: "Axes", dots: Sequence[Dot], low: float, high: float) -> None:
    """Names beside the dots, spread so that none lies on another: left of the diagonal's upper
    half, right of its lower.
    """
    step, middle = 0.055 * (high - low), (low + high) / 2
    for side, chosen in (
        ("right", [dot for dot in dots if dot.real > middle]),
        ("left", [dot for dot in dots if dot.real <= middle]),
    ):
        floor = -np.inf
        for dot in sorted(chosen, key=lambda dot: dot.ideal):
            height = max(dot.ideal, floor + step)
            floor = height
            beyond = dot.real_range[0] if side == "right" else dot.real_range[1]
            shift = 0.03 * (high - low) * (-1 if side == "right" else 1)
            color = COLORS[dot.series % len(COLORS)]
            ax.annotate(
                dot.label, (dot.real, dot.ideal), (beyond + shift, height), color=INK,
                fontsize=9.5, ha=side, va="center",
                arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.4, "linewidth": 0.8},
            )  # fmt: skip


def power_law_line(ax: "Axes", law: PowerLaw) -> "Axes":
    """Draw the fitted law on the range of its fit."""
    x = np.geomspace(law.first, law.last, 50)
    ax.plot(x, law(x), **DOTTED)
    return ax


def stacked_bars(
    ax: "Axes",
    names: Sequence[str],
    parts: Sequence[tuple[str, Sequence[float], str]],
    marks: Sequence[float] | None = None,
) -> "Axes":
    """A horizontal bar a name, stacked of `parts` (label, values, color) and written in figures;
    a dark tick at each of `marks`. A negative part is drawn to the left of what precedes it.
    """
    rows = np.arange(len(names))[::-1]
    start = np.zeros(len(names))
    for label, values, color in parts:
        ax.barh(rows, values, left=start, color=color, height=0.55, label=label)
        start = start + np.asarray(values, dtype=np.float64)
    for row, mark in zip(rows, marks or (), strict=False):
        ax.plot([mark, mark], [row - 0.38, row + 0.38], color=INK, linewidth=2)
    ax.set_yticks(rows, [fill(name, 24) for name in names])
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.grid(axis="y", visible=False)
    ax.axvline(0, color=FAINT, linewidth=0.8)
    ax.set_xlim(right=1.04 * max(ax.get_xlim()[1], *(marks or (0.0,))))
    return ax


def grouped_bars(
    ax: "Axes", names: Sequence[str], parts: Sequence[tuple[str, Sequence[float], str]]
) -> "Axes":
    """A group of horizontal bars a name, one for each of `parts`, with its value at its end."""
    height = 0.8 / len(parts)
    rows = np.arange(len(names))[::-1].astype(float)
    for index, (label, values, color) in enumerate(parts):
        at = rows + 0.4 - height * (index + 0.5)
        ax.barh(at, values, color=color, height=0.86 * height, label=label)
        for row, value in zip(at, values, strict=True):
            ax.annotate(
                f"{value:.3f}", (max(value, 0), row), (4, 0), textcoords="offset points",
                va="center", fontsize=10, color=INK,
            )  # fmt: skip
    ax.set_yticks(rows, [fill(name, 24) for name in names])
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.2)
    return ax


Point = dict[str, Any]
COLUMNS: Final = ("panel", "group", "world", "quantity", "x", "y", "low", "high", "trials")


@dataclass(frozen=True)
class Drawn:
    figure: "Figure"
    points: list[Point]
    remark: str = ""  # a sentence that the figure has to say, such as a fit


def curve_of(runs: Sequence[Run], column: str) -> Curves | None:
    """Return the curves of the runs that have the column, if any."""
    able = [run for run in runs if has(run, column)]
    return curves(able, column) if able else None


def points_of(curve: Curves | None, **names: str) -> list[Point]:
    if curve is None:
        return []
    low, high = curve.quantiles()
    columns = zip(curve.updates, curve.median, low, high, strict=True)
    return [
        {**names, "x": int(x), "y": float(y), "low": float(lo), "high": float(hi)}
        | {"trials": len(curve.trials)}
        for x, y, lo, hi in columns
    ]


def t0_point(curve: Curves | None, t0: int | None, **names: str) -> list[Point]:
    """The Real World's median at T0, if both are there."""
    if curve is None or t0 is None or t0 not in curve.steps:
        return []
    at = float(curve.median[curve.steps == t0][0])
    return [{**names, "quantity": "t0", "x": t0 + 1, "y": at}]


def fit_limits(axes: Sequence["Axes"], points: Sequence[Point]) -> None:
    """Fit the axes to the points at T0 and after the first twentieth: a loss may begin far higher.

    The y axis begins at 0 where the values come near it.
    """
    if not points:
        return
    end: float = max(point["x"] for point in points)
    late = [p for p in points if p["x"] > 0.05 * end or p["quantity"] == "t0"]
    low: float = min(p["low"] if "low" in p else p["y"] for p in late)
    high: float = max(p["high"] if "high" in p else p["y"] for p in late)
    pad = 0.08 * ((high - low) or high or 1.0)
    for ax in axes:
        ax.set_ylim(0 if low < 0.4 * high else low - pad, high + pad)
        ax.set_xlim(0, 1.03 * end)
