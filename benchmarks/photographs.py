"""How fast photographs become batches: decode, RandomResizedCrop(224), flip, normalize, collate.

    python benchmarks/photographs.py                       # 10,000 photographs, 5 rounds
    python benchmarks/photographs.py --photographs DIR --images 2000 --rounds 3

One process each, one thread, taking turns; the first round is thrown away, and medians of the CPU
seconds compared, so that a busy machine matters little. All read the same JPEGs (shorter side 256,
quality 90, as dogbird-build writes them), made from the photographs in DIR, repeated to 10,000:
ours and webdataset from one set of shards, ImageFolder from files. All give float32 batches of 128.
The last line is JSON.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import worlds.runtime.torchvision_ops  # noqa: F401  (before torchvision)
from dogbird.building import EXTENSION
from dogbird.convert import Format, convert
from worlds import RealLoader, open_store
from worlds.formats.layout import FORMAT
from worlds.formats.plan import Plan, claim_folder, seal
from worlds.formats.shards import write_shard

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenet-samples"
PACKAGES = ("torch", "torchvision", "webdataset", "pillow", "simplejpeg", "numba")
BATCH, SHARD = 128, 1000
OURS = "worlds"

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


def write_photographs(folder: Path, jpegs: list[bytes], images: int) -> None:
    """Shards under `shards`, and a folder a class under `folder`."""
    plan = Plan(
        format=FORMAT,
        splits={"train": images},
        shard_size=SHARD,
        image_shape=(None, None, 3),
        extension=EXTENSION,
        class_names=("a", "b"),
        fingerprint="",
    )
    claim_folder(folder / "shards", plan := seal(plan))
    facts = {"fingerprint": plan.fingerprint}
    for shard in plan.shards:
        index = np.arange(shard.start, shard.stop)
        rows = [jpegs[i % len(jpegs)] for i in index]
        labels = index % 2
        write_shard(folder / "shards", shard, rows, labels, np.eye(2)[labels], facts, EXTENSION)
        for i, data in zip(index, rows, strict=True):
            path = folder / "folder" / "ab"[i % 2] / f"{i:09d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def ours(folder: Path, images: int) -> Batches:
    split = open_store(folder / "shards").train
    steps = images // BATCH
    return RealLoader(split, images, BATCH, steps, augment="crop+flip", threads=0)


def _of_pil() -> Callable[[Any], torch.Tensor]:
    """The reference training script's transforms: crop on the PIL image, then to a tensor."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )


def _of_tensors() -> Callable[[Any], torch.Tensor]:
    """v2 on uint8 tensors, which the torchvision documentation recommends for speed."""
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(224, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )


def image_folder(transform: Callable[[Any], torch.Tensor], folder: Path) -> Batches:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(folder / "folder"), transform)
    return DataLoader(dataset, BATCH, shuffle=True, drop_last=True)


def web_dataset(transform: Callable[[Any], torch.Tensor], folder: Path) -> Batches:
    import webdataset

    tars = sorted(str(path) for path in (folder / "shards" / "data").glob("*.tar"))
    samples = webdataset.WebDataset(tars, shardshuffle=len(tars)).shuffle(1000).decode("pil")
    return samples.to_tuple("jpg", "cls").map_tuple(transform).batched(BATCH, partial=False)


def runs(folder: Path, images: int) -> dict[str, Callable[[], Batches]]:
    return {
        OURS: lambda: ours(folder, images),
        "ImageFolder + DataLoader, PIL": lambda: image_folder(_of_pil(), folder),
        "ImageFolder + DataLoader, v2": lambda: image_folder(_of_tensors(), folder),
        "webdataset, PIL": lambda: web_dataset(_of_pil(), folder),
        "webdataset, v2": lambda: web_dataset(_of_tensors(), folder),
    }


def one_pass(batches: Batches) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds and images of one pass."""
    wall, cpu, seen = time.perf_counter(), time.process_time(), 0
    for images, _ in batches:
        assert images.shape == (BATCH, 3, 224, 224)
        assert images.dtype == torch.float32
        seen += len(images)
    return time.perf_counter() - wall, time.process_time() - cpu, seen


def measure(runs: dict[str, Callable[[], Batches]], rounds: int) -> dict[str, dict[str, float]]:
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, make in runs.items():
            wall, cpu, seen = one_pass(make())
            if turn:
                taken[name].append((seen / wall, seen / cpu))
    return {name: dict(_rates(rows)) for name, rows in taken.items()}


def _rates(rows: list[tuple[float, float]]) -> Iterator[tuple[str, float]]:
    """Images a second: by the wall, by CPU time, and the least and most of that."""
    cpu = [rate for _, rate in rows]
    yield "wall", statistics.median(rate for rate, _ in rows)
    yield "cpu", statistics.median(cpu)
    yield "least", min(cpu)
    yield "most", max(cpu)


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, default=SAMPLES, help="a folder of JPEGs")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    paths = sorted(args.photographs.glob("*.JPEG"))
    if not paths:
        parser.error(f"{args.photographs} holds no *.JPEG")
    jpegs = [convert(path.read_bytes(), Format()) for path in paths]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {versions()}")
    print(f"{len(jpegs)} photographs, {np.mean([len(j) for j in jpegs]):,.0f} bytes each, repeated")
    with tempfile.TemporaryDirectory() as name:
        write_photographs(Path(name), jpegs, args.images)
        rates = measure(runs(Path(name), args.images), args.rounds)
    best = max(row["cpu"] for name, row in rates.items() if name != OURS)
    print(f"\n{'':32}{'img/CPU s':>10}{'least':>8}{'most':>8}{'img/s':>8}{'ratio':>8}")
    for name, row in rates.items():
        numbers = (
            f"{row['cpu']:>10,.0f}{row['least']:>8,.0f}{row['most']:>8,.0f}{row['wall']:>8,.0f}"
        )
        print(f"{name:32}{numbers}{rates[OURS]['cpu'] / row['cpu']:>8.2f}")
    result = {
        "benchmark": "photographs",
        "images": args.images,
        "rounds": args.rounds,
        "rates": rates,
        "ratio_to_best": rates[OURS]["cpu"] / best,
        "versions": versions(),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
