"""Schedules, step counts and log points against the specification's numbers (sections 1.3, 1.4 and
1.7).
"""

import math
from itertools import pairwise

import pytest
import torch

from worlds.training.schedules import Schedule, log_points, spaced_log_points, steps_of_epochs

# n: int(n / 128 * 100), the specification's table
STEPS_OF_100_EPOCHS = {
    1_000: 781,
    2_000: 1_562,
    5_000: 3_906,
    10_000: 7_812,
    25_000: 19_531,
    50_000: 39_062,
}


@pytest.mark.parametrize("n, steps", STEPS_OF_100_EPOCHS.items())
def test_a_hundred_epochs_are_the_tables_steps(n, steps):
    assert steps_of_epochs(n, 128, 100) == steps == int(n / 128 * 100)


def test_dogbird_has_9375_steps_and_293_log_points():
    assert steps_of_epochs(10_000, 128, 120) == 9_375
    assert len(log_points(9_375, every=32, dense=False)) == 293


def test_the_papers_log_points():
    points = log_points(39_000)
    assert len(points) == 962
    assert points[:3] == [0, 4, 8]
    assert points[256:258] == [1024, 1032]
    assert points[384:386] == [2048, 2112]
    assert points[-1] == 38_976
    assert len(log_points(39_000, dense=False)) == 610


@pytest.mark.parametrize("steps", [1, 3, 64, 1_030, 39_000])
def test_log_points_are_increasing_steps(steps):
    for points in (log_points(steps), spaced_log_points(steps)):
        assert points[0] == 0
        assert points[-1] < steps
        assert all(a < b for a, b in pairwise(points))


def test_spaced_log_points_end_at_the_last_step():
    points = spaced_log_points(39_000, count=60)
    assert points[0] == 0
    assert points[-1] == 38_999
    assert 40 <= len(points) <= 60


def test_cosine_is_the_papers():
    schedule = Schedule("cosine", 0.1, 39_000)
    assert schedule.units == 100
    assert schedule(0) == schedule(389) == 0.1
    assert schedule(390) == pytest.approx(0.1 * (1 + math.cos(math.pi / 100)) / 2)
    assert schedule(19_500) == pytest.approx(0.05)
    assert schedule(38_999) == pytest.approx(2.5e-4 * 0.1, rel=0.02)


def test_cosine_of_39062_steps_ends_in_62_steps_of_zero():
    schedule = Schedule("cosine", 0.1, 39_062)
    rates = [schedule(step) for step in range(38_900, 39_062)]
    assert rates.count(0.0) == 62
    assert rates[99] > 0
    assert rates[100] == 0


def test_cosine_never_rises_again_behind_the_last_unit():
    schedule = Schedule("cosine", 1.0, 14, unit=5)
    assert schedule.units == 2
    assert [schedule(step) for step in (0, 5, 10, 13)] == [1.0, 0.5, 0.0, 0.0]


def test_cosine_per_step_is_torchs():
    schedule = Schedule("cosine", 0.1, 50, unit=1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(50):
        assert schedule(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(
    "schedule, rates",
    [
        (Schedule("constant", 0.1, 500, unit=10), {0: 0.1, 499: 0.1}),
        # T = 50: drops at units 17 and 34
        (
            Schedule("3step", 0.1, 19_500),
            {17 * 390 - 1: 0.1, 17 * 390: 0.01, 34 * 390 - 1: 0.01, 34 * 390: 1e-3, 19_499: 1e-3},
        ),
        # T = 100: the code's rule drops a third time, in the last unit
        (Schedule("3step", 1.0, 39_000), {65 * 390: 0.1, 66 * 390: 1e-2, 99 * 390: 1e-3}),
        (Schedule("exponential", 1.0, 300, unit=100), {0: 1.0, 100: 0.1, 299: 0.01}),
        (
            Schedule("steps", 1.0, 100, unit=10, drops=(3, 5), factor=0.5),
            {0: 1.0, 29: 1.0, 30: 0.5, 49: 0.5, 50: 0.25, 99: 0.25},
        ),
        (Schedule("constant", 1.0, 100, warmup=4), {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0}),
        (Schedule("cosine", 1.0, 4, unit=1, warmup=2), {0: 0.5, 2: 0.5}),
        (Schedule("3step", 1.0, 1, unit=390), {0: 1.0}),
    ],
)
def test_rates_at_the_steps_that_matter(schedule, rates):
    assert {step: schedule(step) for step in rates} == pytest.approx(rates)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "onecycle"}, "schedule must be one of cosine, .*, got 'onecycle'"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": math.nan}, "learning_rate must be positive"),
        ({"steps": 0}, "steps and unit must be at least 1"),
        ({"warmup": 101}, r"warmup must be in \[0, steps=100\]"),
        ({"kind": "steps"}, "drops are for kind"),
        ({"drops": (1,)}, "drops are for kind"),
        ({"kind": "steps", "drops": (4, 2)}, "drops must be increasing"),
        ({"factor": 0.0}, "factor must be in"),
    ],
)
def test_bad_schedules_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**{"kind": "cosine", "learning_rate": 0.1, "steps": 100, **options})


@pytest.mark.parametrize("step", [-1, 100])
def test_a_step_outside_the_schedule_is_refused(step):
    with pytest.raises(ValueError, match=r"step must be in \[0, 100\)"):
        Schedule("constant", 0.1, 100)(step)


@pytest.mark.parametrize(
    "call",
    [
        lambda: steps_of_epochs(0, 128, 1),
        lambda: log_points(10, every=0),
        lambda: spaced_log_points(0),
    ],
)
def test_bad_counts_are_refused(call):
    with pytest.raises(ValueError, match="at least 1"):
        call()


@pytest.mark.parametrize("steps", [1, 40, 390, 779])
def test_a_run_of_less_than_two_units_still_sees_its_schedule_end(steps):
    cosine = Schedule("cosine", 0.1, steps)
    assert [cosine(k) for k in range(steps)] == pytest.approx(
        [0.05 * (1 + math.cos(math.pi * k / steps)) for k in range(steps)]
    )
    thirds = Schedule("3step", 1.0, 30)
    assert [thirds(0), thirds(10), thirds(29)] == pytest.approx([1.0, 0.1, 0.01])
    drops = Schedule("steps", 1.0, 100, drops=(60, 80))
    assert [drops(59), drops(60), drops(99)] == pytest.approx([1.0, 0.1, 0.01])
