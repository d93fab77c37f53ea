"""cifar5m-generate: make labeled shards of CIFAR-10-like images with a diffusion model.

    cifar5m-generate --recipe tiny-conditional --n 1000 --out out/tiny  # offline, on any machine
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
from typing import Any

from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser
from worlds.cli.progress import ProgressBars
from worlds.runtime.precision import PRECISIONS
from worlds.runtime.signals import Stopped


def make_parser() -> Parser:
    parser = Parser("cifar5m-generate", __doc__)
    # Main options, and those of a dry run.
    add = parser.add_argument_group("main").add_argument
    add("--n", type=int, required=True, help="images in all, >= 1")
    add("--out", type=Path, required=True, help="dataset directory, made if missing")
    add(
        "--recipe",
        default="cifar5m",
        help="cifar5m (the published way, the default), cifar5m-ddim100 (a preview, another "
        "distribution), tiny or tiny-conditional (bundled small networks, offline)",
    )
    add("--seed", type=int, default=0, help="0 to 2^64 - 1 (default 0)")
    add(
        "--split",
        type=parse_split,
        help="such as train=5000000,test=1000000 (default: the last sixth is test)",
    )
    add("--dry-run", action="store_true", help="print size, cost and time, then stop")

    add(
        "--rate",
        type=float,
        help="with --dry-run: images/s of a device, > 0, instead of measuring this one",
    )
    add("--price", type=float, help="with --dry-run: price of a device hour, >= 0")

    # Options that decide the bytes: each needs a directory of its own.
    add = parser.add_argument_group(
        "content, instead of the recipe's own (part of the plan)"
    ).add_argument
    add("--generator", help="diffusers folder, file or Hub id of a 3 x 32 x 32 U-Net")
    add(
        "--labeler",
        help="timm folder, file or Hub id with ten classes; bit: BiT fine-tuned here, and nothing "
        "else; auto: bit if it is there, else a public ViT-B/16",
    )
    add("--allow-non-ema", action="store_true", help="accept weights that are known not to be EMA")
    add("--sampler", help="ancestral, ddim or dpm_solver_pp_2m")
    add("--steps", type=int, help="sampler steps, 1 to 1000")
    add("--variance", help="noise of the ancestral sampler: fixed_large, fixed_small")
    add("--eta", type=float, help="noise of the ddim sampler, 0 (none) to 1")
    add("--spacing", help="timesteps: uniform, quadratic (ddim), logsnr (dpm)")
    add("--start", type=int, help="timestep of the first step, 0 to 999")
    add(
        "--guidance",
        type=float,
        help="for a generator with class embeddings, >= 0: 1 leaves its prediction as it is, more "
        "moves it away from the one without a class, at two network calls a step",
    )
    add(
        "--labels",
        help="argmax (the labeler's class) or requested (the one the generator was asked for)",
    )
    add("--precision", help=f"floating-point format of the networks: {', '.join(PRECISIONS)}")
    add("--micro-batch", type=int, help="images a network call, >= 1")
    add(
        "--shard-size",
        type=int,
        help="images a shard, >= 1 (default: that of --out, else n / 20, from 50 to 10000)",
    )

    # Options that only decide where and how fast.
    add = parser.add_argument_group("execution (never changes the content)").add_argument
    add("--device", default="auto", help="auto, cpu, cuda or cuda:K (default auto)")
    add("--workers", type=int, help="processes on this machine (default: one a GPU, or 1)")
    add("--streams", type=int, default=1, help="micro-batches at a time on a GPU, >= 1 (default 1)")
    add("--writers", type=int, default=1, help="encoding processes a worker, >= 1 (default 1)")
    add(
        "--ray",
        metavar="ADDRESS",
        help="use a Ray cluster (auto or HOST:PORT): an actor a GPU, at most --workers; --out must "
        "be on storage that its nodes share",
    )
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def parse_split(text: str) -> dict[str, int]:
    """Return `train=5,test=1` as a dict, in order."""
    try:
        parts = [part.split("=") for part in text.split(",")]
        return {name: int(length) for name, length in parts}
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected NAME=COUNT,NAME=COUNT, got {text!r}") from None


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    given = list(sys.argv[1:] if argv is None else argv)
    hint = (
        "for the micro-batch; choose a smaller --micro-batch (it decides the bytes, so it needs "
        "another --out)"
    )
    return exit_code(parser, lambda: run(args, given), args.out, too_large=hint)


def run(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    check_projection(args)
    given: dict[str, Any] = vars(args).copy()
    quiet, dry_run, rate, price = (given.pop(k) for k in ("quiet", "dry_run", "rate", "price"))
    if dry_run:
        # The real run, to be copied from what a dry run prints.
        command = [argument for argument in arguments if argument != "--dry-run"]
        print_estimate(given, rate, price, command)
        return 0
    from cifar5m.engines.run import generate
    from worlds.runtime.ranks import rank_of

    # A stopped run says what is finished. Ranks print no summary: each would print the same.
    with ProgressBars(quiet) as on_progress:
        try:
            summary = generate(**given, on_progress=on_progress)
        except Stopped as stopped:
            raise Stopped(stopped.number, what_is_kept(args.out)) from None
    if rank_of(os.environ) is None:
        print(summary)
    return 0


def what_is_kept(out: Path) -> str:
    """Return what a stopped run leaves: `13 of 21 shards (650 images) are kept`."""
    from worlds.formats.plan import load_plan
    from worlds.formats.summary import summarize

    # A run that is stopped early has no plan yet.
    try:
        found = summarize(out, load_plan(out))
    except (ValueError, OSError):
        return "nothing was made yet"
    return f"{found.shards:,} of {found.shards_planned:,} shards ({found.images:,} images) are kept"


def check_projection(args: argparse.Namespace) -> None:
    """Raise ValueError unless --rate and --price are finite, in range, and a dry run's."""
    # argparse reads nan and inf as numbers.
    for name, value in (("rate", args.rate), ("price", args.price)):
        if value is None:
            continue
        if not args.dry_run:
            raise ValueError(f"--{name} is for --dry-run alone")
        if not math.isfinite(value) or value < 0 or (name == "rate" and value == 0):
            least = "above 0" if name == "rate" else "at least 0"
            raise ValueError(f"--{name} must be {least}, got {value:g}")


def print_estimate(
    given: dict[str, Any], rate: float | None, price: float | None, command: Sequence[str]
) -> None:
    """Print what the run takes: on devices of a given rate, on common ones, or on this one."""
    from cifar5m.engines.estimate import measure_run, project_run
    from cifar5m.engines.projection import project_published, without_device
    from cifar5m.sampling.job import Options, keep_earlier_choices

    # The parameters of a run that decide content; the others say where it runs.
    options = Options(**{k: v for k, v in given.items() if k in Options.__dataclass_fields__})
    options = keep_earlier_choices(options, given["out"])
    if rate is not None:
        print("\n".join(project_run(options, rate, price)))
        return
    # Without a GPU the published networks are not downloaded to be timed on a CPU.
    if without_device(options, given["device"]):
        print("\n".join(project_published(options, price, command)))
        return
    with ProgressBars() as on_progress:
        lines = measure_run(options, given["device"], given["workers"], price, on_progress)
        print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
