"""What the figures of all kinds share: points, legends, limits.

A point is a flat row: panel, group, world, quantity, x, y, low, high (quartiles over trials in
curves, the range in bars and dots) and trials. The rows of a figure are what its CSV and JSON hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from worlds.analysis import Curves, curves, has
from worlds.plots import IDEAL, REAL
from worlds.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = dict[str, Any]
COLUMNS: Final = ("panel", "group", "world", "quantity", "x", "y", "low", "high", "trials")

# Lines and marks of legends.
SOLID: Final = {"color": REAL, "linestyle": "-"}
DASHED: Final = {"color": IDEAL, "linestyle": (0, (4, 2))}
RING: Final = {
    "color": REAL,
    "marker": "o",
    "linestyle": "none",
    "markersize": 8,
    "markerfacecolor": "none",
    "markeredgewidth": 2,
}


def patch(colour: str) -> dict[str, Any]:
    """A bar or a band in a legend."""
    return {"color": colour, "linewidth": 8, "solid_capstyle": "butt"}


@dataclass(frozen=True)
class Drawn:
    figure: "Figure"
    points: list[Point]
    remark: str = ""  # a sentence that the figure has to say, such as a fit


def curve_of(runs: Sequence[Run], column: str) -> Curves | None:
    """Of the runs that have the column, if any."""
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


def limits(axes: Sequence["Axes"], points: Sequence[Point]) -> None:
    """From 0 to what is seen after the first twentieth: a loss may begin ten times as high."""
    if not points:
        return
    end: float = max(point["x"] for point in points)
    late: list[float] = [p.get("high") or p["y"] for p in points if p["x"] > 0.05 * end]
    for ax in axes:
        ax.set_ylim(0, 1.08 * max(late))
        ax.set_xlim(0, 1.03 * end)
