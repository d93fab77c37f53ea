"""Draw one network in both worlds: test error and soft-error of each, with T0 marked.

    python examples/two_worlds.py out/tiny --n 40 --batch-size 8 --steps 100 --lr 0.003
    python examples/two_worlds.py CIFAR10 --n 1000 --steps 400 --trials 3 --picture two-worlds.png

The data is anything that `worlds.open_store` reads; n and steps are lowered to what it allows.
The same command again resumes its runs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

import worlds
from worlds.training.run_folder import Run

matplotlib.use("Agg")
COLORS = {"real": "tab:red", "ideal": "tab:blue"}
TITLES = {"test_error": "test error", "test_soft_error": "test soft-error"}


def curves(runs: Sequence[Run], column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return updates (P,) and the column's values (trials, P) at the steps that all runs have."""
    steps = sorted(set.intersection(*({row["step"] for row in run.rows} for run in runs)))
    table = [[row[column] for row in run.rows if row["step"] in set(steps)] for run in runs]
    return np.array(steps) + 1, np.array(table)


def draw(comparison: worlds.Comparison, title: str, picture: Path) -> None:
    """Draw error and soft-error side by side: mean over trials, and the range as a band."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, (column, name) in zip(axes, TITLES.items(), strict=True):
        for world, color in COLORS.items():
            runs = [run for run in comparison.runs if run.config.world == world]
            x, y = curves(runs, column)
            axis.plot(x, y.mean(0), color=color, label=f"{world.title()} World")
            axis.fill_between(x, y.min(0), y.max(0), color=color, alpha=0.2, linewidth=0)
        if comparison.t0 is not None:
            axis.axvline(comparison.t0 + 1, color="gray", linestyle=":", label="T0 (median)")
        axis.set(xscale="log", xlabel="updates", title=name)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(title)
    figure.savefig(picture, dpi=120)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="path of a dataset with a test split")
    parser.add_argument("--model", default="myrtle5", help="see worlds-models (default: myrtle5)")
    parser.add_argument(
        "--width", type=int, default=16, help="width of the model, >= 1 (default: 16)"
    )
    parser.add_argument("--n", type=int, default=1000, help="Real World samples (default: 1000)")
    parser.add_argument("--steps", type=int, default=400, help="updates (default: 400)")
    parser.add_argument("--batch-size", type=int, default=64, help="images a step (default: 64)")
    parser.add_argument("--lr", type=float, default=0.05, help="peak rate of SGD (default: 0.05)")
    parser.add_argument("--trials", type=int, default=1, help="runs in each world (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("runs/two-worlds"), help="run directories")
    parser.add_argument("--picture", type=Path, default=Path("two-worlds.png"))
    args = parser.parse_args(argv)
    try:
        fit_to(len(worlds.open_store(args.data).train), args)
        comparison = compare(args)
    except ValueError as error:
        print(f"two_worlds.py: {error}", file=sys.stderr)
        return 2
    print(comparison)
    title = f"{args.model} of width {args.width}, n = {args.n:,}, {args.trials} trial(s)"
    draw(comparison, title, args.picture)
    print(args.picture)
    return 0


def fit_to(images: int, args: argparse.Namespace) -> None:
    """Lower n and the steps to what the train images allow, and say so: Ideal uses each once."""
    n, steps = min(args.n, images), min(args.steps, max(1, images // args.batch_size))
    if (n, steps) != (args.n, args.steps):
        asked = f"{args.n:,} and {args.steps:,}"
        print(f"{images:,} train images: n = {n:,} and {steps:,} steps in place of {asked}")
    args.n, args.steps = n, steps


def compare(args: argparse.Namespace) -> worlds.Comparison:
    """Train, or load what an earlier call has trained."""
    return worlds.compare(
        args.model,
        args.data,
        n=args.n,
        batch_size=args.batch_size,
        steps=args.steps,
        lr=args.lr,
        momentum=0.9,
        options={"width": args.width},
        trials=args.trials,
        log=max(1, args.steps // 20),  # few and small evaluations: training takes most of the time
        test_eval=2_000,
        train_eval=1_000,
        out=args.out,
    )


if __name__ == "__main__":
    sys.exit(main())
