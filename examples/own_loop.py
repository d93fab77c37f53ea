"""A training loop of one's own: loaders of worlds, and a `worlds.Recorder` for its curves.

python examples/own_loop.py --out out/own_loop
worlds-report out/own_loop/runs --out out/own_loop/report
"""

import argparse
from pathlib import Path

import torch
from made_images import make_images
from torch import nn

import worlds


def train(world: str, store: worlds.Store, folder: Path, n: int, steps: int) -> None:
    """Train once; the two worlds differ in the loader alone."""
    size = {"batch_size": 32, "steps": steps}
    if world == "real":
        loader = worlds.RealLoader(store.train, n, **size)
    else:
        loader = worlds.IdealLoader(store.train, **size)
    test = worlds.SequentialLoader(store.test, 500)
    seen = worlds.SequentialLoader(store.train, 500, indices=loader.sampler.samples)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with worlds.Recorder(folder, world=world, n=n, model="my MLP", log=20, **size) as run:
        for step, (x, y) in enumerate(loader):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if run.due(step):
                measured = {"test": worlds.evaluate(model, test)}
                if world == "real":
                    measured["train"] = worlds.evaluate(model, seen)
                run.log(step, batch_loss=loss, **measured)


def main(argv: list[str] | None = None) -> worlds.Comparison:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--out", type=Path, default=Path("out/own_loop"))
    parse.add_argument("--n", type=int, default=500, help="samples of the Real World")
    parse.add_argument("--steps", type=int, default=600)
    args = parse.parse_args(argv)

    store = worlds.ArrayStore(*make_images(32 * args.steps, 1), *make_images(1_000, 2))
    for world in ("real", "ideal"):
        train(world, store, args.out / "runs" / world, args.n, args.steps)
    comparison = worlds.Comparison.of(args.out / "runs")
    print(comparison)
    comparison.plot().figure.savefig(args.out / "worlds.png")
    return comparison


if __name__ == "__main__":
    main()
