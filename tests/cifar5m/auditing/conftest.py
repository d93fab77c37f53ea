"""Audits of the same small sets draw the same charts: each is drawn once."""

from functools import cache

import pytest

from cifar5m.auditing import charts
from worlds.cli import pages

_known: dict[str, str] = {}


def _drawn_once(draw):
    def drawn(*arguments):
        key = f"{draw.__name__} {arguments}"
        if key not in _known:
            _known[key] = draw(*arguments)
        return _known[key]

    return drawn


@pytest.fixture(scope="module", autouse=True)
def charts_are_drawn_once():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_confidence", "draw_ratios", "draw_reliability"):
            patch.setattr(charts, name, _drawn_once(getattr(charts, name)))
        patch.setattr(pages, "_environment", cache(pages._environment))
        yield
