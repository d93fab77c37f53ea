"""worlds-train: train a network in the Real World, the Ideal World or both.

    worlds-train --model preresnet18 --data pack --world both --n 50000 --trials 10 --out runs
    worlds-train --model mlp_3x512 --data pack --n 2000 --epochs 20 --out runs --dry-run

On several GPUs, one run at a time (without the -- torchrun would take --n for its own option):

    torchrun --nproc-per-node 8 -m worlds.commands.train -- --model resnet50 --n 10000 ...

Each run has a directory, OUT/real-0, OUT/ideal-0, OUT/real-1 and so on; the same command resumes
what is unfinished. The last line is JSON.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from worlds.cli.exit import exit_code
from worlds.commands.train_options import MEASURING, config_of, make_parser
from worlds.runtime.signals import StopSignal
from worlds.training.config import TrainConfig, World

if TYPE_CHECKING:
    from worlds.training.build import Data
    from worlds.training.run_folder import Row, Run


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser(__doc__)
    args = parser.parse_args(given[given[:1] == ["--"] :])  # torchrun hands its -- on
    hint = "for the step; choose a smaller --batch-size or --precision bf16"
    return exit_code(parser, lambda: _run(args), args.out, too_large=hint)


def _run(args: argparse.Namespace) -> int:
    from worlds.data.stores import open_store
    from worlds.experiments.costs import choose_measuring
    from worlds.runtime.device import pick_device
    from worlds.runtime.processes import keep_freed_memory
    from worlds.training.build import Data
    from worlds.training.distributed import join

    keep_freed_memory()
    config = config_of(args)
    args.worlds = get_args(World) if args.world == "both" else (args.world,)
    if args.trials < 1:
        raise ValueError(f"--trials must be 1 or more, got {args.trials}")
    # The data, and how densely a run is measured on it.
    cifar10 = None if args.cifar10 is None else open_store(args.cifar10).test
    test = None if args.test is None else open_store(args.test).for_testing
    data = Data.of(open_store(args.data), cifar10, test)
    free = [name for name in MEASURING if getattr(args, name) is None]
    config = choose_measuring(config, data, free)
    # Alone, or as one of torchrun's processes; the first one speaks.
    args.replicas, args.device = join(pick_device(args.device))
    if args.replicas.writes:
        _print_plan(config, data, args)
    if args.dry_run:
        return 0
    stop = StopSignal("the checkpoint of the last step is saved")
    runs: list[Run] = []
    for trial in range(args.trials):
        real: Run | None = None  # the Ideal World goes as far as this one went
        for world in args.worlds:
            run = _train(replace(config, world=world, trial=trial), data, args, stop, real)
            runs.append(run)
            real = run if world == "real" else real
    if args.replicas.writes:
        _print_results(runs, args)
    args.replicas.leave()
    return 0


def _print_plan(config: TrainConfig, data: "Data", args: argparse.Namespace) -> None:
    """Print the resolved config and what it costs; check, without training, what can be checked."""
    from worlds.experiments.costs import cost, describe_time, may_be_timed
    from worlds.training.build import check_loaders
    from worlds.training.run_folder import SUMMARY
    from worlds.training.schedules import series_points

    # What only shows when the run is begun.
    series_points(args.keep_checkpoints, config.steps)
    configs = [replace(config, world=world) for world in args.worlds]
    check_loaders(configs, data)
    # The config without what is off, the data, and the cost of each world.
    values = config.to_json() | {"world": args.world, "trial": f"0 to {args.trials - 1}"}
    shown = {name: value for name, value in values.items() if value not in (None, {}, [])}
    print("  ".join(f"{name}={value}" for name, value in shown.items()))
    print(f"data {data.name}: pool of {len(data.train):,}, {len(data.test):,} test images")
    costs = [cost(each, data) for each in configs]
    for each, c in zip(configs, costs, strict=True):
        print(f"{each.world}: {c}")
    # Long runs are timed first, unless torchrun shares them or the last one has ended.
    last = args.out / f"{args.worlds[-1]}-{args.trials - 1}" / SUMMARY
    is_long = may_be_timed(args.trials * costs) and not last.is_file()
    if args.dry_run or (is_long and args.replicas.world_size == 1):
        print(describe_time(config, data, args.device, args.trials * costs))


def _train(
    config: TrainConfig,
    data: "Data",
    args: argparse.Namespace,
    stop: StopSignal,
    real: "Run | None",
) -> "Run":
    """Train one run under a bar; beside an Ideal World its `real` twin is shown, and is its end."""
    from worlds.report.compare import step_bar
    from worlds.training.run_folder import read_run
    from worlds.training.stepper import NotFinite
    from worlds.training.train import train

    folder = args.out / f"{config.world}-{config.trial}"
    # An Ideal World ends where its Real World ended.
    last_step = None if real is None else real.early_end
    total = config.steps if last_step is None else last_step + 1
    twin = {row["step"]: {"real": row["test_soft_error"]} for row in (real.rows if real else ())}
    mirrors = _mirrors(folder, config, args) if args.replicas.writes else []
    with step_bar(total, folder.name, args.quiet or not args.replicas.writes) as (bar, move):

        def on_step(updates: int) -> None:
            move(updates)
            stop.raise_if_set()

        def on_row(row: "Row") -> None:
            shown = {config.world: row["test_soft_error"], **twin.get(row["step"], {})}
            if "train_error" in row:
                shown["train_error"] = row["train_error"]
            bar.set_postfix({name: f"{value:.4f}" for name, value in shown.items()})
            for mirror in mirrors:
                mirror(row)

        with suppress(NotFinite):  # the summary says so
            train(
                config,
                data,
                folder,
                device=args.device,
                checkpoint_seconds=args.checkpoint_seconds,
                last_step=last_step,
                graph="compiled" if args.compile else True,
                replicas=args.replicas,
                keep_checkpoints=args.keep_checkpoints,
                keep_predictions=args.keep_predictions,
                on_step=on_step,
                on_row=on_row,
            )
    run = read_run(folder)
    # Also of a run that had ended so before.
    if run.summary is not None and run.summary.ended == "not_finite":
        raise RuntimeError(
            f"the training loss in {folder} was not finite at step {run.summary.bad_step:,}; "
            "its last good checkpoint is kept: lower --learning-rate, with another --out"
        )
    return run


def _mirrors(folder: Path, config: TrainConfig, args: argparse.Namespace) -> list[Any]:
    from worlds.cli import trackers as mirrors

    # The run directory stays the record.
    chosen = [mirrors.tensorboard(folder)] if args.tensorboard else []
    if args.wandb is not None:
        names = config.fingerprint(), config.group_key()
        chosen.append(mirrors.wandb(folder, args.wandb, *names, config.to_json()))
    return chosen


def _print_results(runs: "list[Run]", args: argparse.Namespace) -> None:
    from worlds.report.analysis import endings

    for run in runs:
        assert run.final is not None
        print(
            f"{run.folder}: test soft-error {run.final['test_soft_error']:.4f}, error "
            f"{run.final['test_error']:.4f} after {run.final['updates']:,} updates"
        )
    # Real against Ideal, trial by trial.
    real = [run for run in runs if run.config.world == "real"]
    ideal = [run for run in runs if run.config.world == "ideal"]
    ends = endings(real, ideal) if real and ideal else ()
    for end in ends:
        print(end)
    summary: dict[str, Any] = {"out": str(args.out), "trials": args.trials}
    if ends:
        summary |= {"t0": [end.t0 for end in ends], "compared_at": [end.step for end in ends]}
        summary["bootstrap_error"] = gaps = [end.gap for end in ends]
        summary["median_bootstrap_error"] = statistics.median(gaps)
    print(json.dumps(summary))


if __name__ == "__main__":
    sys.exit(main())
