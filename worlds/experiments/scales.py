"""From a paper's run to a smaller one: one pure function for all experiments.

    scaled(TrainConfig("preresnet18", n=5_000), "small")
    # preresnet18 of width 8, n = 500, 1,500 steps of 32 in units of 15

    paper   as published
    small   hours of CPU or minutes of GPU: a 26th of the steps, a tenth of the samples, batches of
            32, thin networks. A pool of 48,000 images feeds its Ideal World, so CIFAR-10's does.
    smoke   seconds a run, to see that everything runs: 100 steps of 32, a fiftieth of the samples,
            mostly fully connected stand-ins. It says nothing about the claims.

The number of units, and with it the shape of the schedule, stays wherever the steps allow it. What
is as short as the scale makes runs stays as it is. Learning rate, optimizer, augmentation and noise
never change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, get_args

from worlds.training.config import TrainConfig

Scale = Literal["paper", "small", "smoke"]
SCALES: Final = get_args(Scale)
Net = tuple[str, dict[str, int]]

# Networks of 2 to 19 million multiply-adds an image. A family without a width is stood in for by
# one that has; the labels keep the paper's names.
_SMALL: Final[Mapping[str, Net]] = {
    "preresnet18": ("preresnet18", {"width": 8}),
    "preresnet34": ("preresnet34", {"width": 8}),
    "vgg16": ("myrtle5", {"width": 16, "batch_norm": False}),
    "vgg11_bn": ("myrtle5", {"width": 12}),
    "myrtle5": ("myrtle5", {"width": 16}),
    "densenet40_32": ("preresnet18", {"width": 12}),
    "densenet40_12": ("preresnet18", {"width": 6}),
    "alexnet": ("alexnet", {}),
    "mlp_3x2048": ("mlp_3x1024", {}),
    "mlp_3x128": ("mlp_3x128", {}),
    "mlp_5x2048": ("mlp_5x1024", {}),
    "vit_b4": ("mlp_4x512", {}),
    "igpt_s": ("mlp_3x512", {}),
    "dconv": ("dconv", {"base": 8}),
    "dfc": ("dfc", {"base": 4}),
    "wrn28_10": ("preresnet18", {"width": 16}),
}
_SMOKE: Final[Mapping[str, Net]] = {
    "preresnet18": ("preresnet18", {"width": 2}),
    "preresnet34": ("mlp_2x48", {}),
    "vgg16": ("mlp_4x24", {}),
    "vgg11_bn": ("mlp_3x24", {}),
    "myrtle5": ("myrtle5", {"width": 2}),
    "densenet40_32": ("mlp_2x64", {}),
    "densenet40_12": ("mlp_2x40", {}),
    "alexnet": ("mlp_2x24", {}),
    "mlp_3x2048": ("mlp_3x64", {}),
    "mlp_3x128": ("mlp_3x16", {}),
    "mlp_5x2048": ("mlp_5x32", {}),
    "vit_b4": ("mlp_4x32", {}),
    "igpt_s": ("mlp_3x32", {}),
    "dconv": ("dconv", {"base": 2}),
    "dfc": ("dfc", {"base": 1}),
    "wrn28_10": ("mlp_3x40", {}),
}
# At 224 px.
_SMOKE_224: Final[Mapping[str, Net]] = {
    "mlp_3x2048": ("mlp_3x16", {}),
    "resnet18": ("resnet18", {"width": 2}),
    "resnet34": ("resnet18", {"width": 3}),
    "resnet50": ("resnet18", {"width": 4}),
    "vgg11": ("resnet18", {"width": 5}),
    "vgg16": ("resnet18", {"width": 6}),
    "densenet121": ("resnet18", {"width": 7}),
    "mobilenet_v2": ("mlp_3x8", {}),
    "resnext50_32x4d": ("mlp_3x12", {}),
    "alexnet": ("mlp_2x8", {}),
    "bagnet9": ("mlp_2x12", {}),
    "bagnet17": ("mlp_2x16", {}),
    "bagnet33": ("mlp_2x20", {}),
    "sconv9": ("mlp_1x8", {}),
    "sconv33": ("mlp_1x16", {}),
}


@dataclass(frozen=True)
class _Rule:
    """The factors by which a scale shrinks a run of the paper's length."""

    steps: int  # the paper's are divided by this
    shortest: int
    samples: int  # and its n by this
    least_samples: int
    width: int  # and the widths of random networks, which have at most so many
    cells: int  # cells a stage
    log: str | int
    test_eval: int
    train_eval: int
    networks: Mapping[str, Net] = field(repr=False)
    batch_size: int = 32


_RULES: Final[Mapping[str, _Rule]] = {
    "small": _Rule(26, 300, 10, 100, 4, 5, "spaced", 2_000, 1_000, _SMALL),
    "smoke": _Rule(390, 20, 50, 10, 16, 1, 8, 250, 100, _SMOKE),
}


def scaled(config: TrainConfig, scale: str, image_size: int = 32) -> TrainConfig:
    """Return the run at a scale. Raises ValueError for an unknown scale."""
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    if scale == "paper":
        return config
    # A run that is as short as the scale makes runs stays as it is.
    rule = _RULES[scale]
    arch, options = _network(config, rule, scale, image_size)
    if config.steps * config.batch_size <= 39_000 // rule.steps * rule.batch_size:
        return config  # it is as short as that already
    samples = rule.samples if image_size == 32 else 2 * rule.samples  # photographs are few
    steps = max(min(config.steps, rule.shortest), config.steps // rule.steps)
    # The units shrink with the steps, so their number stays.
    changed: dict[str, Any] = {
        "arch": arch,
        "options": options,
        "n": max(min(config.n, rule.least_samples), config.n // samples),
        "validation": config.validation // samples,
        "steps": steps,
        "unit": max(1, round(config.unit * steps / config.steps)),
        "batch_size": min(config.batch_size, rule.batch_size),
        "log": rule.log,
        "test_eval": rule.test_eval,
        "train_eval": rule.train_eval,
    }
    if config.reuse is not None:  # as many samples as the steps use K times
        changed["n"] = -(-steps * changed["batch_size"] // config.reuse)
    return replace(config, **changed)


def _network(config: TrainConfig, rule: _Rule, scale: str, image_size: int) -> Net:
    """Return the architecture and options that stand for the config's."""
    options: dict[str, Any] = dict(config.options)
    # Photographs keep their networks, but for seconds a run.
    if image_size == 224:
        table = _SMOKE_224 if scale == "smoke" else {}
        return (config.arch, options) if options else table.get(config.arch, (config.arch, {}))
    # Random networks are thinner, others are looked up.
    if config.arch == "darts":
        width = max(4, options["width"] // rule.width)
        return "darts", options | {"width": width, "cells": min(options["cells"], rule.cells)}
    arch, thin = rule.networks.get(config.arch, (config.arch, options))
    return arch, ({"dropout": options["dropout"]} if "dropout" in options else {}) | thin
