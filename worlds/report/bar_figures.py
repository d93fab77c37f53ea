"""Figures of bars: decompositions of the test error, RRM, patience, tables of test errors."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from worlds.cli.drawing import COLORS, INK, legend, new_figure, patch
from worlds.experiments.spec import METRIC_NAMES, Experiment
from worlds.report.analysis import has
from worlds.report.measure import TEST_SETS, Measured, patience_of
from worlds.report.plots import (
    IDEAL,
    TRAIN,
    Drawn,
    Point,
    curve_of,
    grouped_bars,
    points_of,
    stacked_bars,
    world_curves,
)


def draw_decompositions(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    able = [one for one in measured if one.get("gap") is not None and one.get("train") is not None]
    if not able:
        raise ValueError(f"{experiment.name} has no group with both worlds and train metrics")
    names = [one.label for one in able]
    numbers = {
        name: [one.get(name) or 0.0 for one in able]
        for name in ("train", "generalization", "ideal", "gap", "real")
    }
    figure, axes, _ = new_figure(2, 2, (5.4, 1.2 + 0.5 * len(able)), sharey=True, sharex=True)
    train, gap = ("train", numbers["train"], TRAIN), ("gap", numbers["generalization"], COLORS[3])
    ideal, error = ("ideal", numbers["ideal"], IDEAL), ("error", numbers["gap"], COLORS[2])
    for ax, title, parts in (
        (axes[0], "train + generalization gap", (train, gap)),
        (axes[1], "Ideal + bootstrap error", (ideal, error)),
    ):
        stacked_bars(ax, names, parts, numbers["real"])
        ax.set(title=title, xlabel=METRIC_NAMES[experiment.metric])
    names_of = ("Real World train", "generalization gap", "Ideal World test", "bootstrap error")
    bars = [patch(part[2]) for part in (train, gap, ideal, error)]
    tick = {"color": INK, "linewidth": 2}
    legend(figure, [*zip(names_of, bars, strict=True), ("Real World test", tick)])
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


def draw_rrm(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    able = [one for one in measured if one.get("bound") is not None]
    if not able:
        raise ValueError(f"{experiment.name} has no clean and noisy run of one trial")
    parts = [("robustness", COLORS[0]), ("memorization", COLORS[4]), ("rationality", COLORS[3])]
    shown = [*(name for name, _ in parts), "generalization_error"]
    numbers = {name: [one.get(name) or 0.0 for one in able] for name in shown}
    figure, (ax,), _ = new_figure(1, 1, (8.4, 1.2 + 0.55 * len(able)))
    stacked_bars(
        ax,
        [one.label for one in able],
        [(name, numbers[name], color) for name, color in parts],
        numbers["generalization_error"],
    )
    ax.set_xlabel("share of samples")
    legend(
        figure,
        [(f"{name} gap", patch(color)) for name, color in parts]
        + [("generalization gap", {"color": INK, "linewidth": 2})],
    )
    return Drawn(figure, _bar_points(able, numbers))


def draw_stopping(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    able = [one for one in measured if one.get("stopped") is not None]
    if not able:
        raise ValueError(f"{experiment.name} has no Real World run")
    parts = [("real", COLORS[0]), ("stopped", COLORS[4]), ("final_real", TRAIN)]
    numbers = {name: [one.get(name) or 0.0 for one in able] for name, _ in parts}
    # Bars of all groups; beside them a panel a noisy group.
    noisy = [one for one in able if has(one.found.real[0], "train_corrupted_error")]
    size = (3.7, 3.4) if noisy else (8.4, 1.2 + 0.8 * len(able))
    figure, axes, _ = new_figure(1 + len(noisy), 3, size)
    bars = [(name, numbers[name], color) for name, color in parts]
    grouped_bars(axes[0], [one.label for one in able], bars)
    axes[0].set_xlabel(f"Real World test {METRIC_NAMES[experiment.metric]}")
    config = able[0].found.real[0].config
    unit = "epochs" if config.validation else "log points"
    patience = f"stopped by patience of {patience_of(able[0].found.real[0])} {unit}"
    texts = ("at T0, or the last step", patience, "at the last step")
    entries: list[tuple[str, dict[str, Any]]] = [
        (text, patch(color)) for text, (_, color) in zip(texts, parts, strict=True)
    ]
    points = _bar_points(able, numbers)
    # How the labels that were kept and those that were changed are fitted.
    for ax, one in zip(axes[1:], noisy, strict=True):
        for column, color in _FITTED.values():
            curve = curve_of(one.found.real, column)
            world_curves(ax, curve, colors=(color, color))
            points += points_of(curve, group=one.label, world="real", quantity=column)
        ax.set(title=one.label, ylabel="train error", ylim=(0, 1))
    if noisy:
        entries += [(text, {"color": color}) for text, (_, color) in _FITTED.items()]
    legend(figure, entries)
    return Drawn(figure, points)


# How labels that were kept and labels that were changed are fitted.
_FITTED: Final = {
    "kept labels": ("train_kept_error", COLORS[2]),
    "wrong labels": ("train_corrupted_error", COLORS[1]),
    "wrong labels, against the true ones": ("train_corrupted_true_error", COLORS[3]),
}


def draw_table(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    names = [name for name in TEST_SETS if any(one.values.get(name) for one in measured)]
    able = [one for one in measured if all(one.values.get(name) for name in names)]
    if not names or not able:
        raise ValueError(f"{experiment.name} has no test error to show")
    colors = {"cifar10_error": COLORS[0], "test_error": COLORS[4]}
    numbers = {name: [one.get(name) or 0.0 for one in able] for name in names}
    figure, (ax,), _ = new_figure(1, 1, (8.4, 1.2 + 0.6 * len(able)))
    bars = [(name, numbers[name], colors[name]) for name in names]
    grouped_bars(ax, [one.label for one in able], bars)
    ax.set_xlabel("test error at the last step")
    legend(figure, [(TEST_SETS[name], patch(colors[name])) for name in names])
    return Drawn(figure, _bar_points(able, numbers))
