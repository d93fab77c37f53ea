"""Figures of bars: decompositions of the test error, RRM, patience, tables of test errors."""

from collections.abc import Sequence
from typing import Final

from worlds.cli.drawing import COLORS, INK, legend, new_figure, patch
from worlds.experiments.spec import METRIC_NAMES, Experiment
from worlds.report.analysis import has
from worlds.report.measure import TEST_SETS, Measured, patience_of
from worlds.report.plots import (
    IDEAL,
    TRAIN,
    Drawn,
    Point,
    draw_runs,
    grouped_bars,
    stacked_bars,
)

TICK: Final = {"color": INK, "linewidth": 2}  # in a legend
# How labels that were kept and labels that were changed are fitted.
FITTED: Final = {
    "kept labels": ("train_kept_error", COLORS[2]),
    "wrong labels": ("train_corrupted_error", COLORS[1]),
    "wrong labels, against the true ones": ("train_corrupted_true_error", COLORS[3]),
}


def _able(measured: Sequence[Measured], wanted: Sequence[str], problem: str) -> list[Measured]:
    """Return the groups with all of the quantities; ValueError if there is none."""
    able = [one for one in measured if all(one.values.get(name) for name in wanted)]
    if not able:
        raise ValueError(problem)
    return able


def _numbers(able: Sequence[Measured], name: str) -> list[float]:
    return [one.number(name) for one in able]


def _points(able: Sequence[Measured], names: Sequence[str]) -> list[Point]:
    return [one.point(name) for name in names for one in able if one.values.get(name)]


def draw_decompositions(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    problem = f"{experiment.name} has no group with both worlds and train metrics"
    able = _able(measured, ("gap", "train"), problem)
    figure, axes, _ = new_figure(2, 2, (5.4, 1.2 + 0.5 * len(able)), sharey=True, sharex=True)
    # The same test error in two sums: of the Real World alone, and of both.
    halves = {
        "train + generalization gap": {"train": TRAIN, "generalization": COLORS[3]},
        "Ideal + bootstrap error": {"ideal": IDEAL, "gap": COLORS[2]},
    }
    for ax, (title, parts) in zip(axes, halves.items(), strict=True):
        bars = [(_numbers(able, name), color) for name, color in parts.items()]
        stacked_bars(ax, [one.label for one in able], bars, _numbers(able, "real"))
        ax.set(title=title, xlabel=METRIC_NAMES[experiment.metric])
    colors = {name: color for parts in halves.values() for name, color in parts.items()}
    texts = ("Real World train", "generalization gap", "Ideal World test", "bootstrap error")
    entries = [*zip(texts, map(patch, colors.values()), strict=True), ("Real World test", TICK)]
    legend(figure, entries)
    return Drawn(figure, _points(able, (*colors, "real")))


def draw_rrm(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    able = _able(measured, ("bound",), f"{experiment.name} has no clean and noisy run of one trial")
    # The sum of the three is a bound, so the tick lies left of its end.
    parts = {"robustness": COLORS[0], "memorization": COLORS[4], "rationality": COLORS[3]}
    figure, (ax,), _ = new_figure(1, 1, (8.4, 1.2 + 0.55 * len(able)))
    bars = [(_numbers(able, name), color) for name, color in parts.items()]
    stacked_bars(ax, [one.label for one in able], bars, _numbers(able, "generalization_error"))
    ax.set_xlabel("share of samples")
    entries = [(f"{name} gap", patch(color)) for name, color in parts.items()]
    legend(figure, [*entries, ("generalization gap", TICK)])
    return Drawn(figure, _points(able, (*parts, "generalization_error")))


def draw_stopping(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    able = _able(measured, ("stopped",), f"{experiment.name} has no Real World run")
    parts = {"real": COLORS[0], "stopped": COLORS[4], "final_real": TRAIN}
    # Bars of all groups; beside them a panel a noisy group.
    noisy = [one for one in able if has(one.found.real[0], "train_corrupted_error")]
    size = (3.7, 3.4) if noisy else (8.4, 1.2 + 0.8 * len(able))
    figure, axes, _ = new_figure(1 + len(noisy), 3, size)
    bars = [(_numbers(able, name), color) for name, color in parts.items()]
    grouped_bars(axes[0], [one.label for one in able], bars)
    axes[0].set_xlabel(f"Real World test {METRIC_NAMES[experiment.metric]}")
    run = able[0].found.real[0]
    unit = "epochs" if run.config.validation else "log points"
    stopped = f"stopped by patience of {patience_of(run)} {unit}"
    texts = ("at T0, or the last step", stopped, "at the last step")
    entries = list(zip(texts, map(patch, parts.values()), strict=True))
    points = _points(able, tuple(parts))
    # How the labels that were kept and those that were changed are fitted.
    for ax, one in zip(axes[1:], noisy, strict=True):
        for column, color in FITTED.values():
            points += draw_runs(ax, one.found.real, column, color, group=one.label, world="real")
        ax.set(title=one.label, ylabel="train error", ylim=(0, 1))
    if noisy:
        entries += [(text, {"color": color}) for text, (_, color) in FITTED.items()]
    legend(figure, entries)
    return Drawn(figure, points)


def draw_table(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    # The test sets that some group was measured on.
    names = [name for name in TEST_SETS if any(one.values.get(name) for one in measured)]
    problem = f"{experiment.name} has no test error to show"
    able = _able(measured if names else (), names, problem)
    colors = {"cifar10_error": COLORS[0], "test_error": COLORS[4]}
    figure, (ax,), _ = new_figure(1, 1, (8.4, 1.2 + 0.6 * len(able)))
    bars = [(_numbers(able, name), colors[name]) for name in names]
    grouped_bars(ax, [one.label for one in able], bars)
    ax.set_xlabel("test error at the last step")
    legend(figure, [(TEST_SETS[name], patch(colors[name])) for name in names])
    return Drawn(figure, _points(able, names))
