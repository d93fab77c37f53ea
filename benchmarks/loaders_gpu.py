"""How fast does a GPU make batches, against a plain copy of as many bytes?

    python benchmarks/loaders_gpu.py

Full shuffled epochs of random 32-pixel images that live on the GPU: crop + flip + normalize, both
layouts and precisions, at several batch sizes. The floor is a copy kernel that reads as many bytes
as an image has and writes as many as the batch. Candidates take turns, each ends with a
synchronization; medians. The last line is JSON.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial

import torch

from worlds.bench.throughput import (
    Batches,
    median_rate,
    random_split,
    samples_per_second,
    worlds_batches,
)
from worlds.data.splits import Split

LAYOUTS = {"NCHW": False, "NHWC": True}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def copies(batch_size: int, dtype: torch.dtype, device: str) -> Batches:
    """Batches that are converted from uint8 in one kernel, without choosing or moving anything."""
    source = torch.zeros(batch_size, 3, 32, 32, dtype=torch.uint8, device=device)
    out = torch.empty(batch_size, 3, 32, 32, dtype=dtype, device=device)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
    while True:
        yield out.copy_(source), labels


def measure(split: Split, batch_size: int, args: argparse.Namespace) -> dict[str, int]:
    candidates: dict[str, Callable[[], Batches]] = {}
    for name, dtype in DTYPES.items():
        candidates[f"copy, {name}"] = partial(copies, batch_size, dtype, args.device)
        for layout, last in LAYOUTS.items():
            options = {"device": args.device, "dtype": dtype, "channels_last": last}
            made = partial(worlds_batches, split, batch_size, **options)
            candidates[f"worlds, {name} {layout}"] = made
    rates = samples_per_second(candidates, args.turns, args.seconds)
    medians = {name: round(median_rate(turns).wall) for name, turns in rates.items()}
    print(f"\nbatch {batch_size:,}: median of {args.turns} turns of {args.seconds} s, images/s")
    for name, rate in medians.items():
        print(f"{name:<28} {rate:>14,}")
    return medians


def main(argv: list[str] | None = None) -> int:
    parse = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("--device", default="cuda", help="default: cuda")
    parse.add_argument("--images", type=int, default=5_000_000, help="default: 5,000,000")
    parse.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512, 4096, 65536])
    parse.add_argument("--turns", type=int, default=5, help="of each candidate, default: 5")
    parse.add_argument("--seconds", type=float, default=0.5, help="of a turn, default: 0.5")
    args = parse.parse_args(argv)
    split = random_split(args.images)
    rates = {size: measure(split, size, args) for size in args.batch_sizes}
    gpu = torch.cuda.get_device_name(args.device) if args.device != "cpu" else "cpu"
    result = {"benchmark": "loaders_gpu", "device": gpu, "images": args.images}
    print(json.dumps(result | {"torch": torch.__version__, "images_per_second": rates}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
