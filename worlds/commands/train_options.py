"""The options of worlds-train, and the config that they make."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Final, get_args

from worlds.cli.parser import Parser, add_field, name_and_value
from worlds.commands.common import AUGMENTS
from worlds.loaders.normalize import NAMES
from worlds.training.config import Grid, Loss, Optimizer, TrainConfig, annotations
from worlds.training.schedules import KINDS, steps_of_epochs

MEASURING: Final = ("log", "test_eval", "train_eval")  # chosen by their cost where not given
_DEFAULTS: Final = {f.name: f.default for f in fields(TrainConfig)}
# Of fields of the config that are annotated as text.
_CHOICES: Final = {
    "augment": AUGMENTS,
    "schedule": KINDS,
    "loss": get_args(Loss),
    "normalize": NAMES,
}
_BY_COST: Final = " (default: chosen so that measuring is at most a quarter of the cost)"
# Fields of the config, and what they are (with their range); type and default are the config's.
_GROUPS: Final[dict[str, dict[str, str]]] = {
    "network": {
        "initial": "run directory or file with the weights to begin from",
        "frozen": "train only a new head on --initial",
    },
    "worlds": {
        "n": "samples of the Real World, 1 to the pool's size",
        "batch_size": "1 or more",
        "passes": "how often Ideal may go over the pool; above 1 it is approximate",
        "remainder": "what becomes of an epoch's last samples; the released code drops them",
        "augment": "change of training images",
        "mixup": "alpha of Beta(alpha, alpha), 0 or more; 0: no mixup",
        "normalize": "range of pixels",
        "label_noise": "symmetric:RATE, uniform:RATE or pairs:RATE:3>5, RATE 0 to 1",
        "disjoint": "Ideal leaves Real's n samples out",
        "seed": "0 or more, below 2^64",
        "init_seed": "seed of the weights in every trial (default: the seed, with the trial)",
        "data_seed": "seed of the subset and its label noise (default: the seed, with the trial)",
        "order_seed": "seed of the order of the samples (default: the seed, with the trial)",
        "augment_seed": "seed of crops, flips and mixup (default: the seed, with the trial)",
    },
    "optimization": {
        "objective": "simclr, rotation: without labels, a linear probe on n is measured",
        "optimizer": f"{', '.join(get_args(Optimizer))}, or package.module:Class; logistic and "
        "knn fit the head of --frozen in one step",
        "learning_rate": "above 0",
        "momentum": "0 to below 1; the paper's figure 1 has 0.9",
        "weight_decay": "0 or more",
        "betas": "for adam, adamw and muon, 0 to below 1",
        "schedule": "how the learning rate changes",
        "factor": "change of the rate in 3step and steps, above 0, at most 1",
        "warmup": "steps of linear warm-up, 0 to STEPS",
        "loss": "loss to train on",
        "precision": "precision of training and evaluation",
        "ema": "decay a step of averaged weights, 0 to below 1; 0: none",
        "sync_batch_norm": "under torchrun, batch norm over each process's share of a batch",
    },
    "measurement": {
        "stop": "end a Real run early, and its Ideal twin with it (default: never)",
        "threshold": "train error of T0, 0 to below 1",
        "patience": "log points without a lower test soft-error, with --stop patience; with "
        "--validation, epochs without a lower validation error",
        "min_improvement": "least gain in validation error that counts, 0 to below 1",
        "validation": "samples beside the n, kept to measure on, 0 or more",
        "compared": "test samples whose ECE is in the rows, 0 or more; logits are kept",
        "clean_every": "take unaugmented train metrics every so many log points, 1 or more",
        "test_noise": "put the label noise on test labels as well",
        "fresh_crops": "draw fresh crops for the train error at each log point, as the paper",
    },
}


def make_parser(description: str | None) -> Parser:
    parse = Parser("worlds-train", description)
    parse.add_argument(
        "--model",
        "--arch",
        dest="arch",
        required=True,
        metavar="NAME",
        help="a name that worlds-models lists, package.module:function, or timm:resnet18",
    )
    about = "directory, file, hf://datasets/OWNER/NAME, teacher:0 or generate:RECIPE"
    parse.add_argument("--data", required=True, metavar="STORE", help=about)
    parse.add_argument("--test", metavar="STORE", help="measure on the test split of another store")
    parse.add_argument("--cifar10", metavar="STORE", help="measure on CIFAR-10's test set as well")
    parse.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="directory of the runs"
    )
    worlds = ("real", "ideal", "both")
    parse.add_argument("--world", choices=worlds, default="both", help="default: both")
    parse.add_argument(
        "--trials", type=int, default=1, help="trials 0 to TRIALS - 1, 1 or more (default: 1)"
    )
    _add_machine(parse)
    # The fields of the config, by groups; and options that stand for fields.
    groups = {title: parse.add_argument_group(title) for title in _GROUPS}
    for title, entries in _GROUPS.items():
        for name, text in entries.items():
            kind, default = annotations()[name], _DEFAULTS[name]
            add_field(groups[title], name, kind, default, text, _CHOICES.get(name))
    groups["network"].add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the network, such as width=16, parametrization=mup (repeatable)",
    )
    length = groups["worlds"].add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="1 or more (default: 39000)")
    length.add_argument("--epochs", type=int, help="instead of steps: passes over the n samples")
    rate = groups["optimization"]
    rate.add_argument("--drops", default="", help="units of schedule steps, such as 60,80")
    rate.add_argument(
        "--unit",
        type=int,
        help="steps between changes of the rate (default: 390, with --epochs an epoch: within "
        "one the paper's code keeps the rate)",
    )
    measured = groups["measurement"]
    grid = f"{', '.join(get_args(Grid))} or each so many steps"
    measured.add_argument("--log", help=grid + _BY_COST)
    images = "measure on the first TEST_EVAL test images; 0: all"
    measured.add_argument("--test-eval", type=int, help=images + _BY_COST)
    samples = "measure on at most TRAIN_EVAL of the n samples, always the same; 0: all"
    measured.add_argument("--train-eval", type=int, help=samples + _BY_COST)
    return parse


def _add_machine(parse: Parser) -> None:
    """Add what changes no number of a run: where it runs, what is kept, what is shown."""
    parse.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: what is here)")
    parse.add_argument("--compile", action="store_true", help="compile the network (GPU only)")
    parse.add_argument("--dry-run", action="store_true", help="print config and cost, then stop")
    parse.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=60.0,
        help="seconds between two states to resume from; 0: each step (default: 60)",
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


def config_of(args: argparse.Namespace) -> TrainConfig:
    """Return the Real World's config of trial 0. Raises ValueError for an invalid option."""
    values = {name: getattr(args, name) for group in _GROUPS.values() for name in group}
    values["augment"] = None if args.augment == "none" else args.augment
    # Epochs are steps, in units of an epoch.
    steps, unit = args.steps, args.unit
    if args.epochs is not None:
        steps = steps_of_epochs(args.n, args.batch_size, args.epochs)
        unit = unit or max(1, args.n // args.batch_size)
    given = {"steps": steps, "unit": unit, **{name: getattr(args, name) for name in MEASURING}}
    values |= {name: value for name, value in given.items() if value is not None}
    # In text: 0 for all samples, a number of steps between log points.
    values |= {name: None for name in ("test_eval", "train_eval") if values.get(name) == 0}
    if (args.log or "").isdigit():
        values["log"] = int(args.log)
    options = dict(map(_option, args.option))
    return TrainConfig(args.arch, options=options, drops=_units(args.drops), **values)


def _units(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(unit) for unit in text.split(",") if unit)
    except ValueError:
        raise ValueError(f"--drops are units such as 60,80, got {text!r}") from None


def _option(text: str) -> tuple[str, int | float | str | bool]:
    name, value = name_and_value("--option", "NAME=VALUE, such as width=16", text)
    # A switch, a number, or text.
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value
