"""The paper's Appendix A: linear regression where one Real World is far from its Ideal and one is
near, though both have fewer samples than dimensions.

    write_run(Path("runs/real-0"), config_of(Toy("A"), "real"))    # as the trainer writes one

x ~ N(0, V) in d = 1,000 dimensions, V diagonal with ten ones and a small tail; y = <b*, x> (case A,
n = 20) or its sign (case B, n = 100), with b* the first axis. A linear model is trained from 0 by
100 steps of full-batch gradient descent on the mean squared error (1/n) |Xb - y|^2, its gradient
taken literally (with the factor 2), step 0.1. The Ideal World descends the population risk, which
has a closed form, so it has no trials and no sampling error.

The paper prints the tail variance as 0.1. Its prose ("essentially 10-dimensional") and its curves
fit 0.01 better, which is 0.1 read as a standard deviation: so it is a parameter, and both are run.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from worlds.runtime.files import atomic_write, json_text
from worlds.training.config import TrainConfig
from worlds.training.run_folder import METRICS, DataFacts, write_description, write_summary

Case = Literal["A", "B"]
ARCH: Final = "linear_regression"
SAMPLES: Final[dict[Case, int]] = {"A": 20, "B": 100}
TAILS: Final = (0.1, 0.01)  # as printed, and as the prose reads
# E[x sign(x)] of a standard normal number.
MEAN_MAGNITUDE: Final = math.sqrt(2 / math.pi)


@dataclass(frozen=True)
class Toy:
    """One case of the example. ValueError for what cannot be."""

    case: Case
    tail_variance: float = 0.1
    dimensions: int = 1_000
    head: int = 10  # axes of variance 1, b* the first of them
    learning_rate: float = 0.1
    steps: int = 100

    def __post_init__(self) -> None:
        if self.case not in get_args(Case):
            raise ValueError(f"case must be A or B, got {self.case!r}")
        if not (math.isfinite(self.tail_variance) and self.tail_variance >= 0):
            raise ValueError(f"tail_variance must be 0 or more, got {self.tail_variance}")
        if not 1 <= self.head <= self.dimensions:
            raise ValueError(
                f"head must be between 1 and dimensions = {self.dimensions}, got {self.head}"
            )

    @property
    def n(self) -> int:
        return SAMPLES[self.case]

    @property
    def variances(self) -> np.ndarray:
        """The diagonal of V, float64 (dimensions,)."""
        return np.where(np.arange(self.dimensions) < self.head, 1.0, self.tail_variance)

    @property
    def best(self) -> np.ndarray:
        """The minimum of the population risk: E[x_1 y] on the first axis, float64 (dimensions,)."""
        b = np.zeros(self.dimensions)
        b[0] = 1.0 if self.case == "A" else MEAN_MAGNITUDE
        return b

    def population_risk(self, b: np.ndarray) -> float:
        """Return the expected squared error of <b, x> on a fresh sample; E[y^2] is 1."""
        away, least = b - self.best, 1.0 - self.best[0] ** 2  # error of the best b
        return float(away @ (self.variances * away) + least)

    def sample(self, seed: int, trial: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the trial's n samples: float64 (n, dimensions) and (n,)."""
        generator = np.random.Generator(np.random.Philox(key=[seed, trial]))
        x = generator.standard_normal((self.n, self.dimensions)) * np.sqrt(self.variances)
        return x, x[:, 0] if self.case == "A" else np.sign(x[:, 0])


def real_world(toy: Toy, seed: int = 0, trial: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return train and test loss after 1, 2, ... updates on the trial's samples: two (steps,)."""
    # Full-batch descent from 0; the gradient is (2/n) X^T (Xb - y).
    x, y = toy.sample(seed, trial)
    b, residual = np.zeros(toy.dimensions), -y  # (dimensions,), (n,)
    train, test = np.empty(toy.steps), np.empty(toy.steps)
    for step in range(toy.steps):
        b = b - toy.learning_rate * (2 / toy.n) * (x.T @ residual)
        residual = x @ b - y
        train[step], test[step] = np.mean(residual**2), toy.population_risk(b)
    return train, test


def ideal_world(toy: Toy) -> np.ndarray:
    """Return test loss after 1, 2, ... updates on the population risk, float64 (steps,)."""
    # The gradient of the population risk is 2 V (b - best).
    b, test = np.zeros(toy.dimensions), np.empty(toy.steps)
    for step in range(toy.steps):
        b = b - toy.learning_rate * 2 * toy.variances * (b - toy.best)
        test[step] = toy.population_risk(b)
    return test


def config_of(
    toy: Toy, world: Literal["real", "ideal"], seed: int = 0, trial: int = 0
) -> TrainConfig:
    """Return the run's description. The Ideal World has one trial, 0."""
    return TrainConfig(
        ARCH,
        options={"case": toy.case, "tail_variance": toy.tail_variance, "head": toy.head}
        | {"dimensions": toy.dimensions},
        world=world,
        n=toy.n,
        steps=toy.steps,
        batch_size=toy.n,
        learning_rate=toy.learning_rate,
        schedule="constant",
        loss="mse",
        augment=None,
        seed=seed,
        trial=trial,
        log=1,
    )


def toys(tails: Sequence[float] = TAILS) -> Iterator[Toy]:
    """Return both cases under each reading of the tail."""
    for tail in tails:
        for case in get_args(Case):
            yield Toy(case, tail)


def write_run(folder: Path, config: TrainConfig) -> Path:
    """Write the run of a config that `config_of` made into its directory."""
    # The toy as the config says it, then the curves of its world.
    options: Mapping[str, Any] = config.options
    toy = Toy(**options, learning_rate=config.learning_rate, steps=config.steps)
    if config.world == "ideal":
        rows = [{"test_loss": float(test)} for test in ideal_world(toy)]
    else:
        curves = zip(*real_world(toy, config.seed, config.trial), strict=True)
        rows = [{"test_loss": float(test), "train_loss": float(train)} for train, test in curves]
    data = DataFacts(name="Gaussian inputs (Appendix A)", train=None, test=None)
    return write_finished(folder, config, rows, data, toy.dimensions)


def write_finished(
    folder: Path,
    config: TrainConfig,
    measured: Sequence[dict[str, float]],
    data: DataFacts,
    parameters: int = 0,
) -> Path:
    """Write a finished run folder of these metrics, one row a step.

    The Ideal World's gradient is exact here: it counts no samples.
    """
    real = config.world == "real"
    rows = [
        {
            "step": step,
            "updates": step + 1,
            "samples": (step + 1) * config.batch_size if real else None,
            "learning_rate": config.rate(step),
            **metrics,
        }
        for step, metrics in enumerate(measured)
    ]
    versions = {"numpy": np.__version__}
    write_description(folder, config, data, "cpu", parameters=parameters, versions=versions)
    with atomic_write(folder / METRICS) as stream:
        stream.writelines(map(json_text, rows))
    write_summary(folder, config, rows, "schedule", t0=None, device="cpu")
    return folder
