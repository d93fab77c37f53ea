"""Samples per second of StreamLoader and of plain webdataset, over HTTP on this machine.

    python benchmarks/remote_shards.py                        # 8 shards of 5,000 images, 3 rounds
    python benchmarks/remote_shards.py --workers 0 --shards 4

Both read the same tars from one server in a process of its own, decode, shuffle, and hand out
normalized float32 batches of 128; only StreamLoader crops and flips as well. Plain webdataset is
WebDataset(...).shuffle(1000).decode("rgb8").to_tuple(...).batched(128), in a DataLoader. Rounds
alternate; a warm-up round is not counted. The last line is JSON: mean and standard deviation.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worlds import StreamLoader
from worlds.formats.shards import encode_png, write_tar
from worlds.runtime.processes import cpu_count

BATCH = 128
SERVER = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=8, help="tars, >= 1 (default 8)")
    parser.add_argument("--size", type=int, default=5_000, help="images a tar (default 5000)")
    parser.add_argument("--workers", type=int, default=2, help="reading processes (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds, >= 2 (default 3)")
    return parser.parse_args(argv)


def write_shards(folder: Path, shards: int, size: int) -> None:
    """Write tars of smooth 32 x 32 images, whose PNGs have about the size of CIFAR-10's."""
    rng = np.random.default_rng(0)
    for shard in range(shards):
        coarse = rng.integers(0, 248, (size, 16, 16, 3), dtype=np.uint8)
        images = coarse.repeat(2, 1).repeat(2, 2) + rng.integers(0, 8, (size, 32, 32, 1), np.uint8)
        rows = ((i, encode_png(image), i % 10) for i, image in enumerate(images))
        with (folder / f"{shard:05d}.tar").open("wb") as stream:
            write_tar(stream, rows, "png")


def stream(url: str, workers: int, seed: int) -> Iterable[Any]:
    return StreamLoader(url, BATCH, augment="crop+flip", seed=seed, workers=workers)


def plain(url: str, workers: int, seed: int) -> Iterable[Any]:
    import webdataset as wds

    dataset = (
        wds.WebDataset(url, shardshuffle=100, seed=seed)
        .shuffle(1000)
        .decode("rgb8")
        .to_tuple("png", "cls")
        .map_tuple(normalized, None)
        .batched(BATCH)
    )
    return torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers)


def normalized(image: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, 3) to float32 (3, H, W) in [-1, 1]."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float().div_(127.5).sub_(1)


def rate(loader: Iterable[Any], expected: int) -> float:
    """Return samples/s of one whole pass, from the first batch asked for to the last."""
    start, seen = time.perf_counter(), 0
    for _, labels in loader:
        seen += len(labels)
    assert seen == expected, f"{seen} samples of {expected}"
    return seen / (time.perf_counter() - start)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    makers: dict[str, Callable[..., Iterable[Any]]] = {"StreamLoader": stream, "webdataset": plain}
    rates: dict[str, list[float]] = {name: [] for name in makers}
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), args.shards, args.size)
        server = subprocess.Popen(
            [*SERVER, folder], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split("(")[1].split("/)")[0]
            url = f"{address}/{{00000..{args.shards - 1:05d}}}.tar"
            for seed in range(args.rounds + 1):
                for name, make in makers.items():
                    found = rate(make(url, args.workers, seed), args.shards * args.size)
                    rates[name] += [found] if seed else []
                    print(f"round {seed} {name:13} {found:9,.0f} samples/s", flush=True)
        finally:
            server.kill()
            server.wait()
    summary = {
        name: {"mean": round(statistics.mean(values)), "sd": round(statistics.stdev(values))}
        for name, values in rates.items()
    }
    facts = {"cpus": cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    print(json.dumps(summary | vars(args) | facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
