"""Robustness, rationality and memorization: the generalization gap split by a label-noise run
(Bansal, Kaplun, Barak, ICLR 2021, "For self-supervised learning, rationality implies
generalization, provably").

    rrm(clean_run, noisy_run)       # two Real World runs that differ in label_noise alone

All shares are of right answers by the labels before noise. With Train and Test of the clean run,
Train' of all training samples and NTrain' of those with a changed label in the noisy run:

    robustness    [Train  - Train']+    noise in some labels costs little on the whole
    memorization  [Train' - NTrain']+   a wrong label moves its own sample
    rationality   [NTrain' - Test]+     a wrong label is not better than none

Train - Test is at most their sum. Train accuracy is that on images as stored, not augmented.

For a simple classifier on a frozen representation the paper's Theorem II bounds the memorization
gap by its complexity, whatever the representation's (`complexity_bound`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from worlds.training.config import differing_fields
from worlds.training.run_folder import Run


@dataclass(frozen=True)
class RRM:
    """Shares of right answers, and the gaps made of them."""

    train: float
    noisy_train: float  # Train' above
    noisy_part: float  # NTrain' above
    test: float

    @property
    def robustness(self) -> float:
        return max(0.0, self.train - self.noisy_train)

    @property
    def memorization(self) -> float:
        return max(0.0, self.noisy_train - self.noisy_part)

    @property
    def rationality(self) -> float:
        return max(0.0, self.noisy_part - self.test)

    @property
    def bound(self) -> float:
        return self.robustness + self.memorization + self.rationality

    @property
    def generalization_gap(self) -> float:
        return self.train - self.test


def rrm(clean: Run, noisy: Run) -> RRM:
    """Compute the gaps from the last rows of a clean and a noisy Real World run of one trial.
    Raises ValueError if they differ in more than the label noise, or a row lacks what is needed.
    """
    _check_twins(clean, noisy)
    return RRM(
        train=1 - _last(clean, "train_clean_error"),
        noisy_train=1 - _last(noisy, "train_true_error"),
        noisy_part=1 - _last(noisy, "train_corrupted_true_error"),
        test=1 - _last(clean, "test_error"),
    )


def complexity_bound(bits: float, n: int, noise: float) -> float:
    """sqrt(C / 2n) / noise, the memorization gap that a classifier of `bits` can have on n samples
    of which that share has a wrong label: Theorem II, with C = bits * ln 2. The paper's C_pc is the
    information that predictions hold on the noise, in nats; what describes the classifier bounds
    it, so this is looser than the paper's estimate. Above 1 it says nothing.
    """
    return math.sqrt(bits * math.log(2) / (2 * n)) / noise  # nats


def _check_twins(clean: Run, noisy: Run) -> None:
    # Two Real Worlds, one without and one with noise, else alike.
    for run in (clean, noisy):
        if run.config.world != "real":
            raise ValueError(f"{run.folder} is of the Ideal World: RRM is of Real World runs")
    if clean.config.label_noise is not None or noisy.config.label_noise is None:
        raise ValueError(
            f"RRM takes a clean run and one with label noise, got label_noise "
            f"{clean.config.label_noise!r} and {noisy.config.label_noise!r}"
        )
    same = {"label_noise": None, "test_noise": False}  # only the clean run's test set counts
    ours: Mapping[str, object] = clean.config.to_json() | same
    differences = differing_fields(ours, noisy.config.to_json() | same)
    if differences:
        raise ValueError(
            f"{clean.folder} and {noisy.folder} differ in more than the label noise: "
            f"{'; '.join(differences)}"
        )


def _last(run: Run, column: str) -> float:
    value = (run.final or {}).get(column)
    if value is None:
        raise ValueError(f"{run.folder} has no {column} in its last row")
    return float(value)
