"""Figures against a number of each group: several n over one Ideal World (curves, T(n), and L(n)
against Ideal(T(n))), networks at several n, and any quantities against any number.
"""

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Final

import numpy as np

from worlds.cli.drawing import COLORS, FAINT, GRID, INK, ORDERED, RED, legend, new_figure, patch
from worlds.experiments.spec import METRIC_NAMES, Experiment, name_of
from worlds.report.analysis import power_law, power_law_of_points, stopping_time
from worlds.report.measure import Measured
from worlds.report.plots import (
    DASHED,
    DASHES,
    DIAGONAL,
    DOTTED,
    RING,
    Drawn,
    Point,
    Style,
    curve_of,
    draw_runs,
    fit_limits,
    median_t0,
    power_law_line,
)
from worlds.training.run_folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Metrics of a figure of sizes, with the color and mark of their gap: none of ORDERED is near them.
SHOWN: Final = {"error": (RED, "o"), "soft_error": (COLORS[3], "s")}
IDEAL_ENTRY: Final = ("Ideal World", {**DASHED, "color": INK})
_DASHES: Final = (("-", "solid"), (DASHES, "dashed"), ((0, (1, 1.5)), "dotted"))

Shaded = Sequence[tuple[str, Measured]]  # groups in the order of n, each with its color


def _shaded(members: Sequence[Measured]) -> Shaded:
    """Return the groups with colors of ORDERED, spread over it."""
    places = np.linspace(0, len(ORDERED) - 1, len(members)).round().astype(int)
    return [(ORDERED[place], one) for place, one in zip(places, members, strict=True)]


def _size(one: Measured) -> int:
    return one.found.real[0].config.n


def _ideal(members: Shaded) -> Sequence[Run]:
    """Return the Ideal World that groups share, of the one that has the most trials of it."""
    return max((one.found.ideal for _, one in members), key=len, default=())


def _draw_sizes(
    ax: "Axes", members: Shaded, column: str, panel: str, ideal_group: str
) -> list[Point]:
    """Draw the Real World of each n, with T0, over their Ideal World."""
    points: list[Point] = []
    for color, one in members:
        names = {"panel": panel, "group": one.label, "world": "real"}
        real = one.found.real
        points += draw_runs(ax, real, column, color, t0=median_t0(real), ring=True, **names)
    names = {"panel": panel, "group": ideal_group, "world": "ideal"}
    return points + draw_runs(ax, _ideal(members), column, INK, dashes=DASHES, **names)


def draw_samples(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Draw the curves of all n over their Ideal World; T(n); L(n) against Ideal(T(n))."""
    metric = experiment.metric
    members = _shaded(sorted((one for one in measured if one.found.real), key=_size))
    figure, axes, _ = new_figure(3, 3, (3.8, 3.5))
    # The three panels; fits are told beside the figure.
    points = _draw_sizes(axes[0], members, f"test_{metric}", "curves", "Ideal")
    remark = _draw_law(axes[0], _ideal(members), f"test_{metric}")
    fit_limits(axes[:1], points)
    axes[0].set(title="Test curves", ylabel=METRIC_NAMES[metric])
    remark += _stopping_panel(axes[1], members, points) + _exponents(measured[-1])
    _loss_panel(axes[2], members, points, metric)
    # The legend names what was drawn.
    entries: list[tuple[str, Style]] = [
        (f"n = {_size(one):,}", {"color": color}) for color, one in members
    ]
    if _ideal(members):
        entries.append(IDEAL_ENTRY)
    ring, bar = {**RING, "color": INK}, {"color": INK, "linestyle": "none", "markersize": 9}
    entries.append(("T0, median", ring))
    if any(len(one.found.real) > 1 for _, one in members):
        entries.append(("T0 of a trial", {**bar, "marker": "_"}))
    if any(stopping_time(one.found.real).median is None for _, one in members):
        entries.append(("T0 not reached", {**bar, "marker": "^", "markerfacecolor": "none"}))
    if remark:
        entries.append(("power law", dict(DOTTED)))
    legend(figure, [*entries, ("y = x", dict(DIAGONAL))])
    return Drawn(figure, points, remark)


def _exponents(last: Measured) -> str:
    """Return alpha x beta beside the exponent of L(n); medians over trials, and their range."""
    if not last.values.get("product"):
        return ""
    told = []
    for name, text in (("product", "alpha x beta"), ("gamma", "the exponent of L(n)")):
        low, high = last.range(name)
        spread = f" ({low:.2f} to {high:.2f} over trials)" if low != high else ""
        told.append(f"{text} is {last.get(name):.2f}{spread}")
    return f"Per trial, {' and '.join(told)}. "


def _draw_law(ax: "Axes", ideal: Sequence[Run], column: str) -> str:
    """Draw the power law of the Ideal World, fitted past the first hundredth; a sentence on it."""
    curve = curve_of(ideal, column)
    if curve is None:
        return ""
    try:
        law = power_law(curve, first=max(2, int(curve.updates[-1]) // 100))
    except ValueError:
        return ""  # too few points, or an error of 0
    power_law_line(ax, law)
    return (
        f"The Ideal World's curve goes as t^-{law.exponent:.2f} (95 %: {law.low:.2f} to "
        f"{law.high:.2f}, {law.method}; fitted on {law.first:,.0f} to {law.last:,.0f} updates). "
    )


def _stopping_panel(ax: "Axes", members: Shaded, points: list[Point]) -> str:
    """Draw T(n) and its power law; return a sentence on it."""
    x, y = [], []
    for color, one in members:
        # A dash a trial, and a ring at the median.
        n, times = _size(one), stopping_time(one.found.real)
        reached = [step + 1 for step in times.trials.values() if step is not None]
        ax.plot([n] * len(reached), reached, "_", color=color, markersize=10)
        if times.median is None:  # an arrow: T0 is later than the last step
            ax.plot(n, times.last_step + 1, "^", color=color, markerfacecolor="none", markersize=8)
            continue
        x.append(n)
        y.append(times.median + 1)
        ax.plot(n, y[-1], **{**RING, "color": color})
        names = {"panel": "T(n)", "group": one.label, "world": "real", "quantity": "t0"}
        points.append({**names, "x": n, "y": y[-1], "low": min(reached), "high": max(reached)})
    _log_axes(ax, [_size(one) for _, one in members])
    ax.set(title="T0 against n", xlabel="n", ylabel="updates")
    if len(x) < 3:
        return ""
    law = power_law_of_points(x, y)  # T(n)
    power_law_line(ax, law)
    exponent, low, high = (round(-v, 2) + 0.0 for v in (law.exponent, law.high, law.low))
    return f"T0 goes as n^{exponent:.2f} ({low:.2f} to {high:.2f}). "


def log_axis(ax: "Axes", sizes: Sequence[float]) -> None:
    """Make the x axis logarithmic, with the names of up to four of the sizes."""
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
    # At least a factor of four, so that ticks can be named.
    low, high = ax.get_ylim()
    middle = (low * high) ** 0.5
    low, high = min(low, middle / 2), max(high, 2 * middle)  # equal values need a height, too
    ax.set_ylim(low, high)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    if high < 30 * low:  # less than a decade or so: also name the minor ticks
        ax.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    ax.tick_params(axis="y", which="minor", colors=FAINT)


def _loss_panel(ax: "Axes", members: Shaded, points: list[Point], metric: str) -> None:
    """Draw L(n) against the Ideal World's loss at T(n), beside y = x."""
    for color, one in members:
        ideal, real = one.get("ideal"), one.get("real")
        if ideal is None or real is None:
            continue
        ax.plot(ideal, real, **{**RING, "color": color})
        names = {"panel": "L(n)", "group": one.label, "world": "both", "quantity": metric}
        points.append({**names, "x": ideal, "y": real})
    if ax.lines:
        edges = [*ax.get_xlim(), *ax.get_ylim()]
        span = max(0.0, min(edges)), max(edges)
        ax.plot(span, span, zorder=0, **DIAGONAL)
        ax.set(xlim=span, ylim=span, aspect="equal")
        ax.locator_params(nbins=4)
    ax.set(title="At T0, beside y = x", xlabel="Ideal(T(n))", ylabel="Real L(n)")


def draw_sizes(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Draw a row a network: all n over their Ideal World in both metrics, and the gap."""
    # Networks with runs of both worlds.
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
            panel = f"{network}: {metric}"
            drawn += _draw_sizes(ax, _shaded(members), f"test_{metric}", panel, network)
            name = METRIC_NAMES[metric]
            ax.set(title=f"{network}: {name}", ylabel=f"test {name}")
        fit_limits(mine[:2], drawn)  # one scale for both metrics
        points += drawn + _gap_panel(mine[2], network, members)
    # The legend, of the network at the most n.
    members = max(rows.values(), key=len)
    entries: list[tuple[str, Style]] = [
        (one.found.group.series or one.label, {"color": color}) for color, one in _shaded(members)
    ]
    entries += [IDEAL_ENTRY, ("T0 (faded after it)", {**RING, "color": INK})]
    for metric, (color, mark) in SHOWN.items():
        line: Style = {"color": color, "marker": mark, "markersize": 5}
        entries.append((f"Real - Ideal: {METRIC_NAMES[metric]}", line))
    if any(len(one.values["gap"]) > 1 for one in members):
        entries.append(("bands: quartiles over trials; bars: 95 %", patch(GRID)))
    legend(figure, entries)
    return Drawn(figure, points)


def _gap_panel(ax: "Axes", network: str, members: Sequence[Measured]) -> list[Point]:
    """Draw Real less Ideal at T0, or at the last step, with 95 % intervals over trials."""
    sizes = [_size(one) for one in members]
    points: list[Point] = []
    for metric, (color, mark) in SHOWN.items():
        quantity = f"{metric}:gap"
        gaps = [one.number(quantity) for one in members]
        ax.plot(sizes, gaps, color=color, marker=mark, markersize=5)
        for n, one in zip(sizes, members, strict=True):
            low, high = one.interval(quantity)
            ax.plot([n, n], [low, high], color=color, linewidth=1.2)
            names = {"panel": f"{network}: gap", "world": "both", "x": n}
            points.append(one.point(quantity, **names) | {"low": low, "high": high})
    ax.axhline(0, color=FAINT, linewidth=0.8)
    log_axis(ax, sizes)
    ax.set(title="Gap at T0 or at the end", xlabel="n", ylabel="Real - Ideal")
    return points


def draw_against(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Draw a panel for each of `panels`: a color a series, dashes a quantity, bars over trials."""
    # A line is the groups of a series.
    lines: dict[str, list[Measured]] = {}
    for one in measured:
        lines.setdefault(one.found.group.series or "", []).append(one)
    figure, axes, _ = new_figure(len(experiment.panels), 3, (3.8, 3.3))
    axis, points = experiment.axis.removeprefix("log "), list[Point]()
    for ax, panel in zip(axes, experiment.panels, strict=True):
        for quantity, (dash, _) in zip(panel, _DASHES, strict=False):
            for members, color in zip(lines.values(), COLORS, strict=False):
                able = [one for one in members if one.values.get(quantity)]
                able.sort(key=lambda one: one.found.group.x or 0.0)
                mine = [one.point(quantity, x=one.found.group.x) for one in able]
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
    legend(figure, [(n, {"color": c}) for n, c in zip(lines, COLORS, strict=False) if n])
    return Drawn(figure, points)
