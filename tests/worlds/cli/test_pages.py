"""What a page or a card shows cannot become markup."""

import pytest
from markupsafe import Markup

from worlds.cli.drawing import BLUE, new_figure, style, to_svg
from worlds.cli.pages import escape_markdown, inline_svg


@pytest.mark.parametrize(
    "value, expected",
    [
        ("cat", "cat"),
        (7, "7"),
        ("a|b", r"a\|b"),
        ("<b>", "&lt;b>"),
        ("a\n# b", "a # b"),
        ("[x](y)", r"\[x\](y)"),
        ("`x`", r"\`x\`"),
        (Markup("<b>"), "<b>"),
    ],
)
def test_a_value_in_markdown_is_text_on_one_line(value, expected):
    assert escape_markdown(value) == expected


def test_a_figure_in_a_page_follows_the_theme_and_has_ids_of_its_own():
    with style():
        figure, (ax,), _ = new_figure(1)
        ax.plot([0, 1], color=BLUE)
        ax.set_title("<script> $\\frac{")
        svg = to_svg(figure)
    page = inline_svg(svg, "f7")
    assert "<script" not in page
    assert BLUE not in page
    assert f"var(--c{BLUE[1:]})" in page
    assert page.count('id="') == page.count('id="f7-') > 0
    assert page.startswith("<svg")


def test_panels_stack_where_the_style_is_narrow():
    with style(4.0):
        figure, axes, strips = new_figure(3, strip=0.4)
    columns = {ax.get_subplotspec().colspan.start for ax in (*axes, *strips)}
    assert columns == {0}
    assert (len(axes), len(strips), figure.get_figwidth()) == (3, 3, 4.0)
    with style():
        figure, axes, _ = new_figure(3)
    assert {ax.get_subplotspec().rowspan.start for ax in axes} == {0}
