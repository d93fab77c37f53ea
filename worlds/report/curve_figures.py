"""Figures of curves against updates: a panel a group, a panel a metric, class-pair noise."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from worlds.experiments.spec import METRIC_NAMES, Experiment, tolerance_of
from worlds.report.analysis import METRICS, bootstrap_error, has, stopping_time
from worlds.report.measure import Measured
from worlds.report.plots import (
    COLOURS,
    DASHED,
    FAINT,
    IDEAL,
    INK,
    REAL,
    RING,
    SOLID,
    TRAIN,
    WASH,
    Drawn,
    Point,
    curve_of,
    curve_with_band,
    legend,
    limits,
    new_figure,
    points_of,
    t0_point,
    world_curves,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = COLOURS[2]  # the bootstrap error


def _draw_group(
    ax: "Axes",
    one: Measured,
    panel: str,
    metric: str,
    colours: tuple[str, str],
    train: bool,
) -> list[Point]:
    """A group's curves on a panel."""
    real, ideal = one.found.real, one.found.ideal
    ours, theirs = curve_of(real, f"test_{metric}"), curve_of(ideal, f"test_{metric}")
    learned = curve_of(real, f"train_{metric}") if train else None
    t0 = stopping_time(real).of_median_curve if real and has(real[0], "train_error") else None
    world_curves(ax, ours, theirs, learned, t0, colours)
    names = {"panel": panel, "group": one.label}
    points = points_of(ours, **names, world="real", quantity=f"test_{metric}")
    points += points_of(theirs, **names, world="ideal", quantity=f"test_{metric}")
    points += points_of(learned, **names, world="real", quantity=f"train_{metric}")
    return points + t0_point(ours, t0, **names, world="real")


def draw_curves(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """A panel a group (or a `panel` of several); up to four have the bootstrap error below."""
    panels: dict[str, list[Measured]] = {}
    for one in measured:
        panels.setdefault(one.found.group.panel or one.label, []).append(one)
    both = [one for one in measured if one.get("gap") is not None]
    figure, axes, strips = _grid(len(panels), bool(both))
    points: list[Point] = []
    several = max(len(members) for members in panels.values())
    for index, (panel, members) in enumerate(panels.items()):
        axes[index].set_title(fill(panel, 24))
        for place, one in enumerate(members):
            # Alone, the worlds differ in colour; together, the groups do.
            colour = COLOURS[place % len(COLOURS)]
            pair = (REAL, IDEAL) if several == 1 else (colour, colour)
            points += _draw_group(axes[index], one, panel, experiment.metric, pair, several == 1)
            if strips and one in both:
                shade = GAP if several == 1 else colour
                points += _draw_gap(strips[index], one, panel, experiment.metric, shade)
    limits(axes, [point for point in points if point["quantity"] != "bootstrap_error"])
    _finish_strips(strips, points, tolerance_of(experiment))
    _label_outer([*axes, *strips], experiment.metric, len(strips))
    _curves_legend(figure, panels, points, several)
    figure.align_ylabels()
    return Drawn(figure, points)


def _grid(count: int, both: bool) -> tuple["Figure", list["Axes"], list["Axes"]]:
    """The figure, its panels, and below each, where there is room, a strip for the gap."""
    columns = 4 if count in (4, 7, 8) or count > 9 else 3
    width = 3.5 if columns == 3 else 2.8
    if count > 4 or not both:
        figure, axes = new_figure(count, columns, (width, 0.8 * width), sharey=True)
        return figure, axes, []
    rows = {"height_ratios": (2.4, 1), "sharex": "col", "sharey": "row"}
    figure, axes = new_figure(2 * count, count, (width, 0.56 * width), **rows)
    return figure, axes[:count], axes[count:]


def _draw_gap(ax: "Axes", one: Measured, panel: str, metric: str, colour: str) -> list[Point]:
    real = one.found.real
    gap = bootstrap_error(real, one.found.ideal, metric)
    t0 = stopping_time(real).of_median_curve if has(real[0], "train_error") else None
    curve_with_band(ax, gap, colour, t0=t0, width=1.3)
    names = {"panel": panel, "group": one.label, "world": "both", "quantity": "bootstrap_error"}
    return points_of(gap, **names)


def _finish_strips(
    strips: Sequence["Axes"], points: Sequence[Point], tolerance: float | None
) -> None:
    """Zero, the claim's tolerance, and a height that shows both."""
    gaps = [point for point in points if point["quantity"] == "bootstrap_error"]
    end = max((point["x"] for point in gaps), default=0)
    late = [value for p in gaps if p["x"] > 0.05 * end for value in (p["low"], p["high"])]
    low, high = min([*late, -(tolerance or 0.0)]), max([*late, tolerance or 0.0])
    for ax in strips:
        if tolerance is not None:
            ax.axhspan(-tolerance, tolerance, color=WASH, zorder=0)
        ax.axhline(0, color=FAINT, linewidth=0.8)
        ax.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))


def _curves_legend(
    figure: "Figure",
    panels: Mapping[str, Sequence[Measured]],
    points: Sequence[Point],
    several: int,
) -> None:
    shown = {(point["world"], point["quantity"].partition("_")[0]) for point in points}
    ink = {"color": INK} if several > 1 else {}
    members = max(panels.values(), key=len) if several > 1 else []
    entries: list[tuple[str, dict[str, Any]]] = [
        (one.found.group.series or one.label, {"color": COLOURS[place % len(COLOURS)]})
        for place, one in enumerate(members)
    ]
    for key, text, line in (
        (("real", "test"), "Real World test", {**SOLID, **ink}),
        (("ideal", "test"), "Ideal World test", {**DASHED, **ink}),
        (("real", "train"), "Real World train", {"color": TRAIN, "linewidth": 1.3}),
        (("real", "t0"), "T0: train error at most 1 %", {**RING, **ink}),
        (("both", "bootstrap"), "Real - Ideal", {"color": GAP, **ink}),
    ):
        if key in shown:
            entries.append((text, line))
    legend(figure, entries)


def _label_outer(axes: Sequence["Axes"], metric: str, strips: int) -> None:
    """Names of the axes at the left and at the bottom alone."""
    last: dict[int, Axes] = {}  # of each column
    for index, ax in enumerate(axes):
        place = ax.get_subplotspec()
        assert place is not None
        name = METRIC_NAMES[metric] if index < len(axes) - strips else "Real - Ideal"
        ax.set_ylabel(name if place.is_first_col() else "")
        ax.set_xlabel("")
        last[place.colspan.start] = ax
    for ax in last.values():
        ax.set_xlabel("updates")


def draw_metrics(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    metrics = [m for m in METRICS if any(f"{m}:real" in one.values for one in measured)]
    metrics = metrics or [experiment.metric]
    figure, axes = new_figure(len(measured) * len(metrics), len(metrics))
    points: list[Point] = []
    for row, one in enumerate(measured):
        for column, metric in enumerate(metrics):
            ax = axes[row * len(metrics) + column]
            mine = _draw_group(ax, one, METRIC_NAMES[metric], metric, (REAL, IDEAL), True)
            name = METRIC_NAMES[metric]
            ax.set_title(name if len(measured) == 1 else f"{one.label}: {name}")
            limits([ax], mine)
            points += mine
    _curves_legend(figure, {"": list(measured[:1])}, points, 1)
    return Drawn(figure, points)


def draw_pairs(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    figure, axes = new_figure(len(measured), 3, sharey=True)
    points: list[Point] = []
    for ax, one in zip(axes, measured, strict=True):
        real = curve_of(one.found.real, "test_partner_share")
        ideal = curve_of(one.found.ideal, "test_partner_share")
        world_curves(ax, real, ideal)
        ax.set_title(one.label)
        names = {"panel": one.label, "group": one.label, "quantity": "test_partner_share"}
        points += points_of(real, **names, world="real")
        points += points_of(ideal, **names, world="ideal")
    limits(axes, points)
    axes[0].set_ylabel("share called the partner")
    legend(figure, [("Real World", dict(SOLID)), ("Ideal World", dict(DASHED))])
    return Drawn(figure, points)
