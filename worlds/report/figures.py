"""The figure of each kind of experiment, with every point that it shows.

drawn = draw(experiment, measured)          # drawn.figure, drawn.points
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from worlds.cli.drawing import COLORS, INK, WASH, legend, new_figure, patch
from worlds.experiments.sheets import IMAGES, LABELS
from worlds.experiments.spec import METRIC_NAMES, Experiment, tolerance_of
from worlds.formats.npz import map_file
from worlds.report import (
    bar_figures,
    curve_figures,
    sample_figures,
    size_figures,
)
from worlds.report.measure import Measured
from worlds.report.plots import DIAGONAL, MARKERS, Dot, Drawn, Point, final_scatter, marker_of
from worlds.runtime.errors import reading
from worlds.training.run_folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Draw the groups that were measured, in the style of the caller; ValueError without any."""
    if not any(one.found.group.drawn for one in measured):
        raise ValueError(f"{experiment.name} has no finished run to draw")
    shown = [one for one in measured if one.found.group.drawn]
    return _DRAWERS[experiment.kind](experiment, shown)


def _scatter(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Ideal against Real World, as in the paper; with `zoom` a second panel of the low corner."""
    both = [one for one in measured if one.get("gap") is not None]
    if not both:
        raise ValueError(f"{experiment.name} has no group with runs of both worlds")
    series = list(dict.fromkeys(one.found.group.series or "" for one in both))
    marks = list(dict.fromkeys(one.found.group.mark or "" for one in both))
    dots = [_dot(one, series, marks) for one in both]
    points: list[dict[str, Any]] = [
        {"panel": "", "group": dot.label, "world": "both", "quantity": experiment.metric}
        | {"x": dot.real, "y": dot.ideal, "low": dot.ideal_range[0], "high": dot.ideal_range[1]}
        | {"trials": len(one.values["gap"])}
        for one, dot in zip(both, dots, strict=True)
    ]
    tolerance, metric = tolerance_of(experiment), METRIC_NAMES[experiment.metric]
    low = [dot for dot in dots if max(dot.real, dot.ideal) <= (experiment.zoom or 0)]
    panels = [("(a) all", dots), (f"(b) {metric} below {experiment.zoom:g}", low)] if low else []
    figure, axes, _ = new_figure(*((2, 2, (5.6, 5.2)) if panels else (1, 1, (6.4, 5.6))))
    if not panels:
        figure.set_figheight(min(figure.get_figheight(), figure.get_figwidth() + 0.6))
    for ax, (title, shown) in zip(axes, panels or [("", dots)], strict=True):
        final_scatter(ax, shown, tolerance)
        ax.set(xlabel=f"Real World test {metric}", ylabel=f"Ideal World test {metric}", title=title)
    legend(figure, _scatter_legend(dots, series, marks, tolerance))
    return Drawn(figure, points)


def _dot(one: Measured, series: Sequence[str], marks: Sequence[str]) -> Dot:
    """Colors tell the series apart, markers the marks; without marks, markers help the colors."""
    place = series.index(one.found.group.series or "")
    marker = place // len(COLORS) if len(series) > len(COLORS) else place
    if len(marks) > 1:
        marker = marks.index(one.found.group.mark or "")
    real, ideal = (one.get(name) or 0.0 for name in ("real", "ideal"))
    hollow = len(marks) > 1 and place >= len(COLORS)
    return Dot(one.label, ideal, real, one.range("ideal"), one.range("real"), place, marker, hollow)


def _scatter_legend(
    dots: Sequence[Dot], series: Sequence[str], marks: Sequence[str], tolerance: float | None
) -> list[tuple[str, dict[str, Any]]]:
    entries: list[tuple[str, dict[str, Any]]] = [("y = x", dict(DIAGONAL))]
    alone = {"linestyle": "none", "markersize": 7}
    if len(series) > 1:
        markers = {dot.series: "o" if len(marks) > 1 else marker_of(dot) for dot in dots}
        hollow = {dot.series: dot.hollow for dot in dots}
        entries += [
            (name or "others", {"color": COLORS[i % len(COLORS)], "marker": markers[i], **alone}
             | ({"markerfacecolor": "none", "markeredgewidth": 1.6} if hollow[i] else {}))
            for i, name in enumerate(series)
        ]  # fmt: skip
    if len(marks) > 1:
        entries += [
            (name, {"color": INK, "marker": MARKERS[i % len(MARKERS)], **alone})
            for i, name in enumerate(marks)
        ]
    entries.append(("range over trials", {"color": COLORS[0], "linewidth": 1.2, "alpha": 0.6}))
    if tolerance is not None:
        entries.append((f"within {tolerance:g}", patch(WASH)))
    return entries


def _sheets(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Draw a panel a group: images in rows, sorted by class."""
    figure, axes, _ = new_figure(len(measured), 2, (5.6, 5.6))
    points: list[Point] = []
    for ax, one in zip(axes, measured, strict=True):
        run = one.found.real[0]
        with reading(run.folder / IMAGES, "images with their labels"):
            _draw_images(ax, run)
        ax.set_title(f"{one.label}: {run.config.n:,} of its training images")
        points += [
            {"panel": "", "group": one.label, "quantity": name, "y": values[0], "trials": 1}
            for name, values in one.values.items()
            if values
        ]
    return Drawn(figure, points)


def _draw_images(ax: "Axes", run: Run) -> None:
    images, labels = map_file(run.folder / IMAGES), map_file(run.folder / LABELS)
    images = images[:, :: max(1, images.shape[1] // 112), :: max(1, images.shape[2] // 112)]
    columns = int(np.ceil(np.sqrt(len(images))))
    height, width = images.shape[1:3]
    sheet = np.full((-(-len(images) // columns) * (height + 2), columns * (width + 2), 3), 255)
    for index, image in enumerate(images):
        y, x = index // columns * (height + 2), index % columns * (width + 2)
        sheet[y : y + height, x : x + width] = image
    ax.imshow(sheet.astype(np.uint8), interpolation="nearest")
    ax.set_axis_off()
    starts = np.flatnonzero(np.diff(labels, prepend=-1)).tolist()
    names = run.description.data.classes or ()
    for index in starts if len(starts) < 20 else ():
        y, x = index // columns * (height + 2), index % columns * (width + 2)
        ax.text(x + 1, y + 1, names[labels[index]], color=INK, fontsize=6, va="top",
                bbox={"facecolor": "white", "alpha": 0.7, "pad": 0.6, "linewidth": 0})  # fmt: skip


_DRAWERS: Final[Mapping[str, Callable[[Experiment, Sequence[Measured]], Drawn]]] = {
    "curves": curve_figures.draw_curves,
    "metrics": curve_figures.draw_metrics,
    "pairs": curve_figures.draw_pairs,
    "scatter": _scatter,
    "samples": sample_figures.draw_samples,
    "sizes": size_figures.draw_sizes,
    "decompositions": bar_figures.draw_decompositions,
    "rrm": bar_figures.draw_rrm,
    "stopping": bar_figures.draw_stopping,
    "table": bar_figures.draw_table,
    "sheet": _sheets,
    "against": sample_figures.draw_against,
}
