"""Pages from jinja2 templates; every value that they show is escaped.

    text = render("worlds.report", "report.html.j2", title="...")

templates/page.html.j2 is the frame of every HTML page, with the style sheet inside, so that a page
needs no other file. It has no script. Dark and light follow the reader's setting.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from worlds.cli.drawing import THEME

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def render(package: str, name: str, /, **values: Any) -> str:
    """Return the HTML of template `name` in the `templates` directory of `package`."""
    return _environment(package, autoescape=True).get_template(name).render(theme=THEME, **values)


def render_markdown(package: str, name: str, /, **values: Any) -> str:
    """Return the Markdown of a template; values that are no Markup cannot start HTML, a link, code
    or a table's cell.
    """
    return _environment(package, finalize=escape_markdown).get_template(name).render(**values)


def _environment(package: str, **options: Any) -> "Environment":
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("worlds.cli")]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    environment.filters["as"] = format  # {{ 1234 | as(",d") }}
    return environment


def escape_markdown(value: Any) -> Any:
    """Return the text of a value on one line, with the marks of Markdown and HTML escaped."""
    from markupsafe import Markup

    if isinstance(value, Markup):
        return value
    text = re.sub(r"([\\`|\[\]])", r"\\\1", " ".join(str(value).splitlines()))
    return text.replace("&", "&amp;").replace("<", "&lt;")


def inline_svg(svg: str, prefix: str) -> "Markup":
    """Return an SVG file as an element of a page: its colors follow the theme, and its ids begin
    with `prefix`.
    """
    from markupsafe import Markup

    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    add: Callable[[re.Match[str]], str] = lambda match: f"{match[0]}{prefix}-"  # noqa: E731
    svg = re.sub(r'\bid="|url\(#|href="#', add, svg)
    for color in THEME:
        svg = svg.replace(color, f"var(--c{color[1:]})")
    return Markup(svg)
