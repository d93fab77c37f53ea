"""Figures 2b and 9: 500 random networks from the DARTS cell space, a dot each.

    worlds-experiment run fig2b fig9 --data DIR

Each network is a pure function of its seed, 0 to 499: six edges, a width of 16 or 64 and 1 or 5
cells a stage. Both worlds get the same one; in the paper's code each process drew its own unless
told otherwise. Rate 0.1. The paper states no number of trials: one. At small scale there are 24
networks, at smoke scale 3.

At the paper's scale: 1,000 runs, 39,000,000 steps, about 19 GPU-hours.
"""

from worlds.config import TrainConfig
from worlds.experiments.protocol import pair
from worlds.experiments.registry import Scope, register
from worlds.models.darts import draw_setting
from worlds.report.experiment import Check, Experiment, Group

MOSTLY = 0.8  # how the paper's word is read
COUNTS = {"paper": 500, "small": 24, "smoke": 3}


def _random(scope: Scope) -> tuple[Group, ...]:
    groups = []
    for seed in range(COUNTS[scope.scale]):
        width, cells = draw_setting(seed)
        config = TrainConfig("darts", options={"seed": seed, "width": width, "cells": cells})
        series = f"width {width}, {cells} cell{'s' if cells > 1 else ''}"
        groups.append(pair(f"net {seed}", config, scope, series=series))
    return tuple(groups)


@register("cifar5m", trials=1)
def fig2b(scope: Scope) -> Experiment:
    """Expected: most dots within 3 % of y = x; 70 thousand to 5.5 million parameters."""
    return Experiment(
        "fig2b",
        "Random networks",
        "scatter",
        _random(scope),
        claim="Random networks end mostly within 3 % of each other in the two worlds.",
        checks=(Check("gap", "within", tolerance=0.03, share=MOSTLY),),
    )


@register("cifar5m", trials=1)
def fig9(scope: Scope) -> Experiment:
    """Figure 2b in error. The same runs."""
    return Experiment(
        "fig9",
        "Random networks, in error",
        "scatter",
        _random(scope),
        claim="Random networks end near each other in the two worlds, in error as in soft-error.",
        checks=(Check("gap", "within", tolerance=0.05, share=MOSTLY),),
        metric="error",
    )
