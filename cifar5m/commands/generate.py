"""cifar5m-generate: make labelled shards of CIFAR-10-like images with a diffusion model.

    cifar5m-generate --recipe tiny --n 1000 --out out/tiny       # offline, on any machine
    cifar5m-generate --n 6000000 --out cifar5m                    # the published recipe, every GPU
    torchrun --nproc-per-node 8 -m -- cifar5m.commands.generate --n 6000000 --out cifar5m
    cifar5m-generate --n 6000000 --out /shared/cifar5m --ray auto # every GPU of a Ray cluster

The same command again goes on where it stopped; finished shards are never made twice.
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cifar5m.commands.common import print_result, unfinished
from worlds.cli.exit import EXIT_FAILED, exit_code
from worlds.cli.progress import DownloadBar, image_bar
from worlds.formats.layout import Layout, Shard
from worlds.runtime.signals import Stopped, StopSignal

if TYPE_CHECKING:
    from cifar5m.engines.local import Rank
    from cifar5m.sampling.generate import Job
    from cifar5m.sampling.job import GeneratedPlan, Options

COMMAND = "cifar5m-generate"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    from cifar5m.sampling.diffusion import SAMPLERS
    from cifar5m.sampling.recipes import DEFAULT, RECIPES
    from worlds.runtime.device import PRECISIONS

    rows = "\n".join(f"  {name:16} {recipe.summary}" for name, recipe in RECIPES.items())
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description=__doc__,
        epilog=f"recipes:\n{rows}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    main = parser.add_argument_group("main")
    main.add_argument("--n", type=int, required=True, help="images in all, >= 1")
    main.add_argument("--out", type=Path, required=True, help="dataset folder, made if need be")
    main.add_argument("--recipe", default=DEFAULT, help=f"see below (default {DEFAULT})")
    main.add_argument("--seed", type=int, default=0, help="0 to 2^64 - 1 (default 0)")
    main.add_argument(
        "--split",
        type=parse_split,
        help="as train=5000000,test=1000000 (default: the last sixth is test)",
    )
    main.add_argument("--dry-run", action="store_true", help="print size, cost and time, then stop")

    main.add_argument(
        "--rate",
        type=float,
        help="with --dry-run: images/s of a device, > 0, instead of measuring this one",
    )
    main.add_argument("--price", type=float, help="with --dry-run: of a device hour, >= 0")

    content = parser.add_argument_group("content, instead of the recipe's own (part of the plan)")
    content.add_argument(
        "--generator", help="diffusers folder, file or Hub id of a 3 x 32 x 32 U-Net"
    )
    content.add_argument("--labeler", help="timm folder, file or Hub id with ten classes")
    content.add_argument(
        "--allow-non-ema", action="store_true", help="accept weights that are known not to be EMA"
    )
    content.add_argument("--sampler", help=f"one of {', '.join(SAMPLERS)}")
    content.add_argument("--steps", type=int, help="sampler steps, 1 to 1000")
    content.add_argument("--variance", help="of the ancestral sampler: fixed_large or fixed_small")
    content.add_argument("--eta", type=float, help="of ddim: 0 (deterministic) to 1")
    content.add_argument(
        "--spacing", help="of the steps: uniform, quadratic (ddim) or logsnr (dpm)"
    )
    content.add_argument("--precision", help=f"of the networks: {', '.join(PRECISIONS)}")
    content.add_argument("--micro-batch", type=int, help="images a network call, >= 1")
    content.add_argument(
        "--shard-size", type=int, default=10_000, help="images a shard, >= 1 (default 10000)"
    )

    execution = parser.add_argument_group("execution (never changes the content)")
    execution.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:K (default auto)"
    )
    execution.add_argument(
        "--workers", type=int, help="processes on this machine (default: one a GPU, or 1)"
    )
    execution.add_argument(
        "--writers", type=int, default=1, help="encoding processes a worker, >= 1 (default 1)"
    )
    execution.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="use a Ray cluster (auto or HOST:PORT): an actor a GPU, at most --workers; --out must "
        "lie on storage that its nodes share",
    )
    execution.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def parse_split(text: str) -> dict[str, int]:
    """`train=5,test=1` as a dict, in order."""
    try:
        parts = [part.split("=") for part in text.split(",")]
        return {name: int(length) for name, length in parts}
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected NAME=COUNT,NAME=COUNT, got {text!r}") from None


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    arguments = list(sys.argv[1:] if argv is None else argv)
    hint = (
        "for the micro-batch; choose a smaller --micro-batch (it decides the bytes, so it needs "
        "another --out)"
    )
    return exit_code(COMMAND, args.out, lambda: run(args, arguments), too_large=hint)


def run(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    from cifar5m.engines.local import Rank, rank_of
    from cifar5m.sampling.job import Options, find_sources, load_job, plan_of
    from worlds.formats.plan import claim_folder
    from worlds.runtime.device import pick_device

    names = Options.__dataclass_fields__
    options = Options(**{name: value for name, value in vars(args).items() if name in names})
    check_paper(args)
    if args.rate is not None:
        print_paper(args, options)
        return 0
    rank = rank_of(os.environ)
    device = str(pick_device(args.device, rank.local_rank if rank else 0))
    workers = count_workers(args, rank)
    with DownloadBar() as bar:
        sources = find_sources(options, bar.progress, bar.note)
    plan = plan_of(options, sources)
    if args.dry_run:
        job = load_job(options, sources, plan, device)
        print_estimate(job, options.layout, plan, workers, args.price)
        return 0
    claim_folder(args.out, plan)
    stop = StopSignal()
    if args.ray is not None:
        run_on_ray(args, options, plan, stop)
        return 0
    if workers > 1:
        return run_many(args, arguments, plan, options.layout, workers, stop)
    shards = (rank or Rank()).share(options.layout.shards())
    job = load_job(options, sources, plan, device)
    run_one(args, job, shards, stop)
    if rank is None:
        print_result(args.out, plan, options.layout)
    return 0


def count_workers(args: argparse.Namespace, rank: "Rank | None") -> int:
    """Local processes to start: one where this is a rank already, else as asked, else one a GPU."""
    import torch

    for option in ("workers", "writers"):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            raise ValueError(f"--{option} must be at least 1, got {getattr(args, option)}")
    if rank is not None:
        return 1
    if args.workers is None:
        return max(1, torch.cuda.device_count()) if args.device in ("auto", "cuda") else 1
    return int(args.workers)


def run_one(
    args: argparse.Namespace, job: "Job", shards: Sequence[Shard], stop: StopSignal
) -> None:
    """Make this process's shards, with progress in images."""
    import torch

    from cifar5m.sampling.generate import generate_shards
    from worlds.formats.writers import ShardWriters

    waiting = unfinished(args.out, shards, job.fingerprint)
    bar = image_bar(shards, waiting, args.quiet)
    made = 0.0

    def on_progress(images: float) -> None:
        nonlocal made
        stop.raise_if_set()
        made += images
        whole = int(made + 1e-6)
        if whole:
            bar.update(whole)
            made -= whole
        if job.generator.device.type == "cuda":
            used = torch.cuda.max_memory_allocated(job.generator.device)
            bar.set_postfix_str(f"{used / 2**30:.1f} GiB", refresh=False)

    with bar, ShardWriters(args.writers) as writers:
        for _ in generate_shards(args.out, job, waiting, writers, on_progress):
            pass


def run_many(
    args: argparse.Namespace,
    arguments: Sequence[str],
    plan: "GeneratedPlan",
    layout: Layout,
    workers: int,
    stop: StopSignal,
) -> int:
    """Start one process a GPU (or as asked) and watch the shards appear."""
    from cifar5m.engines.local import run_workers

    shards = layout.shards()
    waiting = unfinished(args.out, shards, plan.fingerprint)
    with image_bar(shards, waiting, args.quiet) as bar:
        code = run_workers(
            [*arguments, "--quiet"],
            workers,
            args.out,
            waiting,
            plan.fingerprint,
            bar.update,
            lambda: stop.number,
        )
    if stop.number is not None:
        raise Stopped(stop.number)
    if code == 0:
        print_result(args.out, plan, layout)
    return EXIT_FAILED if code else 0


def run_on_ray(
    args: argparse.Namespace, options: "Options", plan: "GeneratedPlan", stop: StopSignal
) -> None:
    """Make the shards on a Ray cluster and watch them appear."""
    from cifar5m.engines.ray import generate_on_ray
    from worlds.runtime.ray import connect

    shards = options.layout.shards()
    waiting = unfinished(args.out, shards, plan.fingerprint)
    with image_bar(shards, waiting, args.quiet) as bar, connect(args.ray) as ray:
        generate_on_ray(
            ray, args.out, options, plan, waiting, bar.update, stop.raise_if_set, args.workers
        )
    print_result(args.out, plan, options.layout)


def check_paper(args: argparse.Namespace) -> None:
    """ValueError unless --rate and --price are finite numbers in range, and a dry run's."""
    for name, value in (("rate", args.rate), ("price", args.price)):
        if value is None:
            continue
        if not args.dry_run:
            raise ValueError(f"--{name} is for --dry-run alone")
        if not math.isfinite(value) or value < 0 or (name == "rate" and value == 0):
            least = "above 0" if name == "rate" else "at least 0"
            raise ValueError(f"--{name} must be {least}, got {value:g}")


def print_paper(args: argparse.Namespace, options: "Options") -> None:
    """What the run takes on devices of a given speed; no network is loaded."""
    from cifar5m.sampling.scale import table

    layout = options.layout
    shards = len(layout.shards())
    print(f"{len(layout):,} images in {shards:,} shards, {args.rate:g} images/s a device")
    print("\n".join(table(shards, len(layout) / shards / args.rate / 3600, args.price)))


def print_estimate(
    job: "Job", layout: Layout, plan: "GeneratedPlan", workers: int, price: float | None
) -> None:
    """What the run would make and cost, measured for a few seconds on this device."""
    from cifar5m.sampling.job import estimate
    from cifar5m.sampling.scale import table
    from worlds.runtime.device import device_name

    cost, images = estimate(job, layout), len(layout)
    hours = (cost.device_seconds + images * cost.label_seconds) / 3600
    rows = {
        "recipe": f"{plan.about.recipe}: {plan.about.distribution}",
        "splits": ", ".join(f"{name} {length:,}" for name, length in layout.splits),
        "shards": f"{len(layout.shards()):,} of {layout.shard_size:,} images",
        "size": f"{cost.bytes(images) / 1e9:,.3f} GB (PNGs of {cost.png_bytes:,.0f} bytes)",
        "generator": f"{job.generator.parameters:,} parameters, {job.generator.precision}",
        "labeller": f"{job.labeler.parameters:,} parameters",
        "network calls": f"{cost.network_calls:,} of one image each",
        "operations": f"{cost.network_calls * cost.flop_per_call:.3g} floating-point",
        "speed": f"{1 / cost.seconds_per_call:,.1f} calls/s on {device_name(job.generator.device)}",
        "device time": f"{hours:,.2f} h on one such device, {hours / workers:,.2f} h on {workers}",
        "writing": f"{1 / cost.write_seconds:,.0f} images/s a writer process",
        "fingerprint": plan.fingerprint,
    }
    for name, value in rows.items():
        print(f"{name:15} {value}")
    shards = len(layout.shards())
    print("\n".join(table(shards, hours / shards, price)))


if __name__ == "__main__":
    sys.exit(main())
