"""worlds-experiment: the paper's figures and tables, each by one command.

    worlds-experiment list
    worlds-experiment show fig4a
    worlds-experiment run fig1 fig4a --data pack --scale small --dry-run
    worlds-experiment run all --scale smoke
    worlds-experiment status --scale smoke
    worlds-experiment report --scale smoke

Runs are in RUNS/runs, one directory each, however many figures share them; the same command resumes
unfinished runs and skips finished ones. Started several times at once, on machines that share RUNS,
it shares the runs out. The report is RUNS/report/index.html. The last line is JSON.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from worlds.cli.counted import counted
from worlds.cli.exit import EXIT_FAILED, exit_code
from worlds.cli.parser import name_and_value
from worlds.commands.experiment_options import make_parser
from worlds.runtime.signals import StopSignal

LONG_STEPS: Final = 20_000  # of all runs left, from which on they are timed first

if TYPE_CHECKING:
    from worlds.experiments.plan import Job
    from worlds.experiments.run.select import Selection
    from worlds.experiments.sources import Sources


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__)
    args = parser.parse_args(argv)
    verbs = {"list": _list, "show": _show, "run": _run, "status": _status, "report": _report}
    args.runs = getattr(args, "runs", None) or Path("runs") / args.scale
    hint = "for a run; use fewer --workers"
    return exit_code(parser, lambda: verbs[args.verb](args), args.runs, too_large=hint)


def _list(args: argparse.Namespace) -> int:
    # Counting takes a while, so the usual numbers of trials are in the package.
    if args.trials is None:
        text, total = counted("experiments")[args.scale]
    else:
        from worlds.experiments.listing import overview
        from worlds.experiments.plan import expand
        from worlds.experiments.registry import recipes

        text, total = overview([expand(recipe, args.scale, args.trials) for recipe in recipes()])
    print(text)
    print(json.dumps({"scale": args.scale, **total}))
    return 0


def _show(args: argparse.Namespace) -> int:
    from worlds.experiments.listing import description
    from worlds.experiments.plan import expand
    from worlds.experiments.registry import find_recipes

    for recipe in find_recipes(args.names):
        text, total = description(expand(recipe, args.scale, args.trials))
        print(text)
        print(json.dumps({"name": recipe.name, "scale": args.scale, **total}))
    return 0


def _run(args: argparse.Namespace) -> int:
    from worlds.experiments.run.select import devices_of, open_sources, select
    from worlds.experiments.state import bind_data, save_spec

    # What is asked of the machine, the data and the experiments.
    form = "NAME=PATH, such as fig13=vit.safetensors"
    weights = dict(name_and_value("--weights", form, text) for text in args.weights)
    if args.ray is not None and (args.workers, args.device) != (None, "auto"):
        raise ValueError("--ray places the runs itself: leave --workers and --device out")
    devices = devices_of(args.device, args.workers)
    sources = open_sources(args.data, args.cifar10, args.dogbird, args.scale, args.runs)
    selection = select(
        args.names,
        args.scale,
        sources,
        args.runs,
        weights,
        trials=args.trials,
        model=args.model,
        precision=args.precision,
        cheap=args.cheap_train_error,
        whole_test=args.whole_test,
    )
    # The plan comes first, and alone for a dry run.
    left = _print_plan(selection)
    # How long it takes, of a real run only if that is minutes at least: by its costliest networks.
    if args.dry_run or (left["steps"] >= LONG_STEPS and args.ray is None):
        from worlds.experiments.timing import PATIENCE, time_runs

        patience = PATIENCE if args.dry_run else 10.0
        timing = time_runs(selection.waiting, sources, devices, patience)
        if timing is not None:
            print(timing.report())
            left["timed_hours"] = round(timing.seconds / 3600, 4)  # of one device
    if args.dry_run:
        print(json.dumps({"out": str(args.runs), "scale": args.scale, "left": left}))
        return 0
    for one in selection.chosen:
        save_spec(bind_data(one, sources), args.runs)
    return _train(selection.waiting, len(selection.jobs), sources, devices, args)


def _print_plan(selection: "Selection") -> dict[str, Any]:
    """Print what there is to do; return its totals."""
    from worlds.experiments.listing import totals

    for name, reason in selection.skipped.items():
        print(f"skipped {name}: {reason}")
    # Runs counted in each experiment, and once.
    apart = sum(len(job.experiments) for job in selection.jobs)
    total, jobs = totals(selection.waiting), len(selection.jobs)
    print(
        f"{len(selection.chosen)} experiments of {apart:,} runs, {jobs:,} after sharing, "
        f"{jobs - len(selection.waiting):,} of them done; left {total['runs']:,} runs, "
        f"{total['steps']:,} steps"
    )
    return total


def _train(
    waiting: "Sequence[Job]",
    total: int,
    sources: "Sources",
    devices: Sequence[str],
    args: argparse.Namespace,
) -> int:
    from tqdm import tqdm

    from worlds.experiments.run.local import Progress, run_jobs

    # One bar for all runs; each note is written once.
    stop, told = StopSignal(), set[str]()
    form = "{desc} {percentage:3.0f}% |{bar}| {n:.1f} of {total} runs [{elapsed}<{remaining}]"
    bar_of = partial(tqdm, bar_format=form, disable=args.quiet, smoothing=0.02, mininterval=1.0)
    with bar_of(total=len(waiting)) as bar:

        def on_progress(progress: Progress) -> None:
            for note in progress.notes():
                if note not in told:
                    told.add(note)
                    bar.write(note, file=sys.stderr)
            bar.update(progress.done - bar.n)

        watch = on_progress, lambda: stop.number is not None
        if args.ray is None:
            progress = run_jobs(waiting, args.runs, sources, devices, *watch)
        else:
            from worlds.experiments.run.ray import run_on_ray
            from worlds.runtime.ray import connect

            with connect(args.ray) as ray:
                progress = run_on_ray(ray, waiting, args.runs, sources, *watch)
    stop.raise_if_set()
    # What was trained, and how many are left.
    ends = list(progress.ended.values())
    failed = len(waiting) - len(ends)
    summary = {"trained": len(ends), "not_finite": ends.count("not_finite"), "failed": failed}
    print(f"worlds-experiment report --scale {args.scale} --runs {args.runs} draws them")
    print(json.dumps({"out": str(args.runs), "runs": total, **summary}))
    return EXIT_FAILED if failed else 0


def _status(args: argparse.Namespace) -> int:
    from worlds.experiments.listing import standing
    from worlds.experiments.state import read_experiments, states_of

    text, total = standing(read_experiments(args.runs, args.names), states_of(args.runs))
    print(text)
    print(json.dumps({"out": str(args.runs), "shared runs counted in each": total}))
    return 0


def _report(args: argparse.Namespace) -> int:
    from worlds.commands.common import print_report
    from worlds.experiments.state import read_experiments

    # Names that were never begun are told before the report.
    names = [one.name for one in read_experiments(args.runs, args.names)]
    return print_report([args.runs], args.runs / "report", names if args.names else ())


if __name__ == "__main__":
    sys.exit(main())
