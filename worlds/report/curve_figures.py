"""Figures of curves against updates: a panel a group, a panel a metric, class-pair noise."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from worlds.cli.drawing import COLORS, FAINT, GRID, INK, PAPER, WASH, legend, new_figure, patch
from worlds.experiments.spec import METRIC_NAMES, Experiment, tolerance_of
from worlds.report.analysis import METRICS, bootstrap_error, confusion_of
from worlds.report.measure import Measured
from worlds.report.plots import (
    DASHED,
    DASHES,
    IDEAL,
    REAL,
    RING,
    SOLID,
    TRAIN,
    Drawn,
    Point,
    draw_curve,
    draw_runs,
    fit_limits,
    median_t0,
)
from worlds.training.run_folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = COLORS[2]  # the bootstrap error


def _draw_group(
    ax: "Axes",
    one: Measured,
    panel: str,
    metric: str,
    colors: tuple[str, str] = (REAL, IDEAL),
    train: bool = True,
) -> list[Point]:
    """Draw a group's test curves on a panel, and the Real World's train curve."""
    real, ideal = one.found.real, one.found.ideal
    t0, test, names = median_t0(real), f"test_{metric}", {"panel": panel, "group": one.label}
    points = draw_runs(ax, real, test, colors[0], t0=t0, ring=True, world="real", **names)
    points += draw_runs(ax, ideal, test, colors[1], t0=t0, dashes=DASHES, world="ideal", **names)
    if train:
        column = f"train_{metric}"
        points += draw_runs(ax, real, column, TRAIN, width=1.3, world="real", **names)
    return points


def draw_curves(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Draw a panel a group, or a panel for the groups that name the same one."""
    # The groups of each panel.
    panels: dict[str, list[Measured]] = {}
    for one in measured:
        panels.setdefault(one.found.group.panel or one.label, []).append(one)
    both = [one for one in measured if one.get("gap") is not None]
    # Up to four panels have a strip with the bootstrap error below them.
    columns = 4 if len(panels) in (4, 7, 8) or len(panels) > 9 else 3
    width, strip = 3.5 if columns == 3 else 2.8, 0.42 if both and len(panels) <= 4 else 0.0
    size = (width, 0.8 * width)
    figure, axes, strips = new_figure(len(panels), columns, size, strip, sharey="row")
    points: list[Point] = []
    several = max(len(members) for members in panels.values())
    for index, (panel, members) in enumerate(panels.items()):
        axes[index].set_title(fill(panel, 24))
        for place, one in enumerate(members):
            # Alone, the worlds differ in color; together, the groups do.
            color = COLORS[place % len(COLORS)]
            pair = (REAL, IDEAL) if several == 1 else (color, color)
            points += _draw_group(axes[index], one, panel, experiment.metric, pair, several == 1)
            if strips and one in both:
                shade = GAP if several == 1 else color
                gap = bootstrap_error(one.found.real, one.found.ideal, experiment.metric)
                points += draw_curve(
                    strips[index],
                    gap,
                    shade,
                    t0=median_t0(one.found.real),
                    width=1.3,
                    panel=panel,
                    group=one.label,
                    world="both",
                    quantity="bootstrap_error",
                )
    # One scale, one label an axis, one legend.
    fit_limits(axes, [point for point in points if point["quantity"] != "bootstrap_error"])
    _finish_strips(strips, points, tolerance_of(experiment))
    for ax in strips:
        ax.set_xlim(axes[0].get_xlim())
    _label_outer(axes, strips, METRIC_NAMES[experiment.metric])
    tolerance = tolerance_of(experiment) if strips else None
    _curves_legend(figure, panels, points, several, tolerance)
    figure.align_ylabels()
    return Drawn(figure, points)


def _finish_strips(
    strips: Sequence["Axes"], points: Sequence[Point], tolerance: float | None
) -> None:
    """Draw zero and the claim's tolerance, and choose a height that shows both."""
    # Limits of what comes after the first twentieth, and of the tolerance.
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
    tolerance: float | None = None,
) -> None:
    """Name every line, mark and band that is drawn."""
    # World and kind of what was drawn, by its points.
    shown = {(point["world"], point["quantity"].partition("_")[0]) for point in points}
    ink = {"color": INK} if several > 1 else {}
    members = max(panels.values(), key=len) if several > 1 else []
    entries: list[tuple[str, dict[str, Any]]] = [
        (one.found.group.series or one.label, {"color": COLORS[place % len(COLORS)]})
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
    if tolerance is not None:
        entries.append((f"within {tolerance:g}", patch(WASH)))
    if any(point.get("trials", 1) > 1 for point in points):
        entries.append(("quartiles over trials", patch(GRID)))
    legend(figure, entries)


def _label_outer(axes: Sequence["Axes"], strips: Sequence["Axes"], name: str) -> None:
    """Name the y axes at the left, and the x axes at the bottom of each column."""
    # Panels of a row share the y axis, a column is labeled at its last panel.
    bottom: dict[int, Axes] = {}
    for text, row in ((name, axes), ("Real - Ideal", strips)):
        for ax in row:
            place = ax.get_subplotspec()
            assert place is not None
            ax.set_ylabel(text if place.is_first_col() else "")
            ax.set_xlabel("")
            bottom[place.colspan.start] = ax
    for ax in bottom.values():
        ax.set_xlabel("updates")
    for ax in axes if strips else ():
        ax.tick_params(labelbottom=False)


def draw_metrics(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Draw a row a group and a panel a metric."""
    # The metrics that some group has, or the experiment's own.
    metrics = [m for m in METRICS if any(f"{m}:real" in one.values for one in measured)]
    metrics = metrics or [experiment.metric]
    figure, axes, _ = new_figure(len(measured) * len(metrics), len(metrics))
    points: list[Point] = []
    panels = [(one, metric) for one in measured for metric in metrics]
    for ax, (one, metric) in zip(axes, panels, strict=True):
        name = METRIC_NAMES[metric]
        drawn = _draw_group(ax, one, name, metric)
        ax.set_title(fill(name if len(measured) == 1 else f"{one.label}: {name}", 28))
        fit_limits([ax], drawn)
        points += drawn
    _curves_legend(figure, {}, points, 1)
    return Drawn(figure, points)


def draw_pairs(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Draw the partner's share as called and in the softmax, and each world's confusion."""
    figure, axes, _ = new_figure(4 * len(measured), 2, (4.6, 3.4))
    columns = {"called its partner": "test_partner_share", "softmax mass": "test_partner_mass"}
    points: list[Point] = []
    for row, one in enumerate(measured):
        *shares, real, ideal = axes[4 * row : 4 * row + 4]
        for ax, (title, column) in zip(shares, columns.items(), strict=True):
            names = {"panel": title, "group": one.label}
            points += draw_runs(ax, one.found.real, column, REAL, world="real", **names)
            line = {"dashes": DASHES, "world": "ideal", **names}
            points += draw_runs(ax, one.found.ideal, column, IDEAL, **line)
            ax.set(title=f"{one.label}: {title}", ylabel="share of the noisy class", ylim=(0, 1))
        for ax, world in ((real, "Real"), (ideal, "Ideal")):
            _draw_confusion(ax, one.found.real if world == "Real" else one.found.ideal)
            ax.set_title(f"{world} World, last step")
    _curves_legend(figure, {}, points, 1)
    return Drawn(figure, points)


def _draw_confusion(ax: "Axes", runs: Sequence[Run]) -> None:
    """Draw the mean over trials of the share of each class (rows) that is called each class."""
    # Rows are classes of images, columns what they are called.
    found = [shares for run in runs if (shares := confusion_of(run)) is not None]
    if not found:
        ax.set_axis_off()
        return
    mean = np.nanmean(found, axis=0)  # (K, K)
    ax.imshow(mean, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(mean):
        if share >= 0.02:
            ink = PAPER if share > 0.6 else INK
            ax.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=ink,
                    fontsize=6)  # fmt: skip
    ax.grid(visible=False)
    ax.set(xlabel="called (percent)", ylabel="class", xticks=range(len(mean)))
    ax.set_yticks(range(len(mean)))
