"""The analysis on curves with closed forms (made_runs.py)."""

from dataclasses import replace

import numpy as np
import pytest

from tests.worlds.made_runs import config, rows_of, write_pair, write_run
from worlds.experiments.spec import Experiment, Group
from worlds.report.analysis import (
    METRICS,
    Curves,
    bootstrap_error,
    curves,
    endings,
    least_drop,
    patience_stop,
    power_law,
    power_law_of_points,
    scaling_of_trials,
    stopping_time,
)
from worlds.report.collect import collect
from worlds.report.measure import measure


def test_the_worlds_are_compared_at_t0(tmp_path):
    real, ideal = write_pair(tmp_path, config(), gap=0.02, t0=200)
    (end,) = endings(real, ideal)
    assert (end.trial, end.step, end.reached) == (0, 200, True)
    assert end.ideal == pytest.approx(201**-0.25)
    assert end.gap == pytest.approx(0.02)
    assert end.largest == pytest.approx(0.02)
    assert end.train == pytest.approx(1.1 * 0.9 * 0.011)


def test_without_t0_they_are_compared_at_the_last_step(tmp_path):
    real, ideal = write_pair(tmp_path, config(), gap=0.02, t0=4_000)
    (end,) = endings(real, ideal)
    assert (end.step, end.reached) == (400, False)
    assert end.gap == pytest.approx(0.002)
    times = stopping_time(real)
    assert (times.reached, times.median, times.of_median_curve, times.last_step) == (
        0, None, None, 400,
    )  # fmt: skip


def test_an_ideal_world_that_ended_early_is_compared_where_it_ended(tmp_path):
    real, ideal = write_pair(tmp_path, config(), gap=0.02, t0=200)
    short = [replace(ideal[0], rows=ideal[0].rows[:6])]  # up to step 100
    (end,) = endings(real, short)
    assert (end.step, end.reached) == (100, False)
    assert end.gap == pytest.approx(0.01)


def test_a_trial_without_its_twin_meets_the_median_of_the_ideal_world(tmp_path):
    real, ideal = write_pair(tmp_path, config(), trials=(0, 1, 2), spread=0.1)
    ends = endings(real, [ideal[0], ideal[2]])
    assert [end.ideal for end in ends] == pytest.approx(201**-0.25 * np.array([1, 1.1, 1.2]))
    shared = bootstrap_error(real, [ideal[0], ideal[2]])
    assert shared.values[1] == pytest.approx(0.02 * np.minimum(1, shared.steps / 200))


def test_the_bootstrap_error_is_real_minus_ideal_at_equal_steps(tmp_path):
    real, ideal = write_pair(tmp_path, config(), trials=(0, 1), spread=0.1)
    gap = bootstrap_error(real, ideal)
    expected = 0.02 * np.minimum(1, gap.steps / 200)
    np.testing.assert_allclose(gap.values, [expected, expected], atol=1e-12)
    np.testing.assert_array_equal(gap.steps, real[0].config.points)


def test_medians_and_bands_are_over_trials(tmp_path):
    _, ideal = write_pair(tmp_path, config(), trials=range(5), spread=0.1)
    curve = curves(ideal, "test_soft_error")
    base = curve.updates**-0.25
    np.testing.assert_allclose(curve.median, 1.2 * base)
    np.testing.assert_allclose(curve.quantiles((0.25, 0.75)), [1.1 * base, 1.3 * base])
    assert curve.until(100).steps[-1] == 100


def test_the_gap_is_measured_in_every_metric(tmp_path):
    real, ideal = write_pair(tmp_path, config(), gap=0.02)
    gaps = {metric: endings(real, ideal, metric)[0].gap for metric in METRICS[:3]}
    assert gaps == pytest.approx({"soft_error": 0.02, "error": 0.018, "loss": 0.2})


def test_a_power_law_is_found_again(tmp_path):
    _, ideal = write_pair(tmp_path, config(), trials=(0,), exponent=0.3)
    law = power_law(curves(ideal, "test_soft_error"), first=20)
    assert law.exponent == pytest.approx(0.3)
    assert law.scale == pytest.approx(1)
    assert (law.low, law.high) == pytest.approx((0.3, 0.3))
    assert (law.first, law.last) == (21, 401)
    np.testing.assert_allclose(law(np.array([10.0])), 10**-0.3)


def test_the_interval_of_a_power_law_comes_from_resampling_trials():
    steps = np.arange(1, 1_001)
    exponents = np.array([0.2, 0.25, 0.3, 0.35])
    learned = Curves((0, 1, 2, 3), steps - 1, steps ** -exponents[:, None])
    law = power_law(learned)
    assert law.exponent == pytest.approx(0.275)
    resampled = exponents[np.random.default_rng(0).integers(4, size=(1_000, 4))].mean(axis=1)
    assert (law.low, law.high) == pytest.approx(tuple(np.quantile(resampled, (0.025, 0.975))))
    assert law == power_law(learned)


def test_the_interval_of_a_single_curve_covers_the_truth_about_95_times_of_100():
    generator = np.random.default_rng(1)
    steps = np.unique(np.geomspace(1, 10_000, 40).astype(int))
    covered = 0
    for _ in range(200):
        noisy = steps**-0.5 * np.exp(0.05 * generator.standard_normal(len(steps)))
        law = power_law(Curves((0,), steps - 1, noisy[None]))
        covered += law.low <= 0.5 <= law.high
    # 190 expected, standard deviation 3; the odds of less than 176 are below 1 in 10,000
    assert covered >= 176


def test_samples_scale_as_they_were_made(tmp_path):
    sizes = {1_000: 50, 4_000: 100, 16_000: 200}
    real, ideal = {}, []
    for n, t0 in sizes.items():
        real[n], ideal = write_pair(tmp_path / str(n), config(n=n, log=10), t0=t0, gap=0.5 / t0)
    times = {n: stopping_time(runs).median for n, runs in real.items()}
    assert times == sizes
    law = power_law_of_points(list(sizes), list(times.values()))
    assert -law.exponent == pytest.approx(0.5)
    for n, t0 in sizes.items():
        for end in endings(real[n], ideal):
            assert end.ideal == pytest.approx((t0 + 1) ** -0.25)
            assert end.gap == pytest.approx(0.5 / t0)


@pytest.mark.parametrize(
    "times, median, reached",
    [((100, 200, 300), 200, 3), ((100, 200, 4_000), 200, 2), ((100, 4_000, 4_000), None, 1)],
)
def test_t0_of_a_trial_that_did_not_reach_it_counts_as_later(tmp_path, times, median, reached):
    real = []
    for trial, t0 in enumerate(times):
        own = config(trial=trial)
        real.append(write_run(tmp_path / str(trial), own, rows_of(own, t0=t0)))
    found = stopping_time(real)
    assert (found.median, found.reached) == (median, reached)
    expected = [t0 if t0 <= 400 else None for t0 in times]
    assert list(found.trials.values()) == expected
    assert found.of_median_curve == median


def test_both_decompositions_add_up_to_the_test_error(tmp_path):
    real, ideal = write_pair(tmp_path, config())
    group = Group("net", *(tuple(run.config for run in runs) for runs in (real, ideal)))
    made = Experiment("fig", "", "decompositions", (group,))
    (one,) = measure(made, collect(made, [*real, *ideal]))
    parts = {name: one.get(name) for name in one.values}
    assert parts["train"] + parts["generalization"] == pytest.approx(parts["real"])
    assert parts["ideal"] + parts["gap"] == pytest.approx(parts["real"])
    assert parts["gap"] == pytest.approx(0.02)


def test_patience_stops_so_many_log_points_past_the_least_value(tmp_path):
    own = config()
    run = write_run(
        tmp_path, own, lambda step: {"test_soft_error": abs(step - 100) / 400, "train_error": 0.5}
    )
    stop = patience_stop(run, patience=3)
    assert (stop.best, stop.best_value, stop.stopped) == (100, 0.0, 160)
    assert (stop.t0, stop.t0_value) == (None, None)
    assert patience_stop(run, patience=100).stopped is None


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda real, ideal: curves([], "test_error"), "no run to take test_error from"),
        (lambda real, ideal: curves(real, "accuracy"), "no step at which accuracy was measured"),
        (lambda real, ideal: power_law(curves(ideal, "test_error"), first=400), "needs 3 points"),
        (lambda real, ideal: power_law_of_points([1, 2], [1, 2]), "3 or more positive points"),
        (lambda real, ideal: patience_stop(real[0], 0), "patience must be 1 or more"),
        (
            lambda real, ideal: power_law(Curves((0,), np.arange(9), np.zeros((1, 9)))),
            "positive values",
        ),
    ],
)
def test_bad_input_is_refused(tmp_path, call, message):
    real, ideal = write_pair(tmp_path, config())
    with pytest.raises(ValueError, match=message):
        call(real, ideal)


def test_scaling_exponents_are_fitted_in_each_trial_and_multiply(tmp_path):
    # T(n) = 5 n^0.5 and Ideal(t) = (t + 1)^-0.3 with no gap: L(n) goes as n^-0.15.
    real, ideal = {}, []
    for n in (100, 400, 1_600, 6_400):
        own = config(n=n, log=1)
        real[n], ideal = write_pair(
            tmp_path / str(n), own, trials=(0, 1), t0=int(5 * n**0.5) - 1, gap=0.0, exponent=0.3
        )
    found = scaling_of_trials(real, ideal)
    assert len(found) == 2
    for one in found:
        assert (one.alpha, one.beta) == pytest.approx((0.3, 0.5), abs=0.01)
        assert one.gamma == pytest.approx(0.15, abs=0.005)
        assert one.product - one.gamma == pytest.approx(0, abs=0.01)
    assert scaling_of_trials({n: real[n] for n in (100, 400)}, ideal) == []


def test_the_fall_over_a_change_of_the_rate_is_the_least_of_all_changes(tmp_path):
    own = config(schedule="steps", drops=(1, 2), unit=100, steps=301, log=10)
    levels = (0.9, 0.5, 0.4)  # falls of 0.4 and 0.1
    run = write_run(tmp_path, own, lambda step: {"test_error": levels[min(step // 100, 2)]})
    assert least_drop(run, "test_error") == pytest.approx(0.1)
    plain = write_run(tmp_path / "cosine", config(), lambda step: {"test_error": 0.5})
    assert least_drop(plain, "test_error") is None
