"""worlds-experiment: the paper's figures and tables, each by one command.

    worlds-experiment list
    worlds-experiment show fig4a
    worlds-experiment run fig1 fig4a --data pack --scale small --dry-run
    worlds-experiment run all --scale smoke --workers 2
    worlds-experiment status --scale smoke
    worlds-experiment report --scale smoke

Runs lie in RUNS/runs, each once, whatever figures it is part of; the same command goes on with what
is unfinished and skips what is done. Started several times at once, on machines that share RUNS, it
shares the runs out. The report is RUNS/report/index.html. The last line is JSON.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from worlds.cli.exit import EXIT_FAILED, exit_code
from worlds.cli.parser import Parser
from worlds.experiments.scales import SCALES
from worlds.runtime.signals import StopSignal
from worlds.training.config import Precision

if TYPE_CHECKING:
    from worlds.experiments.plan import Expanded, Job
    from worlds.experiments.sources import Sources


def make_parser() -> Parser:
    parse = Parser("worlds-experiment", __doc__)
    verbs = parse.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="one line an experiment: runs, steps, GPU-hours")
    show = verbs.add_parser("show", help="an experiment's recipe, cost and claim")
    run = verbs.add_parser("run", help="train what is missing of some experiments, or of all")
    status = verbs.add_parser("status", help="what is done, running and missing")
    report = verbs.add_parser("report", help="one page of all experiments that were begun")
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
            "--runs", type=Path, metavar="DIR", help="their folder (default: runs/SCALE)"
        )
    _add_data(run)
    _add_machine(run)
    return parse


def _add_data(run: argparse.ArgumentParser) -> None:
    data = run.add_argument_group("data", "folders or hf://datasets/...; smoke makes its own")
    data.add_argument("--data", metavar="STORE", help="CIFAR-5m, or any pool of 32 px images")
    data.add_argument("--cifar10", metavar="STORE", help="CIFAR-10: tables, and a second test set")
    data.add_argument("--dogbird", metavar="STORE", help="ImageNet-DogBird, for figure 3")
    data.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="what the pretrained networks of fig13 or fig14 begin from",
    )


def _add_machine(run: argparse.ArgumentParser) -> None:
    machine = run.add_argument_group("machine")
    machine.add_argument("--workers", type=int, default=1, help="runs at once (default: 1)")
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


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "list": _list,
        "show": _show,
        "run": _run,
        "status": _status,
        "report": _report,
    }
    args.runs = getattr(args, "runs", None) or Path("runs") / args.scale
    hint = "for a run; use fewer --workers"
    return exit_code(parser, lambda: verbs[args.verb](args), args.runs, too_large=hint)


def _list(args: argparse.Namespace) -> int:
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
    from worlds.experiments.plan import expand, jobs_of
    from worlds.experiments.registry import find_recipes
    from worlds.experiments.state import begin, bound, ended
    from worlds.training.pretrained import weights_file

    recipes, weights = find_recipes(args.names), dict(map(_named, args.weights))
    for path in weights.values():
        weights_file(path)
    if args.workers < 1:
        raise ValueError(f"--workers must be 1 or more, got {args.workers}")
    if args.ray is not None and (args.workers, args.device) != (1, "auto"):
        raise ValueError("--ray places the runs itself: leave --workers and --device out")
    devices = _devices(args.device, args.workers)
    sources = _sources(args)
    chosen, skipped = _possible(
        [
            expand(recipe, args.scale, args.trials, args.precision, weights.pop(recipe.name, None))
            for recipe in recipes
        ],
        sources,
    )
    if weights:
        raise ValueError(f"--weights are given for {', '.join(weights)}, which is not run here")
    jobs = jobs_of(chosen)
    known = {
        kind: None if kind == "none" else sources.data(kind).describe()
        for kind in {job.data for job in jobs}
    }
    waiting = [job for job in jobs if not ended(job, args.runs, known[job.data])]
    left = _print_plan(chosen, jobs, waiting, skipped)
    if args.dry_run:
        print(json.dumps({"out": str(args.runs), "scale": args.scale, "left": left}))
        return 0
    for one in chosen:
        begin(bound(one, sources), args.runs)
    return _train(waiting, len(jobs), sources, devices, args)


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise ValueError(f"--weights is NAME=PATH, such as fig13=vit.safetensors, got {text!r}")
    return name, path


def _sources(args: argparse.Namespace) -> "Sources":
    """The stores that were given; made data at smoke scale where none was."""
    from worlds.experiments.sources import Sources

    if args.scale == "smoke" and args.data is None and args.cifar10 is None:
        return Sources.make(args.runs / "data", args.dogbird)
    return Sources(args.data, args.cifar10, args.dogbird)


def _possible(
    chosen: "list[Expanded]", sources: "Sources"
) -> "tuple[list[Expanded], dict[str, str]]":
    """What the data can feed, and why not the others; ValueError if nothing is left."""
    from worlds.experiments.sources import why_not

    reasons = {one.name: why_not(one, sources) for one in chosen}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    left = [one for one in chosen if one.name not in skipped]
    if not left:
        name, reason = next(iter(skipped.items()))
        raise ValueError(f"{name}: {reason}")
    return left, skipped


def _devices(device: str, workers: int) -> list[str]:
    """A device for each worker: all GPUs in turn, or the one that was named."""
    import torch

    from worlds.runtime.device import check_device

    gpus = torch.cuda.device_count()
    if device == "auto":
        return [f"cuda:{i % gpus}" if gpus else "cpu" for i in range(workers)]
    check_device(device)
    return [device] * workers


def _print_plan(
    chosen: "Sequence[Expanded]",
    jobs: "Sequence[Job]",
    waiting: "Sequence[Job]",
    skipped: dict[str, str],
) -> dict[str, Any]:
    """What there is to do; its totals."""
    from worlds.experiments.costs import ASSUMED
    from worlds.experiments.listing import hours, totals

    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")
    apart = sum(len(one.keys) for one in chosen)
    total = totals(waiting)
    print(
        f"{len(chosen)} experiments of {apart:,} runs, {len(jobs):,} after sharing, "
        f"{len(jobs) - len(waiting):,} of them done; left {total['runs']:,} runs, "
        f"{total['steps']:,} steps, {hours(total['gpu_hours'])} GPU-hours ({ASSUMED})"
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

    stop, told = StopSignal(), set[str]()
    form = "{desc} {percentage:3.0f}% |{bar}| {n:.1f} of {total} runs [{elapsed}<{remaining}]"
    bar_of = partial(tqdm, bar_format=form, disable=args.quiet, smoothing=0.02, mininterval=1.0)
    with bar_of(total=len(waiting)) as bar:

        def on_progress(progress: Progress) -> None:
            notes = {name: f"failed {name}: {why}" for name, why in progress.failed.items()}
            for name, how in progress.ended.items():
                if how == "not_finite":
                    notes[name] = f"the loss was not finite, ended there: {name}"
            if progress.elsewhere:
                notes[""] = "another process trains some of these runs: they are waited for"
            for name in notes.keys() - told:
                told.add(name)
                bar.write(notes[name], file=sys.stderr)
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
    ends = list(progress.ended.values())
    failed = len(waiting) - len(ends)
    summary = {"trained": len(ends), "not_finite": ends.count("not_finite"), "failed": failed}
    print(f"worlds-experiment report --scale {args.scale} --runs {args.runs} draws them")
    print(json.dumps({"out": str(args.runs), "runs": total, **summary}))
    return EXIT_FAILED if failed else 0


def _status(args: argparse.Namespace) -> int:
    from worlds.experiments.listing import table
    from worlds.experiments.state import STATES, read_experiments, states_of, tally

    states = states_of(args.runs)
    rows = [("experiment", *STATES, "title")]
    total: dict[str, int] = dict.fromkeys(STATES, 0)
    for experiment in read_experiments(args.runs, args.names):
        counts = tally(experiment, states)
        rows.append(
            (experiment.name, *(f"{counts[state]:,}" for state in STATES), experiment.title)
        )
        for state in STATES:
            total[state] += counts[state]
    print(table(rows))
    print(json.dumps({"out": str(args.runs), "shared runs counted in each": total}))
    return 0


def _report(args: argparse.Namespace) -> int:
    from worlds.commands.common import print_report
    from worlds.experiments.state import read_experiments

    names = [one.name for one in read_experiments(args.runs, args.names)]
    return print_report([args.runs], args.runs / "report", names if args.names else ())


if __name__ == "__main__":
    sys.exit(main())
