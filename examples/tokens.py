"""A small causal language model: is text that is read again worth as much as fresh text?

    python examples/tokens.py --out out/tokens

The corpus is made on the spot: walks over the letters of a made-up language, in which each letter
decides the chances of the next.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

import worlds

LETTERS, LENGTH = 24, 32


def make_corpus(sequences: int, seed: int) -> np.ndarray:
    """Return letters, int64 (sequences, LENGTH + 1)."""
    chances = np.random.default_rng(0).dirichlet(np.full(LETTERS, 0.1), LETTERS)
    ends = chances.cumsum(-1)
    random = np.random.default_rng(seed)
    text = random.integers(0, LETTERS, (sequences, LENGTH + 1))
    for place in range(1, LENGTH + 1):
        row = ends[text[:, place - 1]]  # (sequences, LETTERS)
        drawn = random.random((sequences, 1))
        text[:, place] = (drawn > row).sum(1).clip(max=LETTERS - 1)
    return text


class Reader(nn.Module):
    """One block of causal attention."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.letters = nn.Embedding(LETTERS, width)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        self.block = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True)
        self.head = nn.Linear(width, LETTERS)
        mask = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        x = self.letters(text) + self.places  # (B, LENGTH, width)
        return self.head(self.block(x, src_mask=self.mask))  # (B, LENGTH, LETTERS)


def main(argv: list[str] | None = None) -> worlds.Comparison:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--out", type=Path, default=Path("out/tokens"))
    parse.add_argument("--n", type=int, default=32, help="sequences of the Real World")
    parse.add_argument("--steps", type=int, default=300)
    args = parse.parse_args(argv)

    train, test = make_corpus(32 * args.steps, 1), make_corpus(200, 2)
    store = worlds.ArrayStore(train[:, :-1], train[:, 1:], test[:, :-1], test[:, 1:])
    comparison = worlds.compare(
        Reader,
        store,
        n=args.n,
        batch_size=32,
        steps=args.steps,
        worlds=("real", "reuse:4", "ideal"),  # n sequences; each four times; each once
        optimizer=torch.optim.AdamW,
        lr=5e-3,
        train_eval=200,
        log=15,
        out=args.out / "runs",
    )
    print(comparison)
    comparison.plot().figure.savefig(args.out / "worlds.png")
    return comparison


if __name__ == "__main__":
    main()
