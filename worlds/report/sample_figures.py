"""Figures against a number of each group: several n over one Ideal World (curves, T(n), and L(n)
against Ideal(T(n))), and any quantities against any number.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from worlds.cli.drawing import COLORS, FAINT, INK, ORDERED, legend, new_figure
from worlds.experiments.spec import METRIC_NAMES, Experiment, name_of
from worlds.report.analysis import Curves, power_law, power_law_of_points, stopping_time
from worlds.report.measure import Measured
from worlds.report.plots import (
    DASHED,
    DIAGONAL,
    DOTTED,
    RING,
    Drawn,
    Point,
    curve_of,
    fit_limits,
    points_of,
    power_law_line,
    t0_point,
    world_curves,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_samples(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Panels: curves of all n over their Ideal World; T(n); L(n) against Ideal(T(n))."""
    metric = experiment.metric
    by_n = {one.found.real[0].config.n: one for one in measured if one.found.real}
    shades = shades_of(len(by_n))
    figure, axes, _ = new_figure(3, 3, (3.8, 3.5))
    points: list[Point] = []
    entries: list[tuple[str, dict[str, Any]]] = []
    for shade, (n, one) in zip(shades, sorted(by_n.items()), strict=True):
        curve = curve_of(one.found.real, f"test_{metric}")
        t0 = stopping_time(one.found.real).of_median_curve
        world_curves(axes[0], curve, None, None, t0, (shade, shade))
        names = {"panel": "curves", "group": one.label, "world": "real"}
        points += points_of(curve, **names, quantity=f"test_{metric}")
        points += t0_point(curve, t0, **names)
        entries.append((f"n = {n:,}", {"color": shade}))
    ideal = max((one.found.ideal for one in by_n.values()), key=len, default=())
    reference = curve_of(ideal, f"test_{metric}")
    remark = ""
    if reference is not None:
        world_curves(axes[0], None, reference, None, None, (INK, INK))
        points += points_of(
            reference, panel="curves", group="Ideal", world="ideal", quantity=f"test_{metric}"
        )
        entries.append(("Ideal World", {**DASHED, "color": INK}))
        remark = _draw_law(axes[0], reference)
    fit_limits(axes[:1], points)
    axes[0].set(title="Test curves", ylabel=METRIC_NAMES[metric])
    remark += _stopping_panel(axes[1], by_n, shades, points) + _exponents(measured[-1])
    _loss_panel(axes[2], by_n, shades, points, metric)
    ring, bar = {**RING, "color": INK}, {"color": INK, "linestyle": "none", "markersize": 9}
    entries.append(("T0, median", ring))
    if any(len(one.found.real) > 1 for one in by_n.values()):
        entries.append(("T0 of a trial", {**bar, "marker": "_"}))
    if any(stopping_time(one.found.real).median is None for one in by_n.values()):
        entries.append(("T0 not reached", {**bar, "marker": "^", "markerfacecolor": "none"}))
    if remark:
        entries.append(("power law", dict(DOTTED)))
    legend(figure, [*entries, ("y = x", dict(DIAGONAL))])
    return Drawn(figure, points, remark)


def _exponents(last: Measured) -> str:
    """alpha x beta beside the exponent of L(n); medians over trials, and their range."""
    if not last.values.get("product"):
        return ""
    told = []
    for name, text in (("product", "alpha x beta"), ("gamma", "the exponent of L(n)")):
        low, high = last.range(name)
        spread = f" ({low:.2f} to {high:.2f} over trials)" if low != high else ""
        told.append(f"{text} is {last.get(name):.2f}{spread}")
    return f"Per trial, {' and '.join(told)}. "


def shades_of(count: int) -> list[str]:
    """`count` of ORDERED, spread over it; more than it has are repeated at the end."""
    places = np.linspace(0, len(ORDERED) - 1, count).round().astype(int)
    return [ORDERED[place] for place in places]


def _draw_law(ax: "Axes", reference: Curves) -> str:
    """The power law of the Ideal World, fitted past the first hundredth; a sentence about it."""
    first = max(2, int(reference.updates[-1]) // 100)
    try:
        law = power_law(reference, first)
    except ValueError:
        return ""  # too few points, or an error of 0
    power_law_line(ax, law)
    return (
        f"The Ideal World's curve goes as t^-{law.exponent:.2f} (95 %: {law.low:.2f} to "
        f"{law.high:.2f}, {law.method}; fitted on {law.first:,.0f} to {law.last:,.0f} updates). "
    )


def _stopping_panel(
    ax: "Axes", by_n: Mapping[int, Measured], shades: Sequence[str], points: list[Point]
) -> str:
    x, y = [], []
    for shade, (n, one) in zip(shades, sorted(by_n.items()), strict=True):
        times = stopping_time(one.found.real)
        reached = [step + 1 for step in times.trials.values() if step is not None]
        at = times.median
        ax.plot([n] * len(reached), reached, "_", color=shade, markersize=10)
        names = {"panel": "T(n)", "group": one.label, "world": "real", "quantity": "t0"}
        if at is None:  # an arrow: T0 is later than the last step
            ax.plot(n, times.last_step + 1, "^", color=shade, markerfacecolor="none", markersize=8)
            continue
        ax.plot(n, at + 1, **{**RING, "color": shade})
        x.append(n)
        y.append(at + 1)
        points.append({**names, "x": n, "y": at + 1, "low": min(reached), "high": max(reached)})
    _log_axes(ax, sorted(by_n))
    ax.set(title="T0 against n", xlabel="n", ylabel="updates")
    if len(x) < 3:
        return ""
    law = power_law_of_points(x, y)
    power_law_line(ax, law)
    exponent, low, high = (round(-v, 2) + 0.0 for v in (law.exponent, law.high, law.low))
    return f"T0 goes as n^{exponent:.2f} ({low:.2f} to {high:.2f}). "


def log_axis(ax: "Axes", sizes: Sequence[float]) -> None:
    """A logarithmic x axis that names up to four of the sizes."""
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log")
    shown = sizes if len(sizes) <= 4 else [sizes[0], sizes[len(sizes) // 2], sizes[-1]]
    ax.set_xticks(shown, [f"{n:,.10g}" for n in shown])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(0.12)


def _log_axes(ax: "Axes", sizes: Sequence[int]) -> None:
    from matplotlib.ticker import LogFormatter

    ax.set_yscale("log")
    log_axis(ax, sizes)
    low, high = ax.get_ylim()
    middle = (low * high) ** 0.5
    low, high = min(low, middle / 2), max(high, 2 * middle)  # equal values need a height, too
    ax.set_ylim(low, high)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    if high < 30 * low:  # less than a decade or so: also name the minor ticks
        ax.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    ax.tick_params(axis="y", which="minor", colors=FAINT)


def _loss_panel(
    ax: "Axes",
    by_n: Mapping[int, Measured],
    shades: Sequence[str],
    points: list[Point],
    metric: str,
) -> None:
    for shade, (_, one) in zip(shades, sorted(by_n.items()), strict=True):
        ideal, real = one.get("ideal"), one.get("real")
        if ideal is None or real is None:
            continue
        ax.plot(ideal, real, **{**RING, "color": shade})
        names = {"panel": "L(n)", "group": one.label, "world": "both", "quantity": metric}
        points.append({**names, "x": ideal, "y": real})
    if ax.lines:
        edges = [*ax.get_xlim(), *ax.get_ylim()]
        span = max(0.0, min(edges)), max(edges)
        ax.plot(span, span, zorder=0, **DIAGONAL)
        ax.set(xlim=span, ylim=span, aspect="equal")
        ax.locator_params(nbins=4)
    ax.set(title="At T0, beside y = x", xlabel="Ideal(T(n))", ylabel="Real L(n)")


_DASHES: Final = (("-", "solid"), ((0, (4, 2)), "dashed"), ((0, (1, 1.5)), "dotted"))


def draw_against(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Draw a panel for each of `panels`: a color a series, dashes a quantity, bars over trials."""
    series = list(dict.fromkeys(one.found.group.series or "" for one in measured))
    figure, axes, _ = new_figure(len(experiment.panels), 3, (3.8, 3.3))
    axis, points = experiment.axis.removeprefix("log "), list[Point]()
    for ax, panel in zip(axes, experiment.panels, strict=True):
        for quantity, (dash, _) in zip(panel, _DASHES, strict=False):
            for name, color in zip(series, COLORS, strict=False):
                mine = _points(measured, name, quantity)
                x, y = [p["x"] for p in mine], [p["y"] for p in mine]
                spread = [[p["y"] - p["low"] for p in mine], [p["high"] - p["y"] for p in mine]]
                ax.errorbar(x, y, spread, color=color, linestyle=dash, marker="o", markersize=4)
                points += [{**point, "panel": " and ".join(panel)} for point in mine]
        ax.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
        ax.set_xlabel(axis)
        if axis != experiment.axis:
            log_axis(ax, sorted({m.found.group.x for m in measured if m.found.group.x}))
        # The title names the panel's quantities, and where they are several their dashes.
        names = [name_of(quantity, experiment.metric) for quantity in panel]
        if len(names) > 1:
            names = [f"{name} ({look})" for name, (_, look) in zip(names, _DASHES, strict=False)]
        ax.set_title("\n".join(fill(name, 42) for name in names), fontsize="medium")
    legend(figure, [(n, {"color": c}) for n, c in zip(series, COLORS, strict=False) if n])
    return Drawn(figure, points)


def _points(measured: Sequence[Measured], series: str, quantity: str) -> list[Point]:
    """The groups of a series that have the quantity, by x."""
    able = [
        m for m in measured if (m.found.group.series or "") == series and m.values.get(quantity)
    ]
    return [
        {"group": one.label, "world": "", "quantity": quantity, "x": one.found.group.x}
        | {"y": one.get(quantity), "low": one.range(quantity)[0], "high": one.range(quantity)[1]}
        | {"trials": len(one.values[quantity])}
        for one in sorted(able, key=lambda one: one.found.group.x or 0.0)
    ]
