"""Real against Ideal as an object: numbers, a table, a picture, a page of a notebook.

comparison = Comparison.of("runs")       # run directories of worlds.train, compare or a Recorder
print(comparison)
comparison.plot().figure.savefig("worlds.png")
"""

import base64
import io
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from worlds.cli.drawing import COLORS, legend, new_figure, style
from worlds.cli.tables import columns
from worlds.experiments.spec import METRIC_NAMES
from worlds.report.analysis import endings, has, last_value, stopping_time
from worlds.report.plots import (
    DASHED,
    DASHES,
    IDEAL,
    REAL,
    RING,
    SOLID,
    TRAIN,
    draw_runs,
    median_t0,
)
from worlds.training.run_folder import Run, find_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

_DPI: Final = 130


@dataclass(frozen=True)
class Spread:
    """A number of each trial."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def __str__(self) -> str:
        if len(self.values) == 1:
            return f"{self.median:+.4f}"
        return f"{self.median:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


@dataclass(frozen=True)
class Comparison:
    """Runs of one network in several worlds, compared at min(T0, last common step)."""

    runs: tuple[Run, ...]

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("there is no run to compare")
        places = [(run.config.world, run.config.trial) for run in self.runs]
        for place in places:
            if places.count(place) > 1:
                raise ValueError(f"trial {place[1]} of the {place[0]} world is there twice")

    @classmethod
    def of(cls, *roots: str | Path) -> "Comparison":
        """Return the comparison of all runs at or below some directories."""
        return cls(tuple(run for root in roots for run in find_runs(root)))

    @property
    def worlds(self) -> tuple[str, ...]:
        """Real first, then those between, Ideal last."""
        # The two worlds frame those between them.
        found = {run.config.world for run in self.runs}
        return tuple(sorted(found, key=lambda world: (world == "ideal", world != "real", world)))

    def of_world(self, world: str) -> list[Run]:
        """Return the runs of a world, by trial."""
        found = [run for run in self.runs if run.config.world == world]
        return sorted(found, key=lambda run: run.config.trial)

    @property
    def metric(self) -> str:
        """The compared metric: soft_error, or what all runs have instead."""
        names = {name for run in self.runs for row in run.rows[:1] for name in row}
        own = sorted(name[5:] for name in names if name.startswith("test_"))
        for name in (*METRIC_NAMES, *own):
            if all(has(run, f"test_{name}") for run in self.runs):
                return name
        raise ValueError("the runs have no test metric in common, such as test_soft_error")

    @property
    def t0(self) -> float | None:
        """T0 of the Real World: the first measured step with a train error of at most 1 %, median
        over trials; None where it is not reached, or train_error was not measured.
        """
        return stopping_time(self.of_world("real")).median if self.of_world("real") else None

    @property
    def bootstrap_error(self) -> Spread:
        """Real less Ideal at min(T0, last step), of each trial."""
        return self.gap("real")

    def gap(self, world: str) -> Spread:
        """Return the same of another world. Raises ValueError if one of the two is missing."""
        ours, theirs = self.of_world(world), self.of_world("ideal")
        if not (ours and theirs):
            missing = "ideal" if ours else world
            raise ValueError(f"there is no run of the {missing} world: nothing to compare")
        return Spread(tuple(end.gap for end in endings(ours, theirs, self.metric)))

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table: a line a world."""
        name = METRIC_NAMES.get(self.metric, self.metric)
        table: list[tuple[str, ...]] = [
            ("world", "n", "trials", "T0", f"test {name}, last step", "bootstrap error")
        ]
        for world in self.worlds:
            # An Ideal World has no n, no T0 and no gap to itself.
            runs = self.of_world(world)
            last = np.median([last_value(run, f"test_{self.metric}") for run in runs])
            t0 = stopping_time(runs).median if world != "ideal" else None
            n = "fresh" if world == "ideal" else f"{runs[0].config.n:,}"
            gap = str(self.gap(world)) if world != "ideal" and self.of_world("ideal") else ""
            reached = "" if world == "ideal" else "not reached" if t0 is None else f"{t0:,.0f}"
            table.append((world, n, str(len(runs)), reached, f"{last:.4f}", gap))
        return table

    def __str__(self) -> str:
        name = METRIC_NAMES.get(self.metric, self.metric)
        at = "T0" if self.t0 is not None else "the last common step, as T0 was not reached"
        meaning = f"bootstrap error: test {name} minus the Ideal World's at {at}"
        return f"{columns(self.rows(), left=(0,))}\n{meaning}"

    def to_frame(self) -> "DataFrame":
        """Return all rows of all runs, with world and trial, as a pandas DataFrame."""
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise ValueError("to_frame needs pandas: pip install pandas") from error
        rows: list[dict[str, Any]] = [
            {"world": run.config.world, "trial": run.config.trial, **row}
            for run in self.runs
            for row in run.rows
        ]
        return DataFrame(rows)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the test curves of all worlds and the Real World's train curve; the axes."""
        with style():
            own = ax is None
            ax = new_figure(1, size=(5.5, 3.6))[1][0] if ax is None else ax
            real, ideal = self.of_world("real"), self.of_world("ideal")
            column, t0, entries = f"test_{self.metric}", median_t0(real), dict[str, Any]()
            # The two worlds, those between them, and their names.
            if real:
                draw_runs(ax, real, column, REAL, t0=t0, ring=True)
                entries["Real World, test"] = SOLID
            if ideal:
                draw_runs(ax, ideal, column, IDEAL, t0=t0, dashes=DASHES)
                entries["Ideal World, test"] = DASHED
            if draw_runs(ax, real, f"train_{self.metric}", TRAIN, width=1.3):
                entries["Real World, train"] = {"color": TRAIN}
            if t0 is not None:
                entries["T0"] = RING
            between = [world for world in self.worlds if world not in ("real", "ideal")]
            for color, world in zip(COLORS[2:], between, strict=False):
                draw_runs(ax, self.of_world(world), column, color)
                entries[f"{world}, test"] = {"color": color}
            ax.set_ylabel(METRIC_NAMES.get(self.metric, self.metric))
            ax.set_ylim(bottom=0)
            if own:
                figure: Any = ax.figure
                legend(figure, list(entries.items()))
            return ax

    def _repr_html_(self) -> str:
        """Return the picture and the table, for notebooks."""
        # The table, then the picture as data of the page.
        header, *body = self.rows()
        cells = "".join(f"<th>{escape(cell)}</th>" for cell in header)
        lines = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body
        )
        picture = io.BytesIO()
        with style():
            figure: Any = self.plot().figure
            figure.savefig(picture, format="png", dpi=_DPI)
        data = base64.b64encode(picture.getvalue()).decode()
        image = f'<img alt="test curves by world" src="data:image/png;base64,{data}">'
        return f"{image}<table><tr>{cells}</tr>{lines}</table>"
