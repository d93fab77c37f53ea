"""The options of worlds-train, and the config that they make."""

import argparse
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

from worlds.cli.parser import Parser
from worlds.loaders.normalize import NAMES
from worlds.loaders.samplers import Remainder
from worlds.training.config import (
    Grid,
    Loss,
    Objective,
    Optimizer,
    Precision,
    StopRule,
    TrainConfig,
)
from worlds.training.schedules import KINDS, steps_of_epochs

_CHOICES: dict[str, tuple[str, ...]] = {
    "objective": get_args(Objective),
    "schedule": KINDS,
    "loss": get_args(Loss),
    "precision": get_args(Precision),
    "stop": get_args(StopRule),
    "normalize": NAMES,
    "remainder": get_args(Remainder),
}
_DEFAULTS: dict[str, Any] = {
    f.name: f.default_factory() if f.default_factory is not MISSING else f.default
    for f in fields(TrainConfig)
}
# field of the config, type, what it is (with its range)
_GROUPS: dict[str, tuple[tuple[str, type, str], ...]] = {
    "worlds": (
        ("n", int, "samples of the Real World, 1 to the pool's size"),
        ("batch_size", int, "1 or more"),
        ("passes", int, "that Ideal may make over the pool; above 1 it is approximate"),
        ("remainder", str, "of an epoch; the released code's is drop"),
        ("augment", str, "none, flip, crop+flip, crop+flip+cutout or cutout"),
        ("mixup", float, "alpha of Beta(alpha, alpha), 0 or more; 0: no mixup"),
        ("normalize", str, "range of pixels"),
        ("label_noise", str, "symmetric:RATE, uniform:RATE or pairs:RATE:3>5, RATE 0 to 1"),
        ("seed", int, "0 or more, below 2^64"),
        ("init_seed", int, "of the weights in every trial (default: the seed, with the trial)"),
        ("data_seed", int, "of the subset and its label noise (default: as --init-seed)"),
        ("order_seed", int, "of the order of the samples (default: as --init-seed)"),
        ("augment_seed", int, "of crops, flips and mixup (default: as --init-seed)"),
    ),
    "optimization": (
        ("objective", str, "simclr, rotation: without labels, a linear probe on n is measured"),
        (
            "optimizer",
            str,
            f"{', '.join(get_args(Optimizer))}, or package.module:Class; logistic fits the head of "
            "--frozen in one step",
        ),
        ("learning_rate", float, "above 0"),
        ("momentum", float, "0 to below 1; the paper's figure 1 has 0.9"),
        ("weight_decay", float, "0 or more"),
        ("schedule", str, ""),
        ("factor", float, "of 3step and steps, above 0, at most 1"),
        ("warmup", int, "steps of linear warm-up, 0 to STEPS"),
        ("loss", str, ""),
        ("precision", str, ""),
        ("ema", float, "decay a step of averaged weights, 0 to below 1; 0: none"),
    ),
    "measurement": (
        ("stop", str, "end a Real run early, and its Ideal twin with it (default: never)"),
        ("threshold", float, "train error of T0, 0 to below 1"),
        (
            "patience",
            int,
            "log points without a lower test soft-error, with --stop patience; with "
            "--validation, epochs without a lower validation error",
        ),
        ("min_improvement", float, "of the validation error, 0 to below 1"),
        ("validation", int, "samples beside the n to measure on, 0 or more"),
        ("compared", int, "test samples whose ECE is in the rows, 0 or more; logits are kept"),
        ("clean_every", int, "take unaugmented train metrics every so many log points, 1 or more"),
    ),
}


def make_parser(description: str | None) -> Parser:
    parse = Parser("worlds-train", description)
    parse.add_argument(
        "--arch",
        "--model",
        required=True,
        metavar="NAME",
        help="a name that worlds-models lists, package.module:function, or timm:resnet18",
    )
    parse.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the architecture, such as width=16, parametrization=mup (repeatable)",
    )
    parse.add_argument(
        "--initial", metavar="PATH", help="begin from a run folder's weights or a file"
    )
    parse.add_argument("--frozen", action="store_true", help="train only a new head on --initial")
    parse.add_argument("--data", required=True, metavar="STORE", help="folder or hf://datasets/...")
    parse.add_argument("--test", metavar="STORE", help="measure on the test split of another store")
    parse.add_argument("--cifar10", metavar="STORE", help="measure on CIFAR-10's test set as well")
    parse.add_argument("--out", required=True, type=Path, metavar="DIR", help="the runs' folder")
    parse.add_argument(
        "--world", choices=("real", "ideal", "both"), default="both", help="default: both"
    )
    parse.add_argument(
        "--trials", type=int, default=1, help="trials 0 to TRIALS - 1, 1 or more (default: 1)"
    )
    parse.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: what is here)")
    parse.add_argument("--compile", action="store_true", help="the network of a GPU's steps")
    parse.add_argument("--dry-run", action="store_true", help="print config and cost, then stop")
    parse.add_argument(
        "--checkpoint-seconds", type=float, default=60.0, help="0: after each step (default: 60)"
    )
    parse.add_argument(
        "--keep-checkpoints",
        default="",
        metavar="SERIES",
        help="weights to keep: log:K (a decade), every:K updates, or updates such as 1,10,100",
    )
    parse.add_argument(
        "--keep-predictions",
        type=int,
        default=0,
        metavar="N",
        help="logits of N test images at each log point, 0 or more (default: 0)",
    )
    parse.add_argument("--tensorboard", action="store_true", help="mirror rows to TensorBoard")
    parse.add_argument("--wandb", metavar="PROJECT", help="mirror rows to Weights & Biases")
    parse.add_argument("--quiet", action="store_true", help="no progress bars")
    groups = {title: parse.add_argument_group(title) for title in _GROUPS}
    for title, entries in _GROUPS.items():
        for name, kind, text in entries:
            _add_field(groups[title], name, kind, text)
    worlds, optimization = groups["worlds"], groups["optimization"]
    worlds.add_argument("--disjoint", action="store_true", help="Ideal leaves Real's n samples out")
    length = worlds.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="1 or more (default: 39000)")
    length.add_argument("--epochs", type=int, help="instead of steps: passes over the n samples")
    optimization.add_argument(
        "--unit",
        type=int,
        help="steps between changes of the rate (default: 390; an epoch's "
        "with --epochs; the paper's code never changes it within)",
    )
    optimization.add_argument(
        "--betas", type=float, nargs=2, default=_DEFAULTS["betas"], help="of adam, adamw and muon"
    )
    for name, text in (
        ("--test-noise", "put the label noise on test labels as well"),
        ("--fresh-crops", "draw fresh crops for the train error at each log point, as the paper"),
    ):
        groups["measurement"].add_argument(name, action="store_true", help=text)
    optimization.add_argument(
        "--no-sync-batch-norm",
        dest="sync_batch_norm",
        action="store_false",
        help="under torchrun, batch norm over each process's share of a batch",
    )
    optimization.add_argument("--drops", default="", help="units of schedule steps, such as 60,80")
    for name, text in (
        ("--log", f"{', '.join(get_args(Grid))} or each so many steps"),
        ("--test-eval", "the first so many test images; 0: all"),
        ("--train-eval", "at most so many of the n samples, always the same; 0: all"),
    ):
        kind = str if name == "--log" else int
        text += " (default: chosen so that measuring is at most a quarter of the cost)"
        groups["measurement"].add_argument(name, type=kind, help=text)
    return parse


def _add_field(group: Any, name: str, kind: type, text: str) -> None:
    default, choices = _DEFAULTS[name], _CHOICES.get(name)
    said = "none" if default is None else default
    suffix = "" if "default:" in text else f" (default: {said})"
    group.add_argument(
        f"--{name.replace('_', '-')}",
        type=kind,
        default=default,
        choices=choices,
        help=f"{text}{suffix}".strip(),
    )


def config_of(args: argparse.Namespace) -> TrainConfig:
    """The Real World's config of trial 0; ValueError names an option that cannot be."""
    values = {name: getattr(args, name) for group in _GROUPS.values() for name, _, _ in group}
    values["augment"] = None if args.augment in (None, "none") else args.augment
    if min(args.n, args.batch_size) < 1:
        raise ValueError(
            f"--n and --batch-size must be 1 or more, got {args.n} and {args.batch_size}"
        )
    steps, unit = args.steps, args.unit
    if args.epochs is not None:
        steps = steps_of_epochs(args.n, args.batch_size, args.epochs)
        unit = unit or max(1, args.n // args.batch_size)
    return TrainConfig(
        args.arch,
        options=dict(_option(text) for text in args.option),
        initial=args.initial,
        frozen=args.frozen,
        disjoint=args.disjoint,
        betas=tuple(args.betas),
        test_noise=args.test_noise,
        fresh_crops=args.fresh_crops,
        sync_batch_norm=args.sync_batch_norm,
        steps=_DEFAULTS["steps"] if steps is None else steps,
        unit=_DEFAULTS["unit"] if unit is None else unit,
        drops=_units(args.drops),
        **chosen_measuring(args),
        **values,
    )


def chosen_measuring(args: argparse.Namespace) -> dict[str, Any]:
    """The fields that decide when and on how much is measured, where they were given."""
    sizes = {"test_eval": args.test_eval, "train_eval": args.train_eval}
    fields: dict[str, Any] = {
        name: size or None for name, size in sizes.items() if size is not None
    }
    if args.log is not None:
        fields["log"] = int(args.log) if args.log.isdigit() else args.log
    return fields


def _units(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(unit) for unit in text.split(",") if unit)
    except ValueError:
        raise ValueError(f"--drops are units such as 60,80, got {text!r}") from None


def _option(text: str) -> tuple[str, int | float | str | bool]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"--option is NAME=VALUE, such as width=16, got {text!r}")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value
