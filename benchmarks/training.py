"""How fast the trainer trains: beside a plain PyTorch loop as users write it.

    python benchmarks/training.py                                   # mlp_3x128 and a thin ResNet-18
    python benchmarks/training.py --arch preresnet18 --device cuda --precision bf16 --steps 2000

The plain loop is a torch DataLoader of two worker processes over a map-style set with torchvision's
RandomCrop, RandomHorizontalFlip and Normalize a sample, `optimizer.zero_grad(); loss.backward();
optimizer.step()` and `loss.item()` for the progress bar. Same network, batch, images and precision;
both in turns in one process, the first turn thrown away, medians compared. `wait` is the share of
a step in which our loop waits for its loader, `peak` the part that its forward and backward passes
reach of the speed of a product of large matrices, timed in the same turns. On CUDA the trainer's
own run, with evaluation at the paper's log points, is timed as well. The last line is JSON.
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
from typing import Any

import numpy as np
import torch
from peak import Product
from torch.utils.flop_counter import FlopCounterMode

from worlds import ArrayStore
from worlds.runtime.device import AUTOCAST_DTYPES
from worlds.runtime.torchvision_ops import declare_missing_operators
from worlds.training.build import Data, batch_format, in_layout, make_loader, make_model
from worlds.training.config import TrainConfig
from worlds.training.stepper import Graph, Stepper

NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp_3x128": ("mlp_3x128", {}),
    "preresnet18, width 8": ("preresnet18", {"width": 8}),
}
POOL, TEST = 50_000, 10_000
LR = 0.01  # at 0.1 the labels, which are random, make ResNet-18 diverge in bfloat16
PACKAGES = ("torch", "torchvision", "numpy", "numba")


def made_data() -> Data:
    """Random images: what is timed does not depend on them."""
    rng = np.random.default_rng(0)

    def made(count: int) -> tuple[np.ndarray, np.ndarray]:
        images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        return images, rng.integers(0, 10, count)

    names = [str(k) for k in range(10)]
    return Data.of(ArrayStore(*made(POOL), *made(TEST), class_names=names))


class Samples(torch.utils.data.Dataset):
    """A sample at a time, as torchvision's own CIFAR10 class hands them out."""

    def __init__(self, data: Data) -> None:
        declare_missing_operators()
        from torchvision.transforms import v2

        self.images = data.train.gather(np.arange(len(data.train)))
        self.labels = data.train.labels.tolist()
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5] * 3, [0.5] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.from_numpy(self.images[index]).permute(2, 0, 1)
        return self.transform(image), self.labels[index]


def plain_loop(config: TrainConfig, data: Data, device: torch.device) -> Callable[[int], float]:
    """Seconds a step of a loop as users write it."""
    loader = torch.utils.data.DataLoader(
        Samples(data),
        config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )
    model = make_model(config, data).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    half = AUTOCAST_DTYPES.get(config.precision)

    def endless() -> Any:
        while True:
            yield from loader

    batches = endless()

    def run(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            x, y = next(batches)
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            optimizer.zero_grad()
            with torch.autocast(device.type, half, enabled=half is not None):
                loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            loss.item()
        return (time.perf_counter() - started) / steps

    return run


class OurLoop:
    """The trainer's steps without its log points; `waits` are seconds spent on the loader."""

    def __init__(
        self, config: TrainConfig, data: Data, device: torch.device, graph: Graph = True
    ) -> None:
        model = in_layout(make_model(config, data), config, device)
        self.stepper = Stepper(config, model, device, graph)
        self.batches = iter(make_loader(config, data.train, batch_format(config, device, model)))
        self.waits: list[float] = []

    def __call__(self, steps: int) -> float:
        started, waited = time.perf_counter(), 0.0
        for _ in range(steps):
            asked = time.perf_counter()
            x, y = next(self.batches)
            waited += time.perf_counter() - asked
            self.stepper.step(x, y, LR)
        self.stepper.check()
        taken = time.perf_counter() - started
        self.waits.append(waited / taken)
        return taken / steps


def flop_per_step(config: TrainConfig, data: Data) -> float:
    """The operations of a forward and a backward pass, as torch counts them."""
    model, x = make_model(config, data), torch.zeros(config.batch_size, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    return float(counter.get_total_flops())


def compare(config: TrainConfig, data: Data, args: argparse.Namespace) -> dict[str, float]:
    device = torch.device(args.device)
    ours, plain = OurLoop(config, data, device), plain_loop(config, data, device)
    loops = {"ours": ours, "plain": plain}
    if device.type == "cuda":
        loops["compiled"] = OurLoop(config, data, device, "compiled")
    product = Product(args.device, AUTOCAST_DTYPES.get(config.precision, torch.float32))
    taken: dict[str, list[float]] = {name: [] for name in loops}
    products = []
    for turn in range(args.rounds + 1):
        for name, run in loops.items():
            seconds = run(args.steps)
            if turn:
                taken[name].append(seconds)
        started = time.perf_counter()
        product()
        products.append(time.perf_counter() - started)
    medians = {name: statistics.median(rows) for name, rows in taken.items()}
    row = {f"{name}_steps_per_second": 1 / seconds for name, seconds in medians.items()}
    gflops = product.gflops(statistics.median(products[1:]))
    return row | {
        "matrix_gflops": gflops,
        "share_of_peak": flop_per_step(config, data) / medians["ours"] / 1e9 / gflops,
        "ratio": medians["plain"] / medians["ours"],
        "wait": statistics.median(ours.waits[1:]),
    }


def whole_run(config: TrainConfig, data: Data, device: str) -> dict[str, float]:
    """The trainer as it is used, evaluation and checkpoints included."""
    from worlds.training.train import train

    with tempfile.TemporaryDirectory() as folder:
        run = train(config, data, Path(folder), device=device)
    assert run.summary is not None
    training, evaluation = run.summary.seconds, run.summary.evaluation_seconds
    return {
        "run_steps_per_second": run.summary.updates / training,
        "evaluation_share": evaluation / (training + evaluation),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", help="only this network")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40, help="a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run-steps", type=int, help="steps of a whole run (default: CUDA 39000)")
    args = parser.parse_args(argv)
    versions = {package: version(package) for package in PACKAGES}
    cuda = args.device.startswith("cuda")
    name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    print(f"{name}, {os.cpu_count()} CPUs, {torch.get_num_threads()} torch threads, {versions}")
    nets = {args.arch: (args.arch, {})} if args.arch else NETS
    data, results = made_data(), {}
    print(f"{'':22}{'plain':>10}{'ours':>10}  steps/s{'ratio':>8}{'wait':>8}{'peak':>8}")
    for label, (arch, options) in nets.items():
        config = TrainConfig(
            arch,
            options,
            momentum=0.9,
            learning_rate=LR,
            batch_size=args.batch_size,
            precision=args.precision,
            steps=args.run_steps or 39_000,
        )
        row = compare(config, data, args)
        speeds = f"{row['plain_steps_per_second']:>10.1f}{row['ours_steps_per_second']:>10.1f}"
        print(
            f"{label:22}{speeds}{'':9}{row['ratio']:>8.2f}{row['wait']:>8.1%}"
            f"{row['share_of_peak']:>8.1%} of {row['matrix_gflops']:,.0f} GFLOP/s"
        )
        if cuda or args.run_steps:
            row |= whole_run(config, data, args.device)
            print(
                f"{'a whole run':22}{'':10}{row['run_steps_per_second']:>10.1f}, "
                f"evaluation {row['evaluation_share']:.0%} of the time"
            )
        results[label] = row
    print(
        json.dumps({"benchmark": "training", **vars(args), "nets": results, "versions": versions})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
