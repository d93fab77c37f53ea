"""Figure 7 (Appendix A): linear regression where one Real World is far from its Ideal, one near.

    worlds-experiment run fig7

Needs no data and a few seconds. Under each reading of the tail variance (0.1 as printed; 0.01, a
standard deviation of 0.1, as the prose reads) case A learns <b*, x> from 20 samples and case B its
sign from 100. The Ideal World is a closed form and has no trials.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from worlds.experiments.linear_regression import Case, config_of, toys
from worlds.experiments.registry import Recipe, Scope
from worlds.experiments.spec import Check, Group

# The largest gap, a mean of 20 seeds by an independent program.
LARGEST: Final[Mapping[tuple[Case, float], float]] = {
    ("A", 0.1): 0.73,
    ("B", 0.1): 0.22,
    ("A", 0.01): 0.25,
    ("B", 0.01): 0.07,
}


def _label(case: Case, tail_variance: float) -> str:
    return f"{case}, tail {tail_variance:g}"


def _groups(scope: Scope) -> Iterable[Group]:
    for toy in toys():
        real = tuple(config_of(toy, "real", trial=trial) for trial in scope.trials)
        yield Group(_label(toy.case, toy.tail_variance), real, (config_of(toy, "ideal"),))


RECIPES = (
    Recipe(
        "fig7",
        "The toy example",
        "curves",
        _groups,
        "Case A has a large bootstrap error, case B a small one, though both have fewer "
        "samples than dimensions.",
        tuple(
            Check("largest", "within", expected, tolerance=0.06, groups=(_label(*toy),))
            for toy, expected in LARGEST.items()
        ),
        text="Expected: the largest gap is 0.73 (A) and 0.22 (B) with the printed tail, 0.25 and "
        "0.07 with the other: B's is small in both, and only the second is "
        '"essentially 10-dimensional".',
        data="none",
        trials=20,
        metric="loss",
        note="The test loss is the population risk, exactly.",
    ),
)
