"""The options of worlds-experiment and its verbs."""

import argparse
from pathlib import Path
from typing import get_args

from worlds.cli.parser import Parser
from worlds.experiments.scales import SCALES
from worlds.training.config import Precision


def make_parser(description: str | None) -> Parser:
    parse = Parser("worlds-experiment", description)
    verbs = parse.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="one line an experiment: runs, steps, GPU-hours")
    show = verbs.add_parser("show", help="an experiment's recipe, cost and claim")
    run = verbs.add_parser("run", help="train what is missing of some experiments, or of all")
    status = verbs.add_parser("status", help="what is done, running and missing")
    report = verbs.add_parser("report", help="one page of all experiments that were begun")
    # What verbs have in common.
    for verb in (show, run):
        verb.add_argument("names", nargs="+", metavar="NAME", help="experiments, or all")
    for verb in (status, report):
        verb.add_argument("names", nargs="*", metavar="NAME", help="only these")
    for verb in (listing, show, run):
        verb.add_argument("--trials", type=int, help="1 or more (default: the paper's; else 1)")
    for verb in (listing, show, run, status, report):
        verb.add_argument("--scale", choices=SCALES, default="paper", help="default: paper")
    for verb in (run, status, report):
        verb.add_argument(
            "--runs", type=Path, metavar="DIR", help="directory of the runs (default: runs/SCALE)"
        )
    run.add_argument(
        "--model",
        metavar="NAME",
        help="instead of the paper's networks: package.module:function, timm:resnet18, or a name",
    )
    _add_data(run)
    _add_machine(run)
    return parse


def _add_data(run: argparse.ArgumentParser) -> None:
    data = run.add_argument_group("data", "directories or hf://datasets/...; smoke makes its own")
    data.add_argument("--data", metavar="STORE", help="CIFAR-5m, or any pool of 32 px images")
    data.add_argument("--cifar10", metavar="STORE", help="CIFAR-10: tables, and a second test set")
    data.add_argument("--dogbird", metavar="STORE", help="ImageNet-DogBird, for figure 3")
    data.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="what the pretrained networks of fig5b, fig13 or fig14 begin from; fig5b=EARLY,FINAL "
        "gives both of its checkpoints",
    )
    measured = run.add_argument_group("measurement")
    measured.add_argument(
        "--cheap-train-error",
        action="store_true",
        help="at paper scale, read train metrics and T0 from 10,000 samples under one fixed crop "
        "each (default: from all n with fresh crops)",
    )
    measured.add_argument(
        "--whole-test",
        action="store_true",
        help="measure on the whole test split (default: at paper scale its first 10,000 images)",
    )


def _add_machine(run: argparse.ArgumentParser) -> None:
    machine = run.add_argument_group("machine")
    machine.add_argument(
        "--workers", type=int, help="runs at once, 1 or more (default: one a GPU, else one a core)"
    )
    machine.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: all GPUs)")
    machine.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="use a Ray cluster (auto or HOST:PORT): a run a GPU, or a CPU where it has none; "
        "--runs and the data must lie on storage that its nodes share",
    )
    machine.add_argument(
        "--precision", choices=get_args(Precision), help="of all runs (default: the paper's, fp32)"
    )
    machine.add_argument("--dry-run", action="store_true", help="print runs and cost, then stop")
    machine.add_argument("--quiet", action="store_true", help="no progress bar")
