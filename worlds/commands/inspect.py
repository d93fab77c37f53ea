"""worlds-inspect STORE: what a loader would yield. Counts, the reuse histogram of a whole run, and
a contact sheet of augmented samples.

    worlds-inspect out/tiny --world real --n 500 --steps 100 --batch-size 32
    worlds-inspect pack --world ideal --out sheet.png

The last line is JSON.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser
from worlds.commands.common import AUGMENTS

if TYPE_CHECKING:
    from worlds.data.splits import Split
    from worlds.loaders.base import Loader


def make_parser() -> Parser:
    parse = Parser("worlds-inspect", __doc__)
    parse.add_argument("store", metavar="STORE", help="anything that open_store reads")
    parse.add_argument("--split", default="train", help="default: train")
    worlds = ("real", "ideal", "reuse", "bootstrap")
    parse.add_argument("--world", choices=worlds, default="real", help="default: real")
    parse.add_argument("--n", type=int, help="samples, 1 or more (default: the whole split)")
    parse.add_argument("--reuse", type=int, default=2, help="passes of --world reuse (default: 2)")
    parse.add_argument("--batch-size", type=int, default=128, help="1 or more (default: 128)")
    parse.add_argument("--steps", type=int, help="1 or more (default: as many as one pass feeds)")
    ends = ("carry", "drop", "short")
    parse.add_argument("--remainder", choices=ends, default="carry", help="default: carry")
    parse.add_argument(
        "--augment", choices=AUGMENTS, default="crop+flip", help="default: crop+flip"
    )
    parse.add_argument("--seed", type=int, default=0, help="0 or more, below 2^64 (default: 0)")
    parse.add_argument("--trial", type=int, default=0, help="0 or more, below 2^32 (default: 0)")
    parse.add_argument("--out", metavar="PNG", type=Path, help="write a contact sheet here")
    return parse


def main(argv: list[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)

    def run() -> int:
        print(json.dumps(inspect(args)))
        return 0

    return exit_code(parser, run)


def inspect(args: argparse.Namespace) -> dict[str, object]:
    """Print what the loader would yield; the same in short."""
    from worlds.bench.inspection import contact_sheet, reuse_histogram, use_counts
    from worlds.data.splits import labels_of
    from worlds.data.stores import open_store

    # The loader itself counts, without making a batch.
    store = open_store(args.store)
    loader = make_loader(store[args.split], args)
    steps, split = len(loader), loader.dataset
    counts = use_counts(loader.sampler, steps)  # (pool,)
    histogram = reuse_histogram(counts)
    distinct = int((counts > 0).sum())
    handed = int(counts.sum())
    # The counts in words, how often samples are used, and of which classes.
    print(store)
    print(f"{args.split}: images {split.image_shape}, fingerprint {split.fingerprint[:16]}")
    print(f"{args.world}: {steps:,} steps of {args.batch_size:,}, {handed:,} samples handed out,")
    print(f"  {distinct:,} distinct, each {handed / distinct:.2f} times on average")
    print("uses    samples")
    for uses, samples in _shortened(histogram).items():
        print(f"{uses:>4}  {samples:>9,}")
    per_class = np.bincount(labels_of(split), weights=counts > 0, minlength=len(split.class_names))
    print("class           samples used")
    for name, samples in zip(split.class_names, per_class.astype(int), strict=True):
        print(f"{name:<14}  {samples:>12,}")
    if args.out is not None:
        sheet = contact_sheet(loader, rows=8, columns=16)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(args.out, "png")
        print(args.out)
    return {
        "store": args.store,
        "world": args.world,
        "steps": steps,
        "batch_size": args.batch_size,
        "samples": handed,
        "distinct": distinct,
        "most_uses": max(histogram),
    }


def make_loader(split: "Split", args: argparse.Namespace) -> "Loader":
    from worlds.loaders.loaders import BootstrapLoader, FixedReuseLoader, IdealLoader, RealLoader

    # One pass by default.
    n = len(split) if args.n is None else args.n
    augment = None if args.augment == "none" else args.augment
    common: dict[str, Any] = {"seed": args.seed, "trial": args.trial, "augment": augment}
    one_pass = max(1, n // args.batch_size) if args.batch_size > 0 else 1
    steps = one_pass if args.steps is None else args.steps
    if args.world == "bootstrap":
        return BootstrapLoader(split, n, args.batch_size, steps, **common)
    common["remainder"] = args.remainder
    if args.world == "real":
        return RealLoader(split, n, args.batch_size, steps, **common)
    if args.world == "reuse":
        return FixedReuseLoader(
            split, args.n, args.batch_size, args.steps, reuse=args.reuse, **common
        )
    if args.n is not None:
        raise ValueError("--world ideal draws from the whole split: leave --n out")
    return IdealLoader(split, args.batch_size, args.steps, **common)


def _shortened(histogram: dict[int, int], rows: int = 12) -> dict[str, int]:
    """Return at most `rows` rows: past that, ranges of equal width."""
    if len(histogram) <= rows:
        return {str(uses): samples for uses, samples in histogram.items()}
    # Ranges of uses that cover all of them.
    low, high = min(histogram), max(histogram)
    width = -(-(high - low + 1) // rows)
    ranges: dict[str, int] = {}
    for uses, samples in histogram.items():
        start = low + (uses - low) // width * width
        label = f"{start}-{start + width - 1}"
        ranges[label] = ranges.get(label, 0) + samples
    return ranges


if __name__ == "__main__":
    raise SystemExit(main())
