"""The figure of each kind of experiment, with every point that it shows.

drawn = draw(experiment, measured)          # drawn.figure, drawn.points
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from worlds.cli.drawing import COLORS, FAINT, INK, PAPER, WASH, legend, new_figure, patch
from worlds.experiments.sheets import IMAGES, LABELS
from worlds.experiments.spec import METRIC_NAMES, Experiment, tolerance_of
from worlds.formats.npz import map_file
from worlds.report import bar_figures, curve_figures, sample_figures
from worlds.report.measure import Measured
from worlds.report.plots import DIAGONAL, Drawn, Point, Style
from worlds.runtime.errors import reading
from worlds.training.run_folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS: Final = ("o", "s", "^", "D", "v", "P")
NAMED: Final = 12  # dots of a scatter that are all named; of more, those outside the strip

Dot = tuple[Measured, Style]


def draw(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Draw the groups that were measured, in the style of the caller; ValueError without any."""
    shown = [one for one in measured if one.found.group.drawn]
    if not shown:
        raise ValueError(f"{experiment.name} has no finished run to draw")
    return _DRAWERS[experiment.kind](experiment, shown)


def _scatter(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Draw Ideal against Real World; with `zoom` a second panel of the low corner."""
    both = [one for one in measured if one.get("gap") is not None]
    if not both:
        raise ValueError(f"{experiment.name} has no group with runs of both worlds")
    tolerance, metric = tolerance_of(experiment), METRIC_NAMES[experiment.metric]
    series = list(dict.fromkeys(one.found.group.series or "" for one in both))
    marks = list(dict.fromkeys(one.found.group.mark or "" for one in both))
    dots: list[Dot] = []
    entries: dict[str, Style] = {"y = x": dict(DIAGONAL)}
    # Colors tell the series apart, markers the marks; without marks, markers help the colors.
    for one in both:
        place, mark = (series.index(one.found.group.series or ""), one.found.group.mark or "")
        marker = place // len(COLORS) if len(series) > len(COLORS) else place
        hollow = len(marks) > 1 and place >= len(COLORS)
        dots.append((one, _look(place, marks.index(mark) if len(marks) > 1 else marker, hollow)))
        if len(series) > 1:
            look = _look(place, 0 if len(marks) > 1 else marker, hollow)
            entries[series[place] or "others"] = look
    if len(marks) > 1:
        entries |= {name: {**_look(0, i), "color": INK} for i, name in enumerate(marks)}
    entries["range over trials"] = {"color": COLORS[0], "linewidth": 1.2, "alpha": 0.6}
    if tolerance is not None:
        entries[f"within {tolerance:g}"] = patch(WASH)
    # All dots; and beside them those below the zoom in both worlds.
    panels = [("", dots)]
    zoom = experiment.zoom or 0
    low = [dot for dot in dots if max(dot[0].number("real"), dot[0].number("ideal")) <= zoom]
    if low:
        panels = [("(a) all", dots), (f"(b) {metric} below {zoom:g}", low)]
    figure, axes, _ = new_figure(*((2, 2, (5.6, 5.2)) if low else (1, 1, (6.4, 5.6))))
    if not low:
        figure.set_figheight(min(figure.get_figheight(), figure.get_figwidth() + 0.6))
    for ax, (title, shown) in zip(axes, panels, strict=True):
        _draw_dots(ax, shown, tolerance)
        ax.set(xlabel=f"Real World test {metric}", ylabel=f"Ideal World test {metric}", title=title)
    legend(figure, list(entries.items()))
    points = [one.point("ideal", world="both", x=one.get("real")) for one in both]
    return Drawn(figure, [point | {"quantity": experiment.metric} for point in points])


def _look(place: int, marker: int, hollow: bool = False) -> Style:
    """Return how a dot is drawn, there and in the legend."""
    color = COLORS[place % len(COLORS)]
    return {
        "color": PAPER if hollow else color,
        "marker": MARKERS[marker % len(MARKERS)],
        "markersize": 7.5,
        "markeredgecolor": color if hollow else PAPER,
        "markeredgewidth": 1.6 if hollow else 0.8,
        "linestyle": "none",
    }


def _draw_dots(ax: "Axes", dots: Sequence[Dot], tolerance: float | None) -> None:
    """Draw Ideal (y) against Real (x), y = x, and a strip of `tolerance` above and below it."""
    # Both axes alike, with room around all ranges.
    values = np.array([(*one.range("ideal"), *one.range("real")) for one, _ in dots])
    pad = 0.08 * max(float(np.ptp(values)), 0.02)
    low, high = max(0.0, float(values.min()) - pad), float(values.max()) + pad
    line = np.array([low, high])
    if tolerance is not None:
        ax.fill_between(line, line - tolerance, line + tolerance, color=WASH, linewidth=0, zorder=0)
    ax.plot(line, line, color=FAINT, linewidth=1, zorder=1)
    # Each dot on its ranges over trials.
    for one, look in dots:
        real, ideal = one.number("real"), one.number("ideal")
        bar: Style = {"color": _color(look), "linewidth": 1.2, "alpha": 0.6}
        ax.plot(one.range("real"), (ideal, ideal), **bar)
        ax.plot((real, real), one.range("ideal"), **bar)
        ax.plot(real, ideal, **look)
    named = list(dots)
    if len(dots) > NAMED:
        named = [dot for dot in dots if tolerance and _distance(dot) > tolerance]
    _name_dots(ax, named[:NAMED], low, high)
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")


def _distance(dot: Dot) -> float:
    return abs(dot[0].number("real") - dot[0].number("ideal"))


def _color(look: Style) -> str:
    color: str = look["color"] if look["color"] != PAPER else look["markeredgecolor"]
    return color


def _name_dots(ax: "Axes", dots: Sequence[Dot], low: float, high: float) -> None:
    """Write names beside the dots, none on another: left of the diagonal's upper half, right of its
    lower.
    """
    step, middle = 0.055 * (high - low), (low + high) / 2
    # From the lowest up, each name at least a step above the last of its side.
    floor = {"right": -np.inf, "left": -np.inf}
    for one, look in sorted(dots, key=lambda dot: dot[0].number("ideal")):
        real, ideal = one.number("real"), one.number("ideal")
        side = "right" if real > middle else "left"
        floor[side] = height = max(ideal, floor[side] + step)
        beyond = one.range("real")[0 if side == "right" else 1]
        shift = 0.03 * (high - low) * (-1 if side == "right" else 1)
        arrow = {"arrowstyle": "-", "color": _color(look), "alpha": 0.4, "linewidth": 0.8}
        ax.annotate(
            one.label, (real, ideal), (beyond + shift, height), color=INK, fontsize=9.5, ha=side,
            va="center", arrowprops=arrow,
        )  # fmt: skip


def _sheets(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Draw a panel a group: images in rows, sorted by class."""
    figure, axes, _ = new_figure(len(measured), 2, (5.6, 5.6))
    points: list[Point] = []
    for ax, one in zip(axes, measured, strict=True):
        run = one.found.real[0]
        with reading(run.folder / IMAGES, "images with their labels"):
            _draw_images(ax, run)
        ax.set_title(f"{one.label}: {run.config.n:,} of its training images")
        points += [one.point(name) for name, values in one.values.items() if values]
    return Drawn(figure, points)


def _draw_images(ax: "Axes", run: Run) -> None:
    images, labels = map_file(run.folder / IMAGES), map_file(run.folder / LABELS)
    # Images of at most some 112 pixels in a square of rows, two white pixels between them.
    images = images[:, :: max(1, images.shape[1] // 112), :: max(1, images.shape[2] // 112)]
    columns = int(np.ceil(np.sqrt(len(images))))
    height, width = images.shape[1:3]
    sheet = np.full((-(-len(images) // columns) * (height + 2), columns * (width + 2), 3), 255)
    corners = [
        (index // columns * (height + 2), index % columns * (width + 2))
        for index in range(len(images))
    ]
    for (y, x), image in zip(corners, images, strict=True):
        sheet[y : y + height, x : x + width] = image
    ax.imshow(sheet.astype(np.uint8), interpolation="nearest")
    ax.set_axis_off()
    # The name of a class on its first image.
    starts = np.flatnonzero(np.diff(labels, prepend=-1)).tolist()
    names = run.description.data.classes or ()
    for index in starts if len(starts) < 20 else ():
        y, x = corners[index]
        ax.text(x + 1, y + 1, names[labels[index]], color=INK, fontsize=6, va="top",
                bbox={"facecolor": "white", "alpha": 0.7, "pad": 0.6, "linewidth": 0})  # fmt: skip


_DRAWERS: Final[Mapping[str, Callable[[Experiment, Sequence[Measured]], Drawn]]] = {
    "curves": curve_figures.draw_curves,
    "metrics": curve_figures.draw_metrics,
    "pairs": curve_figures.draw_pairs,
    "scatter": _scatter,
    "samples": sample_figures.draw_samples,
    "sizes": sample_figures.draw_sizes,
    "against": sample_figures.draw_against,
    "decompositions": bar_figures.draw_decompositions,
    "rrm": bar_figures.draw_rrm,
    "stopping": bar_figures.draw_stopping,
    "table": bar_figures.draw_table,
    "sheet": _sheets,
}
