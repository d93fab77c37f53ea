"""How fast shards are decoded: cifar5m-pack's worker beside a plain webdataset loop.

    python benchmarks/packing.py                     # 5 rounds of 20,000 images
    python benchmarks/packing.py --images 100000 --rounds 3

One process each, the same shards, in turns; the first round is thrown away and medians of the
others compared. webdataset reads, decodes (`decode("rgb8")`) and copies into one array; ours also
checks the tar's sha256, the side file and every name, and brings the pixels to the disk. The
pictures are blurred noise whose PNGs have about the size of CIFAR's. The last line is JSON.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from cifar5m.shards.decode import DecodeJob, decode_shard
from worlds.formats.layout import Layout, Shard
from worlds.formats.shards import encode_png, write_shard

SHARD = 10_000
SHAPE = (32, 32, 3)
PACKAGES = ("webdataset", "pillow", "numpy")


def pictures(count: int, seed: int) -> np.ndarray:
    """uint8 (count, 32, 32, 3): coarse noise, blurred, with fine noise on top."""
    generator = np.random.default_rng(seed)
    coarse = generator.normal(0, 60, (count, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    for axis in (1, 2):
        coarse = np.mean([np.roll(coarse, shift, axis) for shift in (-1, 0, 1, 2)], axis=0)
    fine = generator.normal(0, 6, coarse.shape)
    return np.clip(coarse + fine + 128, 0, 255).astype(np.uint8)


def make_shards(folder: Path, images: int) -> list[Shard]:
    shards = Layout((("train", images),), SHARD).shards()
    for shard in shards:
        labels = np.arange(shard.start, shard.stop) % 10
        encoded = map(encode_png, pictures(len(shard), shard.number))
        write_shard(folder, shard, encoded, labels, np.eye(10)[labels], {"fingerprint": "0"})
    return shards


def ours(folder: Path, shards: list[Shard]) -> Callable[[], np.ndarray]:
    target = folder / "images.raw"
    size = int(np.prod(SHAPE))
    with target.open("wb") as stream:
        stream.truncate(shards[-1].stop * size)
    jobs = [DecodeJob(folder, s, "png", SHAPE, target, s.start * size) for s in shards]

    def run() -> np.ndarray:
        for job in jobs:
            decode_shard(job)
        return np.memmap(target, np.uint8, "r", shape=(shards[-1].stop, *SHAPE))

    return run


def webdataset_loop(folder: Path, shards: list[Shard]) -> Callable[[], np.ndarray]:
    import webdataset

    urls = [str(folder / shard.tar) for shard in shards]

    def run() -> np.ndarray:
        dataset = webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8")
        out = np.empty((shards[-1].stop, *SHAPE), np.uint8)
        for row, (image, _) in enumerate(dataset.to_tuple("png", "cls")):
            out[row] = image
        return out

    return run


def measure(runs: dict[str, Callable[[], np.ndarray]], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of each by the wall and by the process's own CPU time, taking turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter(), time.process_time()
            run()
            if turn:
                taken[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return {
        name: {
            "wall": statistics.median(wall for wall, _ in rows),
            "cpu": statistics.median(cpu for _, cpu in rows),
            "wall_min": min(wall for wall, _ in rows),
            "wall_max": max(wall for wall, _ in rows),
        }
        for name, rows in taken.items()
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    versions = {package: version(package) for package in PACKAGES}
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {versions}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = make_shards(folder, args.images)
        tar_bytes = sum((folder / shard.tar).stat().st_size for shard in shards)
        print(f"{args.images:,} images, {tar_bytes / args.images:,.0f} bytes each in the tar")
        runs = {
            "ours": ours(folder, shards),
            "webdataset": webdataset_loop(folder, shards),
        }
        results = [np.array(run()) for run in runs.values()]
        assert all(np.array_equal(results[0], other) for other in results[1:])
        taken = measure(runs, args.rounds)
    print(f"\n{'':14}{'images/s':>10}{'least':>10}{'most':>10}{'per CPU s':>12}{'ratio':>8}")
    for name, row in taken.items():
        rates = [args.images / row[key] for key in ("wall", "wall_max", "wall_min", "cpu")]
        ratio = taken["webdataset"]["cpu"] / row["cpu"]
        print(f"{name:14}{''.join(f'{rate:>10,.0f}' for rate in rates[:3])}", end="")
        print(f"{rates[3]:>12,.0f}{ratio:>8.2f}")
    result = {
        "benchmark": "packing",
        "images": args.images,
        "rounds": args.rounds,
        "tar_bytes_per_image": tar_bytes / args.images,
        "seconds": taken,
        "ratio_cpu": taken["webdataset"]["cpu"] / taken["ours"]["cpu"],
        "ratio_wall": taken["webdataset"]["wall"] / taken["ours"]["wall"],
        "versions": versions,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
