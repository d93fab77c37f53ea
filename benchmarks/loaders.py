"""How fast are the loaders, against the peers and against a loop in C?

    python benchmarks/loaders.py               five minutes, 8 GB of memory, a C compiler
    python benchmarks/loaders.py --no-peers    one minute
    python benchmarks/loaders.py --samplers    only the indices of samplers, 20 seconds
    python benchmarks/loaders.py --arrays      only NumPy and JAX, beside a loop over a memory map

Full shuffled epochs of 1,000,000 random 32-pixel images in memory: crop + flip + normalize to
float32 NCHW. Candidates take turns, so that what else the machine does falls on all; the ratio
is the median over the turns of neighbors. "per CPU s" counts the processor time of all threads
instead of the clock's, so other programs hardly change it. Peers run on the first 200,000 images
(less memory to miss is in their favor), where they are installed. The trainer's time is the
processor time of its thread for one batch, with 2 ms of its own work between two batches. The last
line is JSON.
"""

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from peers import PEERS
from torch.utils.data import BatchSampler, RandomSampler

from worlds.bench.throughput import (
    Batches,
    augment,
    median_rate,
    median_ratio,
    random_split,
    samples_per_second,
    worlds_batches,
)
from worlds.data.splits import Split
from worlds.loaders.batch_samplers import RealSampler
from worlds.loaders.loaders import RealLoader

FLOOR, OURS = "C loop, one thread", "worlds"
NO_IMAGES = torch.empty(0)


def compiled_floor(folder: Path) -> ctypes.CDLL:
    source, library = Path(__file__).with_name("loaders_floor.c"), folder / "floor.so"
    command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def floor_batches(fill: ctypes.CDLL, split: Split, batch_size: int) -> Batches:
    """The C loop over shuffled epochs, always into the same buffer."""
    pool, labels = split.images.parts[0], split.labels  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    out = np.empty((batch_size, 3, 32, 32), dtype=np.float32)
    images = torch.from_numpy(out)
    order = rng.permutation(len(split))
    choices = rng.integers(0, (9, 9, 2), (len(split), 3))
    while True:
        for start in range(0, len(order) - batch_size + 1, batch_size):
            part = slice(start, start + batch_size)
            arrays = (pool, order[part], choices[part], out)
            fill.fill(*(ctypes.c_void_p(a.ctypes.data) for a in arrays), batch_size)
            yield images, torch.from_numpy(labels[order[part]])


def candidates(
    args: argparse.Namespace, split: Split, batch_size: int, stack: ExitStack, floor: ctypes.CDLL
) -> dict[str, Callable[[], Batches]]:
    found = {
        FLOOR: partial(floor_batches, floor, split, batch_size),
        OURS: partial(worlds_batches, split, batch_size),
        "worlds, 1 thread": partial(worlds_batches, split, batch_size, threads=1),
        "worlds, no thread": partial(worlds_batches, split, batch_size, threads=0),
        "worlds, bfloat16": partial(worlds_batches, split, batch_size, dtype=torch.bfloat16),
        "worlds, channels_last": partial(worlds_batches, split, batch_size, channels_last=True),
    }
    few = args.peer_images
    images = split.gather(range(few))
    for peer in PEERS if args.peers else ():
        if peer.installed:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="loaders-")))
            data = peer.prepare(images, split.labels[:few], folder)
            found[peer.name] = partial(peer.epochs, data, batch_size)
    return found


def first_batch_seconds(split: Split) -> float:
    start = time.perf_counter()
    next(iter(RealLoader(split, len(split), 128, 100, seed=1, augment="crop+flip")))
    return time.perf_counter() - start


def busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        time.sleep(0.0002)  # as a training step does, let other threads have the interpreter


def trainer_microseconds(batches: Batches, step: Callable[[], None], count: int = 200) -> float:
    """The median processor time that the trainer's thread spends to get a batch made ahead, while
    `step` stands for its own work between two batches.
    """
    spent = []
    for _ in range(count):
        step()
        start = time.thread_time_ns()
        next(batches)
        spent.append((time.thread_time_ns() - start) / 1000)
    return median(spent)


def measure(args: argparse.Namespace, split: Split, batch_size: int) -> dict[str, object]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="floor-")))
        floor = compiled_floor(folder)
        found = candidates(args, split, batch_size, stack, floor)
        last = frozenset(peer.name for peer in PEERS if peer.lingers)
        trainer = trainer_microseconds(worlds_batches(split, batch_size), lambda: busy(0.002))
        rates = samples_per_second(found, args.turns, args.seconds, last)
    print(f"\nbatch {batch_size}: median of {args.turns} turns of {args.seconds} s")
    medians = {name: median_rate(turns) for name, turns in rates.items()}
    ratios = {name: median_ratio(rates[OURS], turns) for name, turns in rates.items()}
    columns = f"{'samples/s':>12} {'worlds is':>10} {'per CPU s':>12} {'worlds is':>10}"
    print(f"{'loader':<46} {columns}")
    for name, rate in medians.items():
        wall, processor = ratios[name]
        print(f"{name:<46} {rate.wall:>12,.0f} {wall:>9.1f}x {rate.processor:>12,.0f}", end="")
        print(f" {processor:>9.1f}x")
    print(f"the trainer's thread spends {trainer:.0f} microseconds a batch")
    return {
        "batch_size": batch_size,
        "samples_per_second": {name: round(rate.wall) for name, rate in medians.items()},
        "samples_per_cpu_second": {name: round(rate.processor) for name, rate in medians.items()},
        "of_the_c_loop": round(ratios[FLOOR].wall, 3),
        "trainer_microseconds": round(trainer, 1),
    }


def index_lists(make: Callable[[], Iterable[list[int]]]) -> Batches:
    """Epochs of lists of indices, as `Batches` whose second part has their length."""
    while True:
        for indices in make():
            yield NO_IMAGES, indices  # type: ignore[misc]


def measure_samplers(args: argparse.Namespace, size: int, batch_size: int) -> dict[str, object]:
    """RealSampler over all of `size` samples beside torch's own RandomSampler, indices alone."""
    own = partial(RealSampler, size, size, batch_size, steps=1 << 40)
    torchs = partial(BatchSampler, RandomSampler(range(size)), batch_size, False)
    found = {OURS: partial(index_lists, own), "torch": partial(index_lists, torchs)}
    # A turn holds several epochs, so that each pays for its permutations.
    rates = samples_per_second(found, args.turns, max(args.seconds, 6e-7 * size))
    ratio = median_ratio(rates[OURS], rates["torch"])
    ours, theirs = median_rate(rates[OURS]), median_rate(rates["torch"])
    print(
        f"indices of {size:,} samples at batch {batch_size}: worlds {ours.wall:,.0f}/s "
        f"({ours.processor:,.0f} per CPU s), torch {theirs.wall:,.0f} ({theirs.processor:,.0f}), "
        f"{ratio.wall:.1f}x ({ratio.processor:.1f}x per CPU s)"
    )
    return {
        "size": size,
        "batch_size": batch_size,
        "indices_per_second": {OURS: round(ours.wall), "torch": round(theirs.wall)},
        "indices_per_cpu_second": {OURS: round(ours.processor), "torch": round(theirs.processor)},
        "ratio": [round(ratio.wall, 2), round(ratio.processor, 2)],
    }


def memmap_batches(
    path: Path, labels: np.ndarray, batch_size: int, take: Callable[[np.ndarray], object]
) -> Batches:
    """Shuffled epochs over a mapped .npy of images as people write them: indexed, then `take`n."""
    images, rng = np.load(path, mmap_mode="r"), np.random.default_rng(0)
    while True:
        order = rng.permutation(len(images))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            part = order[start : start + batch_size]
            yield take(images[part]), labels[part]  # type: ignore[misc]


def measure_arrays(args: argparse.Namespace, batch_size: int) -> dict[str, object]:
    """NHWC batches for NumPy and JAX beside the loop over a map of the same file, with its work."""
    import jax.numpy as jnp

    split = random_split(args.peer_images)
    rng, unit, one = np.random.default_rng(0), np.float32(2 / 255), np.float32(1)
    works = {
        "uint8": ({"normalize": None}, lambda x: x),
        "float32": ({}, lambda x: x * unit - one),
        "crop+flip": ({"augment": "crop+flip"}, lambda x: augment(x, rng).numpy()),
    }
    rows = {}
    with TemporaryDirectory(prefix="arrays-") as folder:
        np.save(path := Path(folder) / "images.npy", split.images.parts[0])  # type: ignore[attr-defined]
        for name, (options, work) in works.items():
            for output, convert in (("numpy", np.asarray), ("jax", jnp.asarray)):
                form = {"output": output, "layout": "NHWC", **options}
                loader = partial(RealLoader, split, len(split), batch_size, 1 << 40, **form)
                found = {
                    OURS: lambda loader=loader: iter(loader()),
                    "loop": partial(
                        memmap_batches,
                        *(path, split.labels, batch_size),
                        lambda x, work=work, convert=convert: convert(work(x)),
                    ),
                }
                rates = samples_per_second(found, args.turns, args.seconds)
                ratio = median_ratio(rates[OURS], rates["loop"])
                ours, theirs = median_rate(rates[OURS]), median_rate(rates["loop"])
                rows[f"{output}, {name}"] = [round(ours.wall), round(theirs.wall)]
                print(
                    f"{output}, {name}, batch {batch_size}: worlds {ours.wall:,.0f} samples/s, "
                    f"memmap loop {theirs.wall:,.0f}, {ratio.wall:.1f}x "
                    f"({ratio.processor:.1f}x per CPU s)"
                )
    return rows


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if "model name" in line), "")


def load() -> str:
    """Of the last minute, as `uptime` prints it: near 1 here where nothing else runs."""
    return f"{os.getloadavg()[0]:.1f}"


def main(argv: list[str] | None = None) -> int:
    parse = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("--images", type=int, default=1_000_000, help="default: 1,000,000")
    parse.add_argument("--peer-images", type=int, default=200_000, help="default: 200,000")
    parse.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512])
    parse.add_argument("--turns", type=int, default=7, help="of each candidate, default: 7")
    parse.add_argument("--seconds", type=float, default=0.7, help="of a turn, default: 0.7")
    parse.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parse.add_argument("--samplers", action="store_true", help="measure only samplers' indices")
    parse.add_argument("--arrays", action="store_true", help="measure only NumPy and JAX")
    args = parse.parse_args(argv)
    torch.set_num_threads(1)
    if args.arrays:
        print(
            f"{args.peer_images:,} images; {os.cpu_count()} cores of {processor()}, load {load()}"
        )
        print(json.dumps({"arrays": [measure_arrays(args, size) for size in args.batch_sizes]}))
        return 0
    sizes = (50_000, 5_000_000)
    samplers = [measure_samplers(args, size, 128) for size in sizes]
    if args.samplers:
        print(json.dumps({"samplers": samplers}))
        return 0
    split = random_split(args.images)
    first = first_batch_seconds(split)
    print(f"{args.images:,} images; {os.cpu_count()} cores of {processor()}, load {load()}")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}")
    print(f"first batch {first:.2f} s after construction began (warm cache)")
    result = {
        "images": args.images,
        "cores": os.cpu_count(),
        "first_batch_seconds": round(first, 3),
        "samplers": samplers,
        "batches": [measure(args, split, size) for size in args.batch_sizes],
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
