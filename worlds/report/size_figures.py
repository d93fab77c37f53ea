"""The figure of an experiment over networks and n: error beside soft-error, and the bootstrap error
of both against n.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from worlds.cli.drawing import COLORS, FAINT, GRID, INK, legend, new_figure, patch
from worlds.experiments.spec import METRIC_NAMES, Experiment
from worlds.report.analysis import stopping_time
from worlds.report.measure import Measured
from worlds.report.plots import (
    DASHED,
    RING,
    Drawn,
    Point,
    curve_of,
    fit_limits,
    points_of,
    t0_point,
    world_curves,
)
from worlds.report.sample_figures import log_axis, shades_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = ("error", "soft_error")


def draw_sizes(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """A row a network: its curves of all n over their Ideal World in both metrics, and the gap."""
    rows: dict[str, list[Measured]] = {}
    for one in measured:
        if one.get("gap") is not None:
            rows.setdefault(one.found.group.panel or one.label, []).append(one)
    if not rows:
        raise ValueError(f"{experiment.name} has no group with runs of both worlds")
    figure, axes, _ = new_figure(3 * len(rows), 3, (3.8, 2.9))
    points: list[Point] = []
    for row, (network, members) in enumerate(rows.items()):
        mine = axes[3 * row : 3 * row + 3]
        drawn: list[Point] = []
        for ax, metric in zip(mine, SHOWN, strict=False):
            drawn += _curves_panel(ax, network, members, metric)
            ax.set_title(f"{network}: {METRIC_NAMES[metric]}")
        fit_limits(mine[:2], drawn)  # one scale for both metrics
        points += drawn + _gap_panel(mine[2], network, members)
    _sizes_legend(figure, max(rows.values(), key=len))
    return Drawn(figure, points)


def _curves_panel(
    ax: "Axes", network: str, members: Sequence[Measured], metric: str
) -> list[Point]:
    points: list[Point] = []
    column = f"test_{metric}"
    names = {"panel": f"{network}: {metric}", "quantity": column}
    for shade, one in zip(shades_of(len(members)), members, strict=True):
        curve = curve_of(one.found.real, column)
        t0 = stopping_time(one.found.real).of_median_curve
        world_curves(ax, curve, None, None, t0, (shade, shade))
        points += points_of(curve, **names, group=one.label, world="real")
        points += t0_point(curve, t0, panel=names["panel"], group=one.label, world="real")
    ideal = curve_of(max((one.found.ideal for one in members), key=len), column)
    world_curves(ax, None, ideal, None, None, (INK, INK))
    return points + points_of(ideal, **names, group=network, world="ideal")


def _gap_panel(ax: "Axes", network: str, members: Sequence[Measured]) -> list[Point]:
    """Real less Ideal at T0, or at the last step, with 95 % intervals over trials."""
    sizes = [one.found.real[0].config.n for one in members]
    points: list[Point] = []
    for place, metric in enumerate(SHOWN):
        quantity, color = f"{metric}:gap", COLORS[2 + place]
        gaps = [one.get(quantity) or 0.0 for one in members]
        ax.plot(sizes, gaps, "o-", color=color, markersize=5)
        for n, gap, one in zip(sizes, gaps, members, strict=True):
            low, high = one.interval(quantity)
            ax.plot([n, n], [low, high], color=color, linewidth=1.2)
            points.append(
                {"panel": f"{network}: gap", "group": one.label, "world": "both", "x": n, "y": gap}
                | {"quantity": quantity, "low": low, "high": high}
                | {"trials": len(one.values[quantity])}
            )
    ax.axhline(0, color=FAINT, linewidth=0.8)
    log_axis(ax, sizes)
    ax.set(title="Real - Ideal at T0", xlabel="n")
    return points


def _sizes_legend(figure: "Figure", members: Sequence[Measured]) -> None:
    entries: list[tuple[str, dict[str, Any]]] = [
        (one.found.group.series or one.label, {"color": shade})
        for shade, one in zip(shades_of(len(members)), members, strict=True)
    ]
    entries += [
        ("Ideal World", {**DASHED, "color": INK}),
        ("T0 (faded after it)", {**RING, "color": INK}),
    ]
    for place, metric in enumerate(SHOWN):
        entries.append((f"Real - Ideal: {METRIC_NAMES[metric]}", {"color": COLORS[2 + place]}))
    if any(len(one.values["gap"]) > 1 for one in members):
        entries.append(("bands: quartiles over trials; bars: 95 %", patch(GRID)))
    legend(figure, entries)
