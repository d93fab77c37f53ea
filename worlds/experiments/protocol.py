"""The protocol that the paper's experiments share, and groups of runs made of a config.

    pair("ResNet18", TrainConfig("preresnet18"), scope)    # both worlds, all trials, in the scale

TrainConfig's defaults are the main protocol: 39,000 steps of 128, SGD at 0.1 without momentum,
cosine to 0 in 100 units, crop and flip, n = 50,000. At paper scale train metrics, and with them T0,
are read from all n samples with fresh crops at each log point, as the released code does;
`--cheap-train-error` reads the first 10,000 under one fixed crop each.

In the Ideal World n decides nothing (unless it is disjoint), nor does how a training set is
measured or when a Real World stops. `ideal_of` sets those fields to their defaults, so that all
Real Worlds that differ in them alone share one Ideal run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from worlds.experiments.registry import Scope
from worlds.experiments.scales import scaled
from worlds.experiments.spec import Group
from worlds.training.config import REAL_ONLY, RUN, TrainConfig
from worlds.training.objectives import PROBE_DECAY

RESNET18: Final = "preresnet18"  # the paper's ResNets are pre-activation; so are those of its code
# The ten networks of figure 2a, named as in the paper. The momentum of all but figures 1, 3, 6, 16
# and 18 is not stated; the published sweep has 0.
TEN: Final = {
    "ResNet18": RESNET18,
    "ResNet34": "preresnet34",
    "VGG16": "vgg16",
    "VGG11-bn": "vgg11_bn",
    "Myrtle5": "myrtle5",
    "DenseNet40-32": "densenet40_32",
    "DenseNet40-12": "densenet40_12",
    "AlexNet": "alexnet",
    "MLP[3x2048]": "mlp_3x2048",
    "MLP[3x128]": "mlp_3x128",
}
# Of figures 1, 6, 8 and 16.
INTRODUCTION: Final = {
    "ResNet18": TrainConfig(RESNET18, momentum=0.9),
    "MLP[5x2048]": TrainConfig("mlp_5x2048", momentum=0.9),
    "ViT-B/4": TrainConfig("vit_b4", learning_rate=0.01, momentum=0.9, weight_decay=1e-4),
}
AUGMENTATIONS: Final[dict[str, str | None]] = {"crop+flip": "crop+flip", "none": None}


def ideal_of(config: TrainConfig) -> TrainConfig:
    """Return the Ideal World of a Real one, shared by all that it does not depend on."""
    # Without a tie to its Real World, n decides nothing.
    plain = TrainConfig(config.arch)
    names = [name for name in REAL_ONLY if name != "n" or not config.tied]
    return replace(config, world="ideal", **{name: getattr(plain, name) for name in names})


def over_trials(config: TrainConfig, scope: Scope) -> tuple[TrainConfig, ...]:
    """Return the runs of a paper's config at the scope's scale, one a trial."""
    # Scaled, then read as asked, then in the precision asked for.
    config = _measured(scaled(config, scope.scale, scope.image_size), scope)
    config = replace(config, precision=scope.precision or config.precision)
    return tuple(replace(config, trial=trial) for trial in scope.trials)


def _measured(config: TrainConfig, scope: Scope) -> TrainConfig:
    """Return the config as read; at paper scale T0 is of all n samples under fresh crops."""
    if scope.whole_test:
        config = replace(config, test_eval=None)
    own = config.train_eval != TrainConfig(config.arch).train_eval  # a recipe's own reading
    if config.world == "ideal" or scope.scale != "paper" or scope.cheap or own:
        return config
    return replace(config, train_eval=None, fresh_crops=config.augment is not None)


def pair(label: str, config: TrainConfig, scope: Scope, **fields: Any) -> Group:
    """Return the group of both worlds of a paper's config."""
    return Group(label, over_trials(config, scope), over_trials(ideal_of(config), scope), **fields)


def sizes(
    config: TrainConfig,
    each: Sequence[int],
    scope: Scope,
    ideal: TrainConfig | None = None,
    prefix: str = "",
    panel: str | None = None,
) -> list[Group]:
    """Return a group of Real Worlds for each n, all against one Ideal World, and on a panel."""
    shared = over_trials(ideal_of(ideal or config), scope)
    groups = []
    for n in each:
        runs = over_trials(replace(config, n=n), scope)
        size = f"n = {runs[0].n:,}"  # at the scope's scale
        series = size if panel is not None else None
        groups.append(Group(prefix + size, runs, shared, panel=panel, series=series))
    return groups


def pairs(configs: Mapping[str, TrainConfig]) -> Callable[[Scope], list[Group]]:
    """Return what makes a group of both worlds of each config, under its label."""
    return lambda scope: [pair(label, config, scope) for label, config in configs.items()]


def reals(label: str, configs: Sequence[TrainConfig], scope: Scope, **fields: Any) -> Group:
    """Return a group of Real Worlds alone."""
    runs = tuple(run for config in configs for run in over_trials(config, scope))
    return Group(label, runs, **fields)


def ideals(label: str, config: TrainConfig, scope: Scope, **fields: Any) -> Group:
    return Group(label, ideal=over_trials(ideal_of(config), scope), **fields)


def probes(
    first: Sequence[TrainConfig], noise: str | None = None, **fields: Any
) -> tuple[TrainConfig, ...]:
    """Return a simple classifier of n labeled samples on the representation of each run."""
    # One step that fits a new head, on labels and images as they are.
    fit: dict[str, Any] = {"frozen": True, "optimizer": "logistic", "weight_decay": PROBE_DECAY}
    fit |= {"steps": 1, "unit": 1, "log": 1, "schedule": "constant", "momentum": 0.0}
    fit |= {"objective": "labels", "world": "real", "disjoint": False, "augment": None}
    fit |= {"train_eval": None, "label_noise": noise, **fields}
    began = [replace(run, initial=RUN + run.fingerprint(), **fit) for run in first]
    return tuple(replace(run, batch_size=run.n) for run in began)
