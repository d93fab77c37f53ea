"""Robustness, rationality, memorization of shares that are set by hand."""

import numpy as np
import pytest

from tests.worlds.made_runs import config, write_pair, write_run
from worlds.report.rrm import RRM, complexity_bound, rrm

CLEAN = {"train_clean_error": 0.02, "test_error": 0.15}
NOISY = {"train_true_error": 0.10, "train_corrupted_true_error": 0.50}


def write(root, clean=CLEAN, noisy=NOISY, **changes):
    own = config(label_noise="symmetric:0.2", **changes)
    return (
        write_run(root / "clean", config(), lambda step: clean),
        write_run(root / "noisy", own, lambda step: noisy),
    )


def test_gaps_come_from_the_last_rows_of_a_clean_and_a_noisy_run(tmp_path):
    found = rrm(*write(tmp_path))
    assert found.robustness == pytest.approx(0.08)
    assert found.memorization == pytest.approx(0.40)
    assert found.rationality == 0  # the wrongly labeled do worse than the test samples
    assert found.generalization_gap == pytest.approx(0.13)
    assert found.bound == pytest.approx(0.48)


def test_the_sum_bounds_the_generalization_gap_whatever_the_shares():
    shares = np.random.default_rng(0).random((1_000, 4))
    for found in (RRM(*row) for row in shares):
        assert found.generalization_gap <= found.bound + 1e-12
        assert min(found.robustness, found.memorization, found.rationality) >= 0


def test_the_bound_by_bits_is_pinskers_and_holds_for_a_memorizer():
    assert complexity_bound(2 * 1_000 / np.log(2), 1_000, 1.0) == pytest.approx(1.0)
    assert complexity_bound(400, 1_000, 0.05) == pytest.approx(20 * (400 * np.log(2) / 2000) ** 0.5)
    # To write down which of n labels were changed takes n bits or more; the memorizer's gap is 1.
    for n, noise in ((100, 0.05), (10_000, 0.2), (10_000, 0.5)):
        assert complexity_bound(n, n, noise) >= 1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda root: write(root)[::-1], "takes a clean run and one with label noise"),
        (lambda root: write(root, learning_rate=0.2), "differ in more than the label noise: learn"),
        (lambda root: write(root, noisy={"train_error": 0.1}), "has no train_true_error"),
        (lambda root: write_pair(root, config())[1] * 2, "of the Ideal World"),
    ],
)
def test_runs_that_are_no_pair_are_refused(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        rrm(*make(tmp_path))
