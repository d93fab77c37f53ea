"""worlds-bench: how many samples a second this machine's loaders make, beside torch's DataLoader.
Random 32-pixel images in memory, crop + flip + normalize, float32 NCHW.

    worlds-bench
    worlds-bench --batch-size 512 --device cuda

The last line is JSON. `benchmarks/loaders.py` of the repository adds FFCV, grain and other peers.
"""

import argparse
import json
from functools import partial
from typing import Any

from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser

PEER = "torch DataLoader, batched numpy"


def make_parser() -> Parser:
    parse = Parser("worlds-bench", __doc__)
    parse.add_argument(
        "--images", type=int, default=100_000, help="BATCH_SIZE or more, default: 100,000"
    )
    parse.add_argument("--batch-size", type=int, default=128, help="1 or more, default: 128")
    parse.add_argument(
        "--threads",
        type=int,
        default=2,
        help="threads that make batches ahead, 0 or more, default: 2",
    )
    parse.add_argument(
        "--device", default="cpu", help="device of this project's loader, default: cpu"
    )
    parse.add_argument(
        "--turns", type=int, default=5, help="measurements of each loader, 1 or more, default: 5"
    )
    parse.add_argument(
        "--seconds", type=float, default=0.5, help="length of a turn, above 0, default: 0.5"
    )
    return parse


def main(argv: list[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)

    def run() -> int:
        print(json.dumps(bench(args)))
        return 0

    return exit_code(parser, run)


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print the table, and return the medians."""
    from worlds.bench import throughput

    if args.images < args.batch_size:
        raise ValueError(f"--images must be at least the batch size {args.batch_size}")
    if args.turns < 1 or not args.seconds > 0:  # which a NaN is not
        raise ValueError("--turns must be 1 or more, --seconds above 0")
    # Both candidates on the same images.
    split = throughput.random_split(args.images)
    images = split.gather(range(len(split)))
    ours, options = f"worlds, {args.device}", {"threads": args.threads, "device": args.device}
    candidates = {
        ours: partial(throughput.worlds_batches, split, args.batch_size, **options),
        PEER: partial(throughput.torch_batches, images, split.labels, args.batch_size),
    }
    rates = throughput.samples_per_second(candidates, args.turns, args.seconds)
    # Medians over the turns; the ratio is that of each turn.
    medians = {name: throughput.median_rate(turns) for name, turns in rates.items()}
    print(f"{'loader':<46} {'samples/s':>12} {'worlds is':>10} {'per CPU second':>15}")
    for name, turns in rates.items():
        ratio, rate = throughput.median_ratio(rates[ours], turns).wall, medians[name]
        print(f"{name:<46} {rate.wall:>12,.0f} {ratio:>9.1f}x {rate.processor:>15,.0f}")
    return {
        "images": args.images,
        "batch_size": args.batch_size,
        "threads": args.threads,
        "device": args.device,
        "samples_per_second": {name: round(rate.wall) for name, rate in medians.items()},
        "samples_per_cpu_second": {name: round(rate.processor) for name, rate in medians.items()},
    }


if __name__ == "__main__":
    raise SystemExit(main())
