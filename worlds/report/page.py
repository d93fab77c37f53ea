"""The report as one HTML file that needs no other: styles, figures and numbers are in it.

It has no script. Dark and light follow the reader's setting, paper is always white.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from worlds.experiments.spec import Experiment, name_of
from worlds.report.measure import Measured, Verdict, number
from worlds.report.plots import THEME
from worlds.report.sentences import signed

STATUS = {"holds": "holds", "fails": "does not hold", "open": "open"}
SIGNED = ("gap", "generalization", "generalization_error")

TERMS = {
    "Real World": "training on n samples, used again in every epoch.",
    "Ideal World": "the same training, each sample fresh: none is used twice.",
    "soft-error": "1 minus the probability given to the true class, mean over the test set.",
    "T0": (
        "the first measured step at which the Real World's train error is at most 1 % (on "
        "augmented images, as the paper measured it). The worlds are compared at min(T0, last "
        "step); what lies behind T0 is drawn faded."
    ),
    "bootstrap error": "Real minus Ideal test error after equally many steps.",
    "bands and ranges": (
        "bands are quartiles over trials; ranges in text and tables run from the least to the "
        "greatest trial."
    ),
}


@dataclass(frozen=True)
class Entry:
    """All that the page says of one experiment. `svg` is None where nothing could be drawn."""

    experiment: Experiment
    measured: Sequence[Measured]
    verdict: Verdict
    sentence: str
    svg: str | None
    missing: Sequence[str]


def html(
    title: str, facts: Mapping[str, str], problems: Sequence[str], entries: Sequence[Entry]
) -> str:
    """The whole page. `facts` are shown below the title, by name."""
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items()
    )
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">',
        f"<style>{_styles()}</style></head><body>",
        f"<header><h1>{escape(title)}</h1><dl class=facts>{rows}</dl></header>",
        _overview(entries),
        _problems(problems),
        *(_section(entry) for entry in entries),
        _glossary(),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _styles() -> str:
    light = "".join(f"--{_key(colour)}:{colour};" for colour in THEME)
    dark = "".join(f"--{_key(colour)}:{other};" for colour, other in THEME.items())
    sheet = files("worlds.report").joinpath("style.css").read_text()
    return (
        f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{sheet}"
    )


def _key(colour: str) -> str:
    return f"c{colour[1:]}"


def inline_svg(svg: str, name: str, label: str) -> str:
    """A figure's SVG file as an element of the page: its colours follow the theme, its ids are its
    own, it is as wide as its column at most.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    for colour in THEME:
        svg = svg.replace(colour, f"var(--{_key(colour)})")
    head, rest = svg.split(">", 1)
    width = re.search(r'width="([\d.]+)pt"', head)
    points = float(width[1]) if width else 720.0
    box = re.search(r'viewBox="[^"]+"', head)
    assert box is not None
    return (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} role="img" '
        f'aria-label="{escape(label)}" style="max-width:{points * 4 / 3:.0f}px">{rest}'
    )


def _overview(entries: Sequence[Entry]) -> str:
    rows = "".join(
        f'<tr><td><a href="#{escape(e.experiment.name)}">{escape(e.experiment.title)}</a></td>'
        f"<td>{escape(e.sentence)}</td>"
        f"<td>{_chip(e.verdict.status) if e.verdict.lines else ''}</td>"
        f"<td class=n>{len(e.missing) or ''}</td></tr>"
        for e in entries
    )
    head = "<tr><th>figure</th><th>measured</th><th>claim</th><th class=n>missing runs</th></tr>"
    return f"<nav><table>{head}{rows}</table></nav>"


def _chip(status: str) -> str:
    return f'<span class="chip {status}">{STATUS[status]}</span>'


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    items = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return f"<section class=problems><h2>Found among the runs</h2><ul>{items}</ul></section>"


def _section(entry: Entry) -> str:
    experiment = entry.experiment
    name = escape(experiment.name)
    figure = entry.svg or "<p class=empty>Nothing to draw yet.</p>"
    parts = [
        f'<section id="{name}"><h2>{escape(experiment.title)} <small>{name}</small></h2>',
        f"<figure>{figure}<figcaption>{escape(entry.sentence)}",
        f" {escape(experiment.note)}" if experiment.note else "",
        "</figcaption></figure>",
        _claim(entry),
        _missing(entry.missing),
        f"<pre><code>{escape(experiment.command)}</code></pre>" if experiment.command else "",
        _numbers(entry) if entry.measured else "",
        _links(name) if entry.svg else "",
        "</section>",
    ]
    return "".join(parts)


def _claim(entry: Entry) -> str:
    """What the paper says, and whether the numbers say so too."""
    experiment, parts = entry.experiment, []
    if experiment.claim:
        parts.append(f"<dt>Claim</dt><dd>{escape(experiment.claim)}</dd>")
    if entry.verdict.lines:
        scale = experiment.scale
        small = "" if scale in (None, "paper") else f" at {escape(scale)} scale, not the paper's"
        lines = "".join(
            f"<li class={state}>{escape(text)}</li>" for text, state in entry.verdict.lines
        )
        verdict = f"{_chip(entry.verdict.status)}{small}<ul>{lines}</ul>"
        parts.append(f"<dt>Verdict</dt><dd>{verdict}</dd>")
    return f"<dl class=claim>{''.join(parts)}</dl>" if parts else ""


def _missing(missing: Sequence[str]) -> str:
    if not missing:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in missing)
    opened = " open" if len(missing) <= 6 else ""
    what = "run is" if len(missing) == 1 else "runs are"
    summary = f"{len(missing)} {what} missing; the figure is drawn from the rest"
    return f"<details class=missing{opened}><summary>{summary}</summary><ul>{items}</ul></details>"


def _numbers(entry: Entry) -> str:
    """The table of medians, with ranges where there are several trials."""
    named = (name for one in entry.measured for name, values in one.values.items() if values)
    quantities = [name for name in dict.fromkeys(named) if ":" not in name]
    if not quantities:
        return ""
    metric = entry.experiment.metric
    names = "".join(f"<th class=n>{escape(name_of(q, metric))}</th>" for q in quantities)
    rows = "".join(
        f"<tr><th>{escape(one.label)}</th>"
        f"<td class=n>{len(one.found.real)} / {len(one.found.ideal)}</td>"
        f"{''.join(_cell(one, name) for name in quantities)}</tr>"
        for one in entry.measured
    )
    return (
        "<details><summary>Numbers: medians over trials, and their range</summary><div class=wide>"
        f"<table><tr><th></th><th class=n>trials Real / Ideal</th>{names}</tr>{rows}</table></div>"
        "</details>"
    )


def _cell(one: Measured, name: str) -> str:
    value = one.get(name)
    if value is None:
        return "<td></td>"
    show = signed if name in SIGNED else number
    low, high = one.range(name)
    span = f"<small>{show(low)} to {show(high)}</small>" if low != high else ""
    return f"<td class=n>{show(value)}{span}</td>"


def _links(name: str) -> str:
    places = {
        "PNG": f"figures/{name}.png",
        "SVG": f"figures/{name}.svg",
        "points as CSV": f"points/{name}.csv",
        "as JSON": f"points/{name}.json",
    }
    links = " · ".join(f'<a href="{place}">{text}</a>' for text, place in places.items())
    return f"<p class=links>Beside this page: {links}</p>"


def _glossary() -> str:
    rows = "".join(
        f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in TERMS.items()
    )
    return f"<footer><h2>Terms</h2><dl class=terms>{rows}</dl></footer>"
