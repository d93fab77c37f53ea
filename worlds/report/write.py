"""Write a report: the page, its figures as PNG and SVG, its points as CSV and JSON.

write_report([Path("runs")], Path("report"))

DIR/index.html            needs nothing else
DIR/figures/NAME.png, .svg
DIR/points/NAME.csv, .json
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from worlds.cli.drawing import NARROW, WIDE, style, to_svg
from worlds.cli.pages import inline_svg
from worlds.experiments.spec import Experiment
from worlds.report.collect import (
    Library,
    automatic,
    collect,
    exclusion_reason,
    mixed_folders,
    read_library,
)
from worlds.report.figures import draw
from worlds.report.measure import judge, measure
from worlds.report.page import Entry, make_page
from worlds.report.plots import COLUMNS, Drawn
from worlds.report.sentences import sentence
from worlds.runtime.files import atomic_write, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI: Final = 160  # of the PNG
TOLERANCE: Final = 0.03  # the paper's figure 2b: most random networks lie within 3 % of y = x


@dataclass(frozen=True)
class Written:
    page: Path
    entries: tuple[Entry, ...]
    problems: tuple[str, ...]


def write_report(
    roots: Sequence[Path],
    out: Path,
    *,
    tolerance: float = TOLERANCE,
    only: Sequence[str] = (),
    on_figure: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> Written:
    """Write the report of all runs below `roots`; `tolerance` is for runs that belong to no
    experiment. Raises ValueError if there is nothing, or `only` names no experiment.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, got {tolerance}")
    library = read_library(roots)
    # The experiments of the library, then those made of the other runs.
    experiments, rest = _experiments(library, tolerance, only)
    again = f"worlds-report {' '.join(str(root) for root in roots)} --out {out} --only"
    experiments = [
        replace(experiment, command=experiment.command or f"{again} {experiment.name}")
        for experiment in experiments
    ]
    entries = []
    for done, experiment in enumerate(experiments):
        on_figure(done, len(experiments), experiment.name)
        entries.append(_entry(experiment, library, out, f"f{done}"))
    # The page is written last, when all that it links to is there.
    problems = (*library.problems, *mixed_folders(rest))
    names = ", ".join(str(root) for root in roots)
    page = make_page("Real World and Ideal World", _facts(library, names), problems, entries)
    with atomic_write(out / "index.html") as stream:
        stream.write(page.encode())
    return Written(out / "index.html", tuple(entries), problems)


def _experiments(
    library: Library, tolerance: float, only: Sequence[str]
) -> tuple[list[Experiment], list[Any]]:
    """Return the experiments to report, and the runs that belong to none of the library's."""
    # Runs of an experiment are drawn by it alone.
    claimed = {
        config.fingerprint()
        for experiment in library.experiments
        for group in experiment.groups
        for config in (*group.real, *group.ideal)
    }
    rest = [run for run in library.runs if run.config.fingerprint() not in claimed]
    experiments = [*library.experiments, *automatic(rest, tolerance)]
    unknown = set(only) - {experiment.name for experiment in experiments}
    if unknown:
        known = ", ".join(experiment.name for experiment in experiments)
        raise ValueError(f"no experiment {', '.join(sorted(unknown))} here; there are: {known}")
    return [e for e in experiments if not only or e.name in only], rest


def _entry(experiment: Experiment, library: Library, out: Path, prefix: str) -> Entry:
    """Measure and draw one experiment, and write its files; without a figure where none can be."""
    found = collect(experiment, library.runs)
    missing = [text for group in found for text in group.missing]
    duplicates = [text for group in found for text in group.duplicates]
    measured, svgs = [], []
    try:
        measured = measure(experiment, found)
        # A figure for phones, one for screens and files; then the sentence below it.
        with style(NARROW):
            narrow = to_svg(draw(experiment, measured).figure)
        with style(WIDE):
            drawn = draw(experiment, measured)
            wide = _write_figure(drawn.figure, experiment.name, out)
        told = f"{sentence(experiment, measured)} {drawn.remark}".strip()
        svgs = [inline_svg(wide, prefix), inline_svg(narrow, f"{prefix}n")]
    except ValueError as error:
        told = f"Not drawn: {error}."
    verdict = judge(experiment, measured)
    entry = Entry(experiment, measured, verdict, told, svgs, missing, duplicates)
    if svgs:
        _write_points(entry, drawn, out)
    return entry


def _write_figure(figure: "Figure", name: str, out: Path) -> str:
    """Write the PNG and the SVG; return the SVG's text."""
    with atomic_write(out / "figures" / f"{name}.png") as stream:
        figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    figure.set_layout_engine("none")  # it has been laid out
    text = to_svg(figure)
    with atomic_write(out / "figures" / f"{name}.svg") as stream:
        stream.write(text.encode())
    return text


def _write_points(entry: Entry, drawn: Drawn, out: Path) -> None:
    # Every point as CSV, and with what was judged as JSON.
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, restval="")
    writer.writeheader()
    writer.writerows(drawn.points)
    name = entry.experiment.name
    with atomic_write(out / "points" / f"{name}.csv") as stream:
        stream.write(table.getvalue().encode())
    document = {
        "experiment": entry.experiment.to_json(),
        "measured": entry.sentence,
        "verdict": {"status": entry.verdict.status, "checks": list(entry.verdict.lines)},
        "missing": list(entry.missing),
        "duplicates": list(entry.duplicates),
        "groups": [{"label": one.label, "values": dict(one.values)} for one in entry.measured],
        "points": drawn.points,
    }
    write_json(out / "points" / f"{name}.json", document)


def _facts(library: Library, root: str) -> dict[str, str]:
    """Return the facts below the title."""
    # What the runs say of themselves.
    runs = library.runs
    descriptions = [run.description for run in runs]
    finished = sum(exclusion_reason(run) is None for run in runs)
    versions = {f"{k} {v}" for d in descriptions for k, v in d.versions.items()}
    data = {d.data.name for d in descriptions}
    seconds = sum((run.summary and run.summary.seconds) or 0 for run in runs)
    facts = {
        "Runs": f"{finished:,} finished of {len(runs):,} found in {root}",
        "Networks": ", ".join(sorted({run.config.arch for run in runs})),
        "Data": ", ".join(sorted(data)),
        "Devices": ", ".join(sorted({d.device for d in descriptions})),
        "Versions": ", ".join(sorted(versions)),
    }
    if seconds:
        facts["Training"] = f"{seconds / 3600:,.1f} hours in all, evaluation not counted"
    return {name: text for name, text in facts.items() if text}
