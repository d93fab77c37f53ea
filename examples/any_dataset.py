"""Any map-style dataset: samplers of worlds in a torch DataLoader.

    python examples/any_dataset.py --out out/any_dataset --workers 2

The dataset here draws its images when they are asked for. torchvision's ImageFolder, a table of
Hugging Face's `datasets`, or anything else with `__len__` and `__getitem__` goes in its place.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import worlds


class Waves(Dataset):
    """Sample i is a noisy sine wave whose frequency is its class; asked again, the same."""

    def __init__(self, size: int, first: int = 0) -> None:
        self.size, self.first = size, first

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        random = np.random.default_rng(self.first + index)
        label = int(random.integers(8))
        phase, time = random.uniform(0, 2 * np.pi), np.arange(64) / 64
        wave = np.sin(2 * np.pi * (label + 1) * time + phase) + random.normal(size=64)
        return torch.tensor(wave, dtype=torch.float32), label


def train(sampler: worlds.RealSampler | worlds.IdealSampler, args: argparse.Namespace) -> None:
    data, test = Waves(32 * args.steps), DataLoader(Waves(500, first=1 << 40), batch_size=500)
    seen = DataLoader(torch.utils.data.Subset(data, range(0)), batch_size=500)
    world = "real" if isinstance(sampler, worlds.RealSampler) else "ideal"
    if world == "real":
        samples = sampler.sampler.samples.tolist()
        seen = DataLoader(torch.utils.data.Subset(data, samples), batch_size=500)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 8))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    folder, size = args.out / "runs" / world, {"batch_size": 32, "steps": args.steps}
    with worlds.Recorder(folder, world=world, n=args.n, log=40, **size) as run:
        loader = DataLoader(data, batch_sampler=sampler, num_workers=args.workers)
        for step, (x, y) in enumerate(loader):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            if run.due(step):
                train = {"train": worlds.evaluate(model, seen)} if world == "real" else {}
                run.log(step, test=worlds.evaluate(model, test), **train)


def main(argv: list[str] | None = None) -> worlds.Comparison:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--out", type=Path, default=Path("out/any_dataset"))
    parse.add_argument("--n", type=int, default=500, help="samples of the Real World")
    parse.add_argument("--steps", type=int, default=400)
    parse.add_argument("--workers", type=int, default=0, help="processes that read ahead")
    args = parse.parse_args(argv)

    size = 32 * args.steps
    train(worlds.RealSampler(size, args.n, 32, args.steps, seed=0), args)
    train(worlds.IdealSampler(size, 32, args.steps, seed=0), args)
    comparison = worlds.Comparison.of(args.out / "runs")
    print(comparison)
    comparison.plot().figure.savefig(args.out / "worlds.png")
    return comparison


if __name__ == "__main__":
    main()
