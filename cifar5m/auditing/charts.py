"""The charts of the audit's page, as SVG elements whose colors follow the page's theme."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from worlds.cli.drawing import COLORS, FAINT, GRAY, legend, new_figure, style, to_svg
from worlds.cli.pages import inline_svg

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = (5.5, 2.9)  # inches; narrow enough to be legible on a phone


def draw_confidence(counts: Sequence[int]) -> "Markup":
    """Draw a histogram of confidence, which runs from 0 to 1."""
    with style():
        figure, ax = _chart("confidence of the label", "images")
        edges = np.linspace(0, 1, len(counts) + 1)
        ax.stairs(counts, edges, fill=True, color=COLORS[0])
        ax.yaxis.set_major_formatter("{x:,.0f}")
        return inline_svg(to_svg(figure), "confidence")


def draw_ratios(series: Mapping[str, Sequence[int]], reference: str, prefix: str) -> "Markup":
    """Draw one line for each histogram of ratios, which run from 0 to 1, as shares of its sum."""
    from matplotlib.ticker import PercentFormatter

    looks: list[dict[str, Any]] = [
        {"color": COLORS[0]},
        {"color": GRAY, "linestyle": (0, (4, 2))},
    ]
    # One outline a histogram; the reference is dashed.
    with style():
        figure, ax = _chart(f"ratio to the nearest of {reference} train", "share of images")
        for look, counts in zip(looks, series.values(), strict=True):
            edges = np.linspace(0, 1, len(counts) + 1)
            ax.stairs(np.asarray(counts) / max(sum(counts), 1), edges, linewidth=2, **look)
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        legend(figure, list(zip(series, looks, strict=True)))
        return inline_svg(to_svg(figure), prefix)


def draw_reliability(bins: Sequence[Mapping[str, float]]) -> "Markup":
    """Draw accuracy over confidence; the area of a point follows its share of the images."""
    from matplotlib.ticker import PercentFormatter

    total = sum(each["count"] for each in bins)
    with style():
        figure, ax = _chart("confidence", "accuracy")
        ax.plot((0, 1), (0, 1), color=FAINT, linestyle="--", linewidth=1)
        x, y = ([each[name] for each in bins] for name in ("confidence", "accuracy"))
        areas = [20 + 500 * each["count"] / total for each in bins]
        ax.scatter(x, y, areas, color=COLORS[0], alpha=0.7, clip_on=False)
        ax.set_ylim(0, 1)
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        # The legend stands above the panel, off the points.
        point = {"color": COLORS[0], "marker": "o", "linestyle": "none", "alpha": 0.7}
        line = {"color": FAINT, "linestyle": "--", "linewidth": 1}
        legend(figure, [("reference images, area by number", point), ("calibrated", line)])
        return inline_svg(to_svg(figure), "reliability")


def _chart(x_title: str, y_title: str) -> tuple["Figure", "Axes"]:
    """Return a figure with one panel whose x axis runs from 0 to 1."""
    figure, (ax,), _ = new_figure(1, 1, _SIZE)
    ax.set(xlabel=x_title, ylabel=y_title, xlim=(0, 1))
    return figure, ax
