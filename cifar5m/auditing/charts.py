"""The charts of the audit's page as HTML and SVG text, coloured by the page's own style."""

from html import escape
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 220, 48, 36, 14


def class_bars(table: list[dict[str, Any]]) -> str:
    """Counts and confidence of the classes, with a bar for each."""
    most = max(row["share"] for row in table) or 1
    rows = "".join(
        f'<tr><th scope="row">{escape(row["name"])}</th>'
        f'<td class="number">{row["count"]:,}</td><td class="number">{row["share"]:.1%}</td>'
        f'<td class="number">{_percent(row["mean_confidence"])}</td>'
        f'<td style="width: 320px"><div class="bar" '
        f'style="width: {100 * row["share"] / most:.1f}%"></div></td></tr>'
        for row in table
    )
    return (
        '<div class="wide"><table><tr><th>class</th><th class="number">images</th>'
        '<th class="number">share</th><th class="number">mean confidence</th><th></th></tr>'
        f"{rows}</table></div>"
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def columns(counts: list[int], x_title: str, y_title: str) -> str:
    """A histogram over 0 to 1."""
    top, width = max(counts) or 1, (_WIDTH - _LEFT) / len(counts)
    bars = "".join(
        f'<rect x="{_LEFT + k * width + 1:.1f}" y="{_y(count / top):.1f}" width="{width - 2:.1f}" '
        f'height="{_y(0) - _y(count / top):.1f}" fill="var(--blue)"/>'
        for k, count in enumerate(counts)
    )
    return _axes(bars, x_title, y_title, top)


def lines(series: dict[str, list[int]], x_title: str) -> str:
    """Histograms over 0 to 1 as shares of their sums, one line each; at most two."""
    shares = {name: [c / (sum(counts) or 1) for c in counts] for name, counts in series.items()}
    top = max(max(values) for values in shares.values()) or 1
    parts = []
    styles = (("var(--blue)", ""), ("var(--faint)", ' stroke-dasharray="5 4"'))
    for number, ((name, values), (colour, dash)) in enumerate(
        zip(shares.items(), styles, strict=False)
    ):
        points = " ".join(
            f"{_x((k + 0.5) / len(values)):.1f},{_y(value / top):.1f}"
            for k, value in enumerate(values)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
        )
        y = _TOP + 14 + 18 * number
        parts.append(
            f'<line x1="{_LEFT + 16}" x2="{_LEFT + 46}" y1="{y - 4}" y2="{y - 4}" '
            f'stroke="{colour}" stroke-width="2"{dash}/>'
            f'<text x="{_LEFT + 52}" y="{y}">{escape(name)}</text>'
        )
    return _axes("".join(parts), x_title, "share", top)


def reliability(bins: list[dict[str, float]]) -> str:
    """Accuracy over confidence; a point's area follows its share of the images."""
    total = sum(each["count"] for each in bins)
    points = "".join(
        f'<circle cx="{_x(each["confidence"]):.1f}" cy="{_y(each["accuracy"]):.1f}" '
        f'r="{3 + 14 * (each["count"] / total) ** 0.5:.1f}" fill="var(--blue)" fill-opacity="0.7">'
        f"<title>{each['count']:,.0f} photographs</title></circle>"
        for each in bins
    )
    diagonal = (
        f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}" stroke="var(--faint)" '
        'stroke-dasharray="4 4"/>'
    )
    return _axes(diagonal + points, "confidence", "accuracy", 1)


def matrix(counts: list[list[int]], names: list[str]) -> str:
    """A matrix of counts, darker where more of the row's images are."""
    heads = "".join(f'<th class="number">{escape(name)}</th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(
            f'<td class="number" style="background: rgba(var(--shade), '
            f'{0.6 * count / (sum(row) or 1):.2f})">{count:,}</td>'
            for count in row
        )
        + "</tr>"
        for name, row in zip(names, counts, strict=True)
    )
    return f'<div class="wide"><table class="matrix"><tr><th></th>{heads}</tr>{rows}</table></div>'


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - 8)


def _y(share: float) -> float:
    return _TOP + (1 - share) * (_HEIGHT - _BOTTOM - _TOP)


def _axes(inner: str, x_title: str, y_title: str, top: float) -> str:
    ticks = "".join(
        f'<text x="{_x(share):.0f}" y="{_HEIGHT - 18}" text-anchor="middle">{share:g}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    label = f"{top:,}" if isinstance(top, int) else f"{top:.3g}"
    return (
        f'<svg viewBox="0 0 {_WIDTH + 12} {_HEIGHT}" width="{_WIDTH + 12}" role="img" '
        f'aria-label="{escape(y_title)} over {escape(x_title)}">{inner}'
        f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{_y(0)}" y2="{_y(0)}" stroke="var(--line)"/>{ticks}'
        f'<text x="{_LEFT - 6}" y="{_y(1) + 4}" text-anchor="end">{label}</text>'
        f'<text x="{_LEFT - 6}" y="{_y(0) + 4}" text-anchor="end">0</text>'
        f'<text x="{_x(0.5)}" y="{_HEIGHT - 2}" text-anchor="middle">{escape(x_title)}</text>'
        f'<text x="4" y="{_y(0.5)}" transform="rotate(-90 14 {_y(0.5)})" '
        f'text-anchor="middle">{escape(y_title)}</text></svg>'
    )
