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
from typing import Any, Final

from worlds.experiments.spec import Experiment
from worlds.report.collect import (
    Library,
    automatic,
    collect,
    mixed_folders,
    read_library,
    usable,
)
from worlds.report.figures import draw
from worlds.report.measure import judge, measure
from worlds.report.page import Entry, html, inline_svg
from worlds.report.plots import COLUMNS, Drawn, style
from worlds.report.sentences import sentence
from worlds.runtime.files import atomic_write, write_json

DPI: Final = 160
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
    """The report of all runs below `roots`; `tolerance` is for runs that belong to no experiment.
    ValueError where there is nothing, or `only` names no experiment.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, got {tolerance}")
    library = read_library(roots)
    experiments, rest = _experiments(library, tolerance, only)
    again = f"worlds-report {' '.join(str(root) for root in roots)} --out {out} --only"
    experiments = [
        replace(experiment, command=experiment.command or f"{again} {experiment.name}")
        for experiment in experiments
    ]
    entries = []
    for done, experiment in enumerate(experiments):
        on_figure(done, len(experiments), experiment.name)
        entries.append(_entry(experiment, library, out))
    problems = (*library.problems, *mixed_folders(rest))
    names = ", ".join(str(root) for root in roots)
    page = html("Real World and Ideal World", _facts(library, names), problems, entries)
    with atomic_write(out / "index.html") as stream:
        stream.write(page.encode())
    return Written(out / "index.html", tuple(entries), problems)


def _experiments(
    library: Library, tolerance: float, only: Sequence[str]
) -> tuple[list[Experiment], list[Any]]:
    """The experiments to report, and the runs that belong to none of the library's."""
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


def _entry(experiment: Experiment, library: Library, out: Path) -> Entry:
    """Measure and draw one experiment, and write its files; without a figure where none can be."""
    found = collect(experiment, library.runs)
    missing = [text for group in found for text in group.missing]
    measured, svg = [], None
    try:
        measured = measure(experiment, found)
        drawn = draw(experiment, measured)
        told = f"{sentence(experiment, measured)} {drawn.remark}".strip()
        svg = inline_svg(_write_figure(drawn, experiment.name, out), experiment.name, told)
    except ValueError as error:
        told = f"Not drawn: {error}."
    verdict = judge(experiment, measured)
    entry = Entry(experiment, measured, verdict, told, svg, missing)
    if svg is not None:
        _write_points(entry, drawn, out)
    return entry


def _write_figure(drawn: Drawn, name: str, out: Path) -> str:
    """PNG and SVG; the SVG's text."""
    text = io.StringIO()
    with style():
        with atomic_write(out / "figures" / f"{name}.png") as stream:
            drawn.figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
        drawn.figure.set_layout_engine("none")  # it has been laid out
        drawn.figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    with atomic_write(out / "figures" / f"{name}.svg") as stream:
        stream.write(text.getvalue().encode())
    return text.getvalue()


def _write_points(entry: Entry, drawn: Drawn, out: Path) -> None:
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
        "groups": [{"label": one.label, "values": dict(one.values)} for one in entry.measured],
        "points": drawn.points,
    }
    write_json(out / "points" / f"{name}.json", document)


def _facts(library: Library, root: str) -> dict[str, str]:
    """What stands below the title."""
    runs = library.runs
    descriptions = [run.description for run in runs]
    finished = sum(map(usable, runs))
    versions = {f"{k} {v}" for d in descriptions for k, v in (d.get("versions") or {}).items()}
    data = {str((d.get("data") or {}).get("name")) for d in descriptions}
    seconds = sum((run.summary or {}).get("seconds") or 0 for run in runs)
    facts = {
        "Runs": f"{finished:,} finished of {len(runs):,} found in {root}",
        "Networks": ", ".join(sorted({run.config.arch for run in runs})),
        "Data": ", ".join(sorted(data)),
        "Devices": ", ".join(sorted({str(d.get("device")) for d in descriptions})),
        "Versions": ", ".join(sorted(versions)),
    }
    if seconds:
        facts["Training"] = f"{seconds / 3600:,.1f} hours in all, evaluation not counted"
    return {name: text for name, text in facts.items() if text}
