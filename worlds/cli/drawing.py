"""The look of every figure: one palette, one matplotlib style, one legend below all panels.

    with style():
        figure, axes = new_figure(3)

Colors are Okabe and Ito's, which color-blind readers tell apart; an order (of n) has a scale whose
lightness rises. Every color stands in THEME beside the one it has on dark paper, so a page can swap
them in the finished SVG.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, FAINT, GRID, WASH = "#ffffff", "#1b1d22", "#666b74", "#e2e4e8", "#eef0f3"
BLUE, RED, GRAY = "#0072b2", "#d55e00", "#9198a3"
COLORS: Final = (BLUE, RED, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a6a00", "#5a4fa2")
ORDERED: Final = ("#bddf26", "#6ccd5a", "#29af7f", "#1f8e8c", "#2c6e8e", "#3d4b8a", "#45085b")
_ORDERED_DARK = ("#31688e", "#25848e", "#1fa088", "#3bbb75", "#75d054", "#b5de2b", "#f1e51d")

# Each color of a figure on white paper, and the color of the same thing on dark paper.
THEME: Final[dict[str, str]] = {
    PAPER: "#17191d",
    INK: "#e9e7e2",
    FAINT: "#a4a8b0",
    GRID: "#33373e",
    WASH: "#24272d",
    BLUE: "#58b5ea",
    RED: "#f5934a",
    GRAY: "#7d8490",
    "#009e73": "#3fd0a5",
    "#cc79a7": "#eba6cb",
    "#e69f00": "#ffc84d",
    "#56b4e9": "#a8dcff",
    "#7a6a00": "#cfc06a",
    "#5a4fa2": "#aaa0ee",
    **dict(zip(ORDERED, _ORDERED_DARK, strict=True)),
}

WIDE: Final = 11.6  # inches: the column of a page
NARROW: Final = 4.05  # inches: the column of a phone, where panels stack
PANEL: Final = (3.5, 2.75)  # inches


@contextmanager
def style(width: float = WIDE) -> Iterator[None]:
    """Apply the look of figures that are at most `width` inches wide.

    SVG text stays text, equal figures are equal bytes, and a `$` in a name is a `$`.
    """
    import matplotlib

    settings: dict[str, Any] = {
        "figure.figsize": (width, width),
        "font.size": 11 if width > NARROW else 10,
        "axes.titlesize": "large",
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlecolor": INK,
        "axes.labelsize": "medium",
        "axes.labelcolor": FAINT,
        "axes.edgecolor": FAINT,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "text.color": INK,
        "text.parse_math": False,
        "legend.frameon": False,
        "legend.fontsize": "medium",
        "lines.linewidth": 2.0,
        "lines.solid_capstyle": "round",
        "figure.facecolor": PAPER,
        "axes.facecolor": "none",
        "svg.fonttype": "none",
        "svg.hashsalt": "worlds",
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(
    panels: int,
    columns: int = 3,
    size: tuple[float, float] = PANEL,
    strip: float = 0.0,
    **shared: Any,
) -> tuple["Figure", list["Axes"], list["Axes"]]:
    """Return a figure, its `panels` panels, and a strip below each where `strip` is its height.

    Panels of `size` inches stand in rows of at most `columns`, and of no more than the style's
    width has room for; a strip's height is a share of its panel's.
    """
    import matplotlib
    from matplotlib.figure import Figure

    # As many columns as fit; a panel that is too wide for the style alone is narrowed.
    widest = float(matplotlib.rcParams["figure.figsize"][0])
    columns = max(1, min(columns, panels, int(widest // size[0])))
    rows = -(-panels // columns)
    width = min(columns * size[0], widest)
    height = rows * size[1] * (1 + strip)
    figure = Figure(figsize=(max(width, min(5.5, widest)), height + 0.45), layout="constrained")
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.set(w_pad=0.07)  # type: ignore[call-arg]
    lines = 2 if strip else 1
    heights = ([1.0, strip] if strip else [1.0]) * rows
    grid = figure.subplots(lines * rows, columns, squeeze=False, height_ratios=heights, **shared)
    above, below = list(grid[::lines].flat), list(grid[1::2].flat) if strip else []
    for empty in (*above[panels:], *below[panels:]):
        empty.remove()
    return figure, above[:panels], below[:panels]


def legend(figure: "Figure", entries: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Draw one legend below all panels: (text, properties of its line or mark)."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=text, **line) for text, line in entries]
    longest = 0.75 + 0.095 * max((len(text) for text, _ in entries), default=0)  # inches, about
    columns = max(1, int(figure.get_figwidth() / longest))
    rows = -(-len(handles) // columns)
    # A figure has room for two rows; more take nothing from the panels.
    figure.set_figheight(figure.get_figheight() + 0.23 * max(0, rows - 2))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=-(-len(handles) // max(rows, 1)),
        handlelength=2.4,
        columnspacing=1.2,
    )


def patch(color: str) -> dict[str, Any]:
    """Return the properties of a bar or a band in a legend."""
    return {"color": color, "linewidth": 8, "solid_capstyle": "butt"}


def to_svg(figure: "Figure") -> str:
    """Return a figure as the text of an SVG file, without a date. Call it within `style`."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
