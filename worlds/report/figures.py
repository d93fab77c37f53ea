"""The figure of each kind of experiment, with every point that it shows.

drawn = draw(experiment, measured)          # drawn.figure, drawn.points
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from worlds.cli.drawing import COLORS, WASH, legend, new_figure, patch
from worlds.experiments.spec import METRIC_NAMES, Experiment, tolerance_of
from worlds.report import bar_figures, curve_figures, sample_figures
from worlds.report.measure import Measured
from worlds.report.plots import DIAGONAL, MARKERS, Dot, Drawn, final_scatter


def draw(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Draw the groups that were measured, in the style of the caller; ValueError without any."""
    if not measured:
        raise ValueError(f"{experiment.name} has no finished run to draw")
    return _DRAWERS[experiment.kind](experiment, measured)


def _scatter(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    both = [one for one in measured if one.get("gap") is not None]
    if not both:
        raise ValueError(f"{experiment.name} has no group with runs of both worlds")
    series = list(dict.fromkeys(one.found.group.series or "" for one in both))
    dots, points = [], []
    for one in both:
        place = series.index(one.found.group.series or "")
        ideal, real = (one.get(name) or 0.0 for name in ("ideal", "real"))
        ranges = one.range("ideal"), one.range("real")
        marker = place // len(COLORS) if len(series) > len(COLORS) else place
        dots.append(Dot(one.label, ideal, real, *ranges, place, marker))
        points.append(
            {"panel": "", "group": one.label, "world": "both", "quantity": experiment.metric}
            | {"x": ideal, "y": real, "low": ranges[1][0], "high": ranges[1][1]}
            | {"trials": len(one.values["gap"])}
        )
    tolerance = tolerance_of(experiment)
    figure, (ax,), _ = new_figure(1, 1, (6.4, 5.6))
    figure.set_figheight(min(figure.get_figheight(), figure.get_figwidth() + 0.6))
    final_scatter(ax, dots, tolerance)
    metric = METRIC_NAMES[experiment.metric]
    ax.set(xlabel=f"Ideal World test {metric}", ylabel=f"Real World test {metric}")
    entries: list[tuple[str, dict[str, Any]]] = [("y = x", dict(DIAGONAL))]
    if len(series) > 1:
        marks = {dot.series: dot.marker for dot in dots}
        entries += [
            (name or "others", {"color": COLORS[i % len(COLORS)], "linestyle": "none"}
             | {"marker": MARKERS[marks[i] % len(MARKERS)], "markersize": 7})
            for i, name in enumerate(series)
        ]  # fmt: skip
    entries.append(("range over trials", {"color": COLORS[0], "linewidth": 1.2, "alpha": 0.6}))
    if tolerance is not None:
        entries.append((f"within {tolerance:g}", patch(WASH)))
    legend(figure, entries)
    return Drawn(figure, points)


_DRAWERS: Final[Mapping[str, Callable[[Experiment, Sequence[Measured]], Drawn]]] = {
    "curves": curve_figures.draw_curves,
    "metrics": curve_figures.draw_metrics,
    "pairs": curve_figures.draw_pairs,
    "scatter": _scatter,
    "samples": sample_figures.draw_samples,
    "decompositions": bar_figures.draw_decompositions,
    "rrm": bar_figures.draw_rrm,
    "stopping": bar_figures.draw_stopping,
    "table": bar_figures.draw_table,
}
