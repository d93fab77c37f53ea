"""The toy example against closed forms and against the table of the specification."""

import numpy as np
import pytest

from tests.worlds.made_runs import write_toys
from worlds.experiments.linear_regression import (
    Toy,
    config_of,
    ideal_world,
    real_world,
    toys,
)
from worlds.training.run_folder import find_runs

POINTS = (2, 5, 10, 20, 50, 100)  # updates
# Means over 20 other seeds, to three digits: train, Real test, Ideal test at POINTS; largest gap.
TABLE = {
    ("A", 0.1): (
        ".039/.757/.410 .002/.727/.107 .000/.731/.012 .000/.731/.000 .000/.731/.000 .000/.731/.000",
        0.73,
    ),
    ("B", 0.1): (
        ".236/.682/.624 .057/.595/.432 .010/.579/.371 .001/.580/.363 .000/.582/.363 .000/.582/.363",
        0.22,
    ),
    ("A", 0.01): (
        ".168/.512/.410 .031/.339/.107 .004/.261/.012 .000/.228/.000 .000/.221/.000 .000/.221/.000",
        0.25,
    ),
    ("B", 0.01): (
        ".547/.644/.624 .335/.478/.432 .233/.419/.371 .153/.410/.363 .053/.420/.363 .011/.432/.363",
        0.07,
    ),
}
SEEDS = 20


@pytest.mark.parametrize("case, tail", TABLE)
def test_the_table_of_the_specification_is_met_within_sampling_error(case, tail):
    toy = Toy(case, tail)
    cells, largest = TABLE[case, tail]
    expected = np.array([[float(v) for v in cell.split("/")] for cell in cells.split()])
    curves = np.array([real_world(toy, seed=0, trial=trial) for trial in range(SEEDS)])
    picked = curves[:, :, [point - 1 for point in POINTS]]  # (seeds, train and test, points)
    spread = picked.std(axis=0, ddof=1)
    # Both means have this standard error. 48 comparisons, strongly dependent; at four standard
    # deviations of a difference of means of 20 the odds of a false alarm are below 1 in 100.
    allowed = 4 * spread * np.sqrt(2 / SEEDS) + 0.0005
    assert np.all(np.abs(picked.mean(axis=0) - expected[:, :2].T) <= allowed)
    ideal = ideal_world(toy)
    np.testing.assert_allclose(ideal[[p - 1 for p in POINTS]], expected[:, 2], atol=0.0005)
    gap = np.max(curves[:, 1].mean(axis=0) - ideal)
    error = 4 * np.max(curves[:, 1].std(axis=0, ddof=1)) * np.sqrt(2 / SEEDS)
    assert gap == pytest.approx(largest, abs=error + 0.005)


def test_the_ideal_world_is_its_closed_form():
    t = np.arange(1, 101)
    np.testing.assert_allclose(ideal_world(Toy("A")), 0.8 ** (2 * t), rtol=1e-9, atol=1e-15)
    least = 1 - 2 / np.pi
    expected = least + (2 / np.pi) * 0.8 ** (2 * t)
    np.testing.assert_allclose(ideal_world(Toy("B")), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("case", ["A", "B"])
def test_population_risk_is_the_mean_over_fresh_samples(case):
    toy = Toy(case, dimensions=30, tail_variance=0.3)
    generator = np.random.default_rng(5)
    b = generator.standard_normal(30) / 5
    x = generator.standard_normal((200_000, 30)) * np.sqrt(toy.variances)
    y = x[:, 0] if case == "A" else np.sign(x[:, 0])
    losses = (x @ b - y) ** 2
    error = losses.std() / np.sqrt(len(losses))
    assert toy.population_risk(b) == pytest.approx(losses.mean(), abs=4 * error)


def test_real_descent_ends_at_the_least_norm_solution():
    toy = Toy("A", steps=2_000, dimensions=200)
    x, y = toy.sample(seed=3, trial=1)
    train, test = real_world(toy, seed=3, trial=1)
    b = np.linalg.pinv(x) @ y
    assert train[-1] < 1e-12
    assert test[-1] == pytest.approx(toy.population_risk(b), rel=1e-6)


def test_the_runs_are_run_folders(tmp_path):
    write_toys(tmp_path, trials=2, tails=(0.1,))
    runs = find_runs(tmp_path)
    assert len(runs) == 2 * (1 + 2)
    assert all(run.finished and len(run.rows) == 100 for run in runs)
    real = next(run for run in runs if run.config == config_of(Toy("B"), "real", trial=1))
    train, test = real_world(Toy("B"), trial=1)
    assert [row["train_loss"] for row in real.rows] == train.tolist()
    assert [row["test_loss"] for row in real.rows] == test.tolist()
    pairs = {run.config.pair_key() for run in runs if run.config.trial == 0}
    assert len(pairs) == 2  # Real and Ideal of a case are twins


def test_trials_differ_and_repeat():
    toy = Toy("B")
    np.testing.assert_array_equal(real_world(toy, trial=1), real_world(toy, trial=1))
    assert real_world(toy, trial=1)[1][0] != real_world(toy, trial=2)[1][0]
    assert len(list(toys())) == 4


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Toy("C"), "case must be A or B, got 'C'"),
        (lambda: Toy("A", tail_variance=-1), "tail_variance must be 0 or more, got -1"),
        (lambda: Toy("A", head=0), "head must be between 1 and dimensions = 1000, got 0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
