"""The figure of each kind of experiment, with every point that it shows.

    drawn = draw(experiment, measured)          # drawn.figure, drawn.points

A point is a flat row: panel, group, world, quantity, x, y, low, high (quartiles over trials) and
trials. The rows of a figure are what its CSV and JSON hold.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from worlds.analysis import (
    METRICS,
    Curves,
    by_samples,
    curves,
    has,
    power_law,
    power_law_of_points,
    stopping_time,
)
from worlds.plots import (
    COLOURS,
    FAINT,
    IDEAL,
    INK,
    ORDERED,
    REAL,
    TRAIN,
    Dot,
    final_scatter,
    grouped_bars,
    legend,
    new_figure,
    power_law_line,
    stacked_bars,
    style,
    world_curves,
)
from worlds.report.experiment import Experiment
from worlds.report.measure import METRIC_NAMES, Measured, patience_of
from worlds.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = dict[str, Any]
COLUMNS: Final = ("panel", "group", "world", "quantity", "x", "y", "low", "high", "trials")
SOLID: Final = {"color": REAL, "linestyle": "-"}
DASHED: Final = {"color": IDEAL, "linestyle": (0, (4, 2))}
DOTTED: Final = {"color": FAINT, "linestyle": (0, (1, 1.5)), "linewidth": 1.2}
RING: Final = {"marker": "o", "linestyle": "none", "markersize": 8, "markerfacecolor": "none"}
RING_REAL: Final = {**RING, "color": REAL, "markeredgewidth": 2}


@dataclass(frozen=True)
class Drawn:
    figure: "Figure"
    points: list[Point]
    remark: str = ""  # a sentence that the figure has to say, such as a fit


def draw(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """The experiment's figure of the groups that were measured; ValueError without any."""
    if not measured:
        raise ValueError(f"{experiment.name} has no finished run to draw")
    with style():
        return _DRAWERS[experiment.kind](experiment, measured)


def _curve(runs: Sequence[Run], column: str) -> Curves | None:
    """Of the runs that have the column, if any."""
    able = [run for run in runs if has(run, column)]
    return curves(able, column) if able else None


def _points_of(curve: Curves | None, **names: str) -> list[Point]:
    if curve is None:
        return []
    low, high = curve.quantiles()
    columns = zip(curve.updates, curve.median, low, high, strict=True)
    return [
        {**names, "x": int(x), "y": float(y), "low": float(lo), "high": float(hi)}
        | {"trials": len(curve.trials)}
        for x, y, lo, hi in columns
    ]


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
    ours, theirs = _curve(real, f"test_{metric}"), _curve(ideal, f"test_{metric}")
    learned = _curve(real, f"train_{metric}") if train else None
    t0 = stopping_time(real).of_median_curve if real and has(real[0], "train_error") else None
    world_curves(ax, ours, theirs, learned, t0, colours)
    names = {"panel": panel, "group": one.label}
    points = _points_of(ours, **names, world="real", quantity=f"test_{metric}")
    points += _points_of(theirs, **names, world="ideal", quantity=f"test_{metric}")
    points += _points_of(learned, **names, world="real", quantity=f"train_{metric}")
    if t0 is not None and ours is not None:
        at = float(ours.median[np.searchsorted(ours.steps, t0)])
        points.append({**names, "world": "real", "quantity": "t0", "x": t0 + 1, "y": at})
    return points


def _curves(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    panels: dict[str, list[Measured]] = {}
    for one in measured:
        panels.setdefault(one.found.group.panel or one.label, []).append(one)
    columns = 4 if len(panels) in (4, 7, 8) or len(panels) > 9 else 3
    size = (3.5, 2.75) if columns == 3 else (2.8, 2.4)
    figure, axes = new_figure(len(panels), columns, size, sharey=True)
    points: list[Point] = []
    several = max(len(members) for members in panels.values())
    for ax, (panel, members) in zip(axes, panels.items(), strict=True):
        for index, one in enumerate(members):
            # Alone, the worlds differ in colour; together, the groups do.
            colour = COLOURS[index % len(COLOURS)]
            pair = (REAL, IDEAL) if several == 1 else (colour, colour)
            points += _draw_group(ax, one, panel, experiment.metric, pair, several == 1)
        ax.set_title(panel)
    _label_outer(axes, columns, experiment.metric)
    _limits(axes, points)
    _curves_legend(figure, panels, points, several)
    return Drawn(figure, points)


def _curves_legend(
    figure: "Figure",
    panels: Mapping[str, Sequence[Measured]],
    points: Sequence[Point],
    several: int,
) -> None:
    shown = {(point["world"], point["quantity"].partition("_")[0]) for point in points}
    entries: list[tuple[str, dict[str, Any]]] = []
    ink = {"color": INK} if several > 1 else {}
    if several > 1:
        members = max(panels.values(), key=len)
        entries = [
            (one.label, {"color": COLOURS[index % len(COLOURS)]})
            for index, one in enumerate(members)
        ]
    for key, text, line in (
        (("real", "test"), "Real World test", {**SOLID, **ink}),
        (("ideal", "test"), "Ideal World test", {**DASHED, **ink}),
        (("real", "train"), "Real World train", {"color": TRAIN, "linewidth": 1.3}),
        (("real", "t0"), "T0: train error at most 1 %", {**RING_REAL, **ink}),
    ):
        if key in shown:
            entries.append((text, line))
    legend(figure, entries)


def _label_outer(axes: Sequence["Axes"], columns: int, metric: str) -> None:
    for index, ax in enumerate(axes):
        ax.tick_params(labelleft=index % columns == 0)
        ax.set_ylabel(METRIC_NAMES[metric] if index % columns == 0 else "")
        ax.set_xlabel("updates" if index + columns >= len(axes) else "")


def _limits(axes: Sequence["Axes"], points: Sequence[Point]) -> None:
    """From 0 to what is seen after the first twentieth: a loss may begin ten times as high."""
    if not points:
        return
    end: float = max(point["x"] for point in points)
    late = [float(p.get("high", p["y"])) for p in points if p["x"] > 0.05 * end]
    for ax in axes:
        ax.set_ylim(0, 1.08 * max(late))
        ax.set_xlim(0, 1.03 * end)


def _metrics(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
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
            _limits([ax], mine)
            points += mine
    _curves_legend(figure, {"": list(measured[:1])}, points, 1)
    return Drawn(figure, points)


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
        marker = place // len(COLOURS) if len(series) > len(COLOURS) else place
        dots.append(Dot(one.label, ideal, real, *ranges, place, marker))
        points.append(
            {"panel": "", "group": one.label, "world": "both", "quantity": experiment.metric}
            | {"x": ideal, "y": real, "low": ranges[1][0], "high": ranges[1][1]}
            | {"trials": len(one.values["gap"])}
        )
    tolerance = next((c.tolerance for c in experiment.checks if c.quantity == "gap"), None)
    figure, (ax,) = new_figure(1, 1, (6.4, 5.6))
    final_scatter(ax, dots, tolerance)
    metric = METRIC_NAMES[experiment.metric]
    ax.set(xlabel=f"Ideal World test {metric}", ylabel=f"Real World test {metric}")
    entries: list[tuple[str, dict[str, Any]]] = [("y = x", {"color": FAINT, "linewidth": 1})]
    if len(series) > 1:
        marks = {dot.series: dot.marker for dot in dots}
        from worlds.plots import MARKERS

        entries += [
            (name or "others", {"color": COLOURS[i % len(COLOURS)], "linestyle": "none"}
             | {"marker": MARKERS[marks[i] % len(MARKERS)], "markersize": 7})
            for i, name in enumerate(series)
        ]  # fmt: skip
    if tolerance is not None:
        band = {"color": "#eef0f3", "linewidth": 8}
        entries.append((f"within {tolerance:g}", band))
    legend(figure, entries)
    return Drawn(figure, points)


def _samples(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Panels: curves of all n over their Ideal World; T(n); L(n) against Ideal(T(n))."""
    metric = experiment.metric
    by_n = {one.found.real[0].config.n: one for one in measured if one.found.real}
    shades = _shades(len(by_n))
    figure, axes = new_figure(3, 3, (3.9, 3.5))
    points: list[Point] = []
    entries: list[tuple[str, dict[str, Any]]] = []
    for shade, (n, one) in zip(shades, sorted(by_n.items()), strict=True):
        curve = _curve(one.found.real, f"test_{metric}")
        t0 = stopping_time(one.found.real).of_median_curve
        world_curves(axes[0], curve, None, None, t0, (shade, shade))
        names = {"panel": "curves", "group": one.label, "world": "real"}
        points += _points_of(curve, **names, quantity=f"test_{metric}")
        entries.append((f"n = {n:,}", {"color": shade}))
    ideal = max((one.found.ideal for one in by_n.values()), key=len, default=())
    reference = _curve(ideal, f"test_{metric}")
    remark = ""
    if reference is not None:
        world_curves(axes[0], None, reference, None, None, (INK, INK))
        points += _points_of(
            reference, panel="curves", group="Ideal", world="ideal", quantity=f"test_{metric}"
        )
        entries.append(("Ideal World", {"color": INK, "linestyle": (0, (4, 2))}))
        remark = _draw_law(axes[0], reference)
    _limits(axes[:1], points)
    axes[0].set(title="Test curves", ylabel=METRIC_NAMES[metric])
    remark += _stopping_panel(axes[1], by_n, shades, points)
    _loss_panel(axes[2], by_n, shades, points, metric)
    legend(figure, entries)
    return Drawn(figure, points, remark)


def _shades(count: int) -> list[str]:
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
        ax.plot(n, at + 1, "o", color=shade, markersize=8)
        x.append(n)
        y.append(at + 1)
        points.append({**names, "x": n, "y": at + 1, "low": min(reached), "high": max(reached)})
    _log_axes(ax, sorted(by_n))
    ax.set(title="T0 against n", xlabel="n", ylabel="updates")
    if len(x) < 3:
        return ""
    law = power_law_of_points(x, y)
    power_law_line(ax, law)
    return f"T0 goes as n^{-law.exponent:.2f} ({-law.high:.2f} to {-law.low:.2f}). "


def _log_axes(ax: "Axes", sizes: Sequence[int]) -> None:
    from matplotlib.ticker import LogFormatter, NullLocator

    ax.set(xscale="log", yscale="log")
    shown = sizes if len(sizes) <= 4 else [sizes[0], sizes[len(sizes) // 2], sizes[-1]]
    ax.set_xticks(shown, [f"{n:,}" for n in shown])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(0.12)
    low, high = ax.get_ylim()
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
    both = {n: one for n, one in by_n.items() if one.get("gap") is not None}
    for size in (
        by_samples({n: one.found.real}, one.found.ideal, metric)[0] for n, one in both.items()
    ):
        shade = shades[sorted(by_n).index(size.n)]
        ax.plot(size.ideal, size.real, "o", color=shade, markersize=8)
        points.append(
            {"panel": "L(n)", "group": by_n[size.n].label, "world": "both", "quantity": metric}
            | {"x": size.ideal, "y": size.real}
        )
    if both:
        high = ax.get_xlim()[1]
        ax.plot([0, 1.1 * high], [0, 1.1 * high], color=FAINT, linewidth=1)
        top = 1.1 * max(high, ax.get_ylim()[1])
        ax.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    ax.set(title="At T0, beside y = x", xlabel="Ideal(T(n))", ylabel="Real L(n)")


def _decompositions(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    able = [one for one in measured if one.get("gap") is not None and one.get("train") is not None]
    if not able:
        raise ValueError(f"{experiment.name} has no group with both worlds and train metrics")
    names = [one.label for one in able]
    numbers = {
        name: [one.get(name) or 0.0 for one in able]
        for name in ("train", "generalization", "ideal", "gap", "real")
    }
    figure, axes = new_figure(2, 2, (5.4, 1.2 + 0.5 * len(able)), sharey=True, sharex=True)
    stacked_bars(
        axes[0],
        names,
        [("train", numbers["train"], TRAIN), ("gap", numbers["generalization"], COLOURS[3])],
        numbers["real"],
    )
    stacked_bars(
        axes[1],
        names,
        [("ideal", numbers["ideal"], IDEAL), ("error", numbers["gap"], COLOURS[2])],
        numbers["real"],
    )
    axes[0].set_title("train + generalization gap")
    axes[1].set_title("Ideal + bootstrap error")
    for ax in axes:
        ax.set_xlabel(METRIC_NAMES[experiment.metric])
    legend(
        figure,
        [
            ("Real World train", {"color": TRAIN, "linewidth": 8}),
            ("generalization gap", {"color": COLOURS[3], "linewidth": 8}),
            ("Ideal World test", {"color": IDEAL, "linewidth": 8}),
            ("bootstrap error", {"color": COLOURS[2], "linewidth": 8}),
            ("Real World test", {"color": INK, "linewidth": 2}),
        ],
    )
    return Drawn(figure, _bar_points(able, numbers))


def _bar_points(
    measured: Sequence[Measured], numbers: Mapping[str, Sequence[float]]
) -> list[Point]:
    return [
        {"panel": "", "group": one.label, "world": "", "quantity": name, "x": None, "y": value}
        | {"low": one.range(name)[0], "high": one.range(name)[1], "trials": len(one.values[name])}
        for name, values in numbers.items()
        for one, value in zip(measured, values, strict=True)
        if one.values.get(name)
    ]


def _rrm(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    able = [one for one in measured if one.get("bound") is not None]
    if not able:
        raise ValueError(f"{experiment.name} has no clean and noisy run of one trial")
    parts = [("robustness", COLOURS[0]), ("memorization", COLOURS[4]), ("rationality", COLOURS[3])]
    shown = [*(name for name, _ in parts), "generalization_error"]
    numbers = {name: [one.get(name) or 0.0 for one in able] for name in shown}
    figure, (ax,) = new_figure(1, 1, (8.4, 1.2 + 0.55 * len(able)))
    stacked_bars(
        ax,
        [one.label for one in able],
        [(name, numbers[name], colour) for name, colour in parts],
        numbers["generalization_error"],
    )
    ax.set_xlabel("share of samples")
    legend(
        figure,
        [(f"{name} gap", {"color": colour, "linewidth": 8}) for name, colour in parts]
        + [("generalization gap", {"color": INK, "linewidth": 2})],
    )
    return Drawn(figure, _bar_points(able, numbers))


def _pairs(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    figure, axes = new_figure(len(measured), 3, sharey=True)
    points: list[Point] = []
    for ax, one in zip(axes, measured, strict=True):
        real = _curve(one.found.real, "test_partner_share")
        ideal = _curve(one.found.ideal, "test_partner_share")
        world_curves(ax, real, ideal)
        ax.set_title(one.label)
        names = {"panel": one.label, "group": one.label, "quantity": "test_partner_share"}
        points += _points_of(real, **names, world="real")
        points += _points_of(ideal, **names, world="ideal")
    _limits(axes, points)
    axes[0].set_ylabel("share called the partner")
    legend(figure, [("Real World", dict(SOLID)), ("Ideal World", dict(DASHED))])
    return Drawn(figure, points)


def _stopping(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    able = [one for one in measured if one.get("stopped") is not None]
    if not able:
        raise ValueError(f"{experiment.name} has no Real World run")
    parts = [("real", COLOURS[0]), ("stopped", COLOURS[4]), ("final_real", TRAIN)]
    numbers = {name: [one.get(name) or 0.0 for one in able] for name, _ in parts}
    figure, (ax,) = new_figure(1, 1, (8.4, 1.2 + 0.8 * len(able)))
    bars = [(name, numbers[name], colour) for name, colour in parts]
    grouped_bars(ax, [one.label for one in able], bars)
    ax.set_xlabel(f"Real World test {METRIC_NAMES[experiment.metric]}")
    patience = patience_of(able[0].found.real[0])
    texts = ("at T0", f"stopped by patience of {patience} log points", "at the last step")
    wide = [{"color": colour, "linewidth": 8} for _, colour in parts]
    legend(figure, list(zip(texts, wide, strict=True)))
    return Drawn(figure, _bar_points(able, numbers))


def _table(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    names = [
        n for n in ("cifar10_error", "test_error") if any(one.values.get(n) for one in measured)
    ]
    able = [one for one in measured if all(one.values.get(name) for name in names)]
    if not names or not able:
        raise ValueError(f"{experiment.name} has no test error to show")
    texts = {"cifar10_error": "on CIFAR-10", "test_error": "on its own test split"}
    colours = {"cifar10_error": COLOURS[0], "test_error": COLOURS[4]}
    numbers = {name: [one.get(name) or 0.0 for one in able] for name in names}
    figure, (ax,) = new_figure(1, 1, (8.4, 1.2 + 0.6 * len(able)))
    bars = [(name, numbers[name], colours[name]) for name in names]
    grouped_bars(ax, [one.label for one in able], bars)
    ax.set_xlabel("test error at the last step")
    legend(figure, [(texts[name], {"color": colours[name], "linewidth": 8}) for name in names])
    return Drawn(figure, _bar_points(able, numbers))


_DRAWERS: Final[Mapping[str, Callable[[Experiment, Sequence[Measured]], Drawn]]] = {
    "curves": _curves,
    "metrics": _metrics,
    "scatter": _scatter,
    "samples": _samples,
    "decompositions": _decompositions,
    "rrm": _rrm,
    "pairs": _pairs,
    "stopping": _stopping,
    "table": _table,
}
