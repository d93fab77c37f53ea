"""Tables 1 and 2: networks trained on CIFAR-10 and on CIFAR-5m, tested on both.

    worlds-experiment run table1 table2 --data CIFAR5M --cifar10 CIFAR10

n = 50,000 of either (all of CIFAR-10), crop and flip; five trials. The paper gives neither
optimizer nor length: the main protocol's are used.

At the paper's scale: 20 runs, 780,000 steps, about 8 GPU-hours.

    published test error    on CIFAR-10   on CIFAR-5m
    ResNet18, CIFAR-10      0.050         0.096
    ResNet18, CIFAR-5m      0.110         0.106
    WRN28-10 + cutout, CIFAR-10   0.032   0.091
    WRN28-10 + cutout, CIFAR-5m   0.088   0.097
"""

from worlds.config import TrainConfig
from worlds.experiments.protocol import RESNET18, reals
from worlds.experiments.registry import Scope, register
from worlds.report.experiment import Check, Experiment

CLOSE = 0.02  # of the published errors
NOTE = "Both rows are tested on CIFAR-5m's test split and on CIFAR-10's test set."


def _table(
    name: str,
    title: str,
    config: TrainConfig,
    published: dict[str, tuple[float, float]],
    scope: Scope,
) -> Experiment:
    """A row each training set; `published` has its errors on CIFAR-10 and on CIFAR-5m."""
    checks = []
    for label, errors in published.items():
        for quantity, value in zip(("cifar10_error", "test_error"), errors, strict=True):
            checks.append(Check(quantity, "within", value, CLOSE, (label,)))
    return Experiment(
        name,
        title,
        "table",
        (
            reals("trained on CIFAR-10", [config], scope, data="cifar10"),
            reals("trained on CIFAR-5m", [config], scope, data="cifar5m"),
        ),
        claim="CIFAR-5m is close to CIFAR-10: what is trained on one does well on the other.",
        checks=tuple(checks),
        note=NOTE,
    )


@register("cifar5m", trials=5)
def table1(scope: Scope) -> Experiment:
    """Expected: the first two rows above."""
    published = {"trained on CIFAR-10": (0.050, 0.096), "trained on CIFAR-5m": (0.110, 0.106)}
    return _table("table1", "ResNet18 between data sets", TrainConfig(RESNET18), published, scope)


@register("cifar5m", trials=5)
def table2(scope: Scope) -> Experiment:
    """Expected: the last two rows above."""
    published = {"trained on CIFAR-10": (0.032, 0.091), "trained on CIFAR-5m": (0.088, 0.097)}
    config = TrainConfig("wrn28_10", augment="crop+flip+cutout")
    return _table("table2", "WRN28-10 with cutout between data sets", config, published, scope)
