"""Figures of bars: decompositions of the test error, RRM, patience, tables of test errors."""

from collections.abc import Mapping, Sequence

from worlds.experiments.spec import METRIC_NAMES, Experiment
from worlds.report.measure import TEST_SETS, Measured, patience_of
from worlds.report.plots import (
    COLOURS,
    IDEAL,
    INK,
    TRAIN,
    Drawn,
    Point,
    grouped_bars,
    legend,
    new_figure,
    patch,
    stacked_bars,
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
            ("Real World train", patch(TRAIN)),
            ("generalization gap", patch(COLOURS[3])),
            ("Ideal World test", patch(IDEAL)),
            ("bootstrap error", patch(COLOURS[2])),
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


def draw_rrm(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
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
        [(f"{name} gap", patch(colour)) for name, colour in parts]
        + [("generalization gap", {"color": INK, "linewidth": 2})],
    )
    return Drawn(figure, _bar_points(able, numbers))


def draw_stopping(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
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
    wide = [patch(colour) for _, colour in parts]
    legend(figure, list(zip(texts, wide, strict=True)))
    return Drawn(figure, _bar_points(able, numbers))


def draw_table(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    names = [name for name in TEST_SETS if any(one.values.get(name) for one in measured)]
    able = [one for one in measured if all(one.values.get(name) for name in names)]
    if not names or not able:
        raise ValueError(f"{experiment.name} has no test error to show")
    colours = {"cifar10_error": COLOURS[0], "test_error": COLOURS[4]}
    numbers = {name: [one.get(name) or 0.0 for one in able] for name in names}
    figure, (ax,) = new_figure(1, 1, (8.4, 1.2 + 0.6 * len(able)))
    bars = [(name, numbers[name], colours[name]) for name in names]
    grouped_bars(ax, [one.label for one in able], bars)
    ax.set_xlabel("test error at the last step")
    legend(figure, [(TEST_SETS[name], patch(colours[name])) for name in names])
    return Drawn(figure, _bar_points(able, numbers))
