"""Why the Real World's soft-error can be below the Ideal World's at T0, though its error is above.

    python examples/soft_error_sign.py teacher:0 --n 1000
    python examples/soft_error_sign.py CIFAR10 --n 2000 --model preresnet18

Trains one network in the Real World up to T0 and in the Ideal World for as many updates. Then the
Ideal World's logits are divided by the one temperature at which its network is as confident as the
Real World's: the mean of the largest softmax probability is the same. What is left of the
difference in soft-error is not due to confidence.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import torch

import worlds
from worlds.loaders.loaders import SequentialLoader
from worlds.training.metrics import error, soft_error
from worlds.training.run_folder import Run


def confidence(logits: torch.Tensor) -> float:
    """Return the mean of the largest softmax probability."""
    return float(logits.softmax(1).amax(1).mean())


def as_confident_as(logits: torch.Tensor, target: float) -> torch.Tensor:
    """Return the logits over the temperature that makes their confidence `target`, by bisection."""
    low, high = -7.0, 7.0  # of the logarithm
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if confidence(logits / 2**middle) > target else (low, middle)
    return logits / 2**low


def outputs(run: Run, data: worlds.Data) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (N, classes) and labels (N,) of the first test images at the last step."""
    from worlds.training.build import make_model
    from worlds.training.pretrained import read_weights, weights_file

    model = make_model(run.config, data)
    model.load_state_dict(read_weights(weights_file(str(run.folder))))
    model.eval()
    chosen = range(min(len(data.test), run.config.test_eval or len(data.test)))
    batches = SequentialLoader(data.test, 250, indices=list(chosen))
    with torch.no_grad():
        parts = [(model(x), y) for x, y in batches]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def compare(
    config: worlds.TrainConfig, data: worlds.Data, out: Path
) -> dict[str, dict[str, float]]:
    """Return error, soft-error and confidence of each world at T0, and of the Ideal World made
    as confident as the Real one. Raises ValueError if T0 is not reached.
    """
    real = worlds.train(replace(config, world="real", stop="train_error"), data, out / "real")
    if real.stopping_step is None:
        raise ValueError("T0 is not reached: take a smaller --n or more --steps")
    ideal = worlds.train(
        replace(config, world="ideal"), data, out / "ideal", last_step=real.stopping_step
    )
    (ours, labels), (theirs, _) = outputs(real, data), outputs(ideal, data)
    logits = {
        "real": ours,
        "ideal": theirs,
        "ideal, as confident": as_confident_as(theirs, confidence(ours)),
    }
    return {
        name: {
            "error": float(error(z, labels).mean()),
            "soft_error": float(soft_error(z, labels).mean()),
            "confidence": confidence(z),
        }
        for name, z in logits.items()
    } | {"t0": {"updates": real.stopping_step + 1}}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="a dataset with a test split, or teacher:SEED")
    parser.add_argument("--model", default="mlp_3x256", help="see worlds-models")
    parser.add_argument("--n", type=int, default=1_000, help="Real World samples (default: 1000)")
    parser.add_argument("--steps", type=int, default=700, help="of the schedule (default: 700)")
    parser.add_argument("--batch-size", type=int, default=64, help="default: 64")
    parser.add_argument("--trial", type=int, default=0, help="subset, order and weights")
    args = parser.parse_args(argv)
    config = worlds.TrainConfig(
        args.model, n=args.n, steps=args.steps, batch_size=args.batch_size, learning_rate=0.05,
        momentum=0.9, augment=None, log=10, test_eval=2_000, train_eval=1_000, trial=args.trial,
    )  # fmt: skip
    found = compare(config, worlds.Data.of(worlds.open_store(args.data)), Path(mkdtemp()))
    for name, numbers in found.items():
        print(f"{name:19}", "  ".join(f"{key} {value:.4g}" for key, value in numbers.items()))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
