"""A network of one's own in both worlds: `worlds.compare`.

    python examples/own_model.py --out out/own_model

Give --data a dataset directory of 32-pixel images (`cifar5m-pack` makes one) to use real images.
"""

import argparse
from pathlib import Path

import torch
from made_images import make_images
from torch import nn

import worlds


class TinyNet(nn.Module):
    """Two convolutions and a linear classifier."""

    def __init__(self, channels: int, classes: int, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(4),
        )
        self.head = nn.Linear(32 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).flatten(1))  # (B, classes)


def main(argv: list[str] | None = None) -> worlds.Comparison:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--data", help="a dataset directory (default: images made here)")
    parse.add_argument("--out", type=Path, default=Path("out/own_model"))
    parse.add_argument("--n", type=int, default=300, help="samples of the Real World")
    parse.add_argument("--steps", type=int, default=400)
    args = parse.parse_args(argv)

    if args.data is None:
        store = worlds.ArrayStore(*make_images(32 * args.steps, 1), *make_images(1_000, 2))
    else:
        store = worlds.open_store(args.data)
    channels, classes = store.train.image_shape[-1], len(store.class_names)

    # A function that builds the network: every run begins with a new one.
    comparison = worlds.compare(
        lambda: TinyNet(channels, classes),
        store,
        n=args.n,
        batch_size=32,
        steps=args.steps,
        optimizer=torch.optim.AdamW,
        lr=3e-3,
        log=20,
        out=args.out / "runs",
    )
    print(comparison)
    comparison.plot().figure.savefig(args.out / "worlds.png")
    return comparison


if __name__ == "__main__":
    main()
