from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worlds.loaders.samplers import Sampler, subset
from worlds.loaders.stream import Seeds, reuse_order
from worlds.rng.orders import pass_order

# These literals may not change: a saved run would go on with other samples than it began with.
SUBSET_SEED_0 = [566, 383, 977, 360, 351, 912, 11, 691]
ORDERS_SEED_0 = [[4, 0, 3, 5, 1, 9, 8, 7, 2, 6], [5, 2, 8, 7, 4, 0, 3, 9, 1, 6]]


def test_orders_are_frozen():
    assert subset(1000, 8, seed=0).tolist() == SUBSET_SEED_0
    assert [pass_order(10, 0, 0, epoch).tolist() for epoch in (0, 1)] == ORDERS_SEED_0


def test_five_million_are_shuffled_completely():
    order = pass_order(5_002_240, 3, 1, 0)
    seen = np.zeros(5_002_240, dtype=bool)
    seen[order] = True
    assert seen.all()


def test_threads_that_come_to_a_pass_together_share_its_order():
    with ThreadPoolExecutor(4) as pool:
        orders = list(pool.map(lambda _: pass_order(300_000, 7, 0, 0), range(8)))
    assert all(order is orders[0] for order in orders)


def test_a_small_subset_does_not_keep_the_order_of_the_whole_pool():
    assert subset(300_000, 5, seed=0).base is None


sizes = st.integers(1, 60)
seeds = st.integers(0, 2**64 - 1)
patient = settings(deadline=None)  # the first example may compile


@patient
@given(pool=sizes, n=sizes, fewer=sizes, seed=seeds, trial=st.integers(0, 9))
def test_subsets_are_distinct_and_nested(pool, n, fewer, seed, trial):
    n = min(n, pool)
    drawn = subset(pool, n, seed, trial)
    assert len(set(drawn.tolist())) == n
    assert drawn.max() < pool
    assert np.array_equal(subset(pool, min(fewer, n), seed, trial), drawn[:fewer])


@patient
@given(n=sizes, batch=sizes, epochs=st.integers(1, 4), seed=seeds)
def test_carry_uses_each_sample_exactly_once_an_epoch(n, batch, epochs, seed):
    sampler = Sampler("real", 100, batch, seed, samples=subset(100, n, seed))
    steps = -(-n * epochs // batch)
    stream = np.concatenate([sampler.indices(step) for step in range(steps)])
    assert len(stream) == steps * batch
    counts = np.bincount(stream[: n * epochs], minlength=100)
    assert set(counts[sampler.samples]) == {epochs}
    assert counts.sum() == n * epochs


@patient
@given(n=sizes, batch=sizes, epochs=st.integers(1, 4), seed=seeds)
def test_drop_and_short_use_each_sample_at_most_once_a_pass(n, batch, epochs, seed):
    for remainder, size in (("drop", n - n % batch), ("short", n)):
        if not size:
            continue
        sampler = Sampler("real", n, batch, seed, remainder=remainder)
        for epoch in range(epochs):
            steps = range(epoch * sampler.steps_per_pass, (epoch + 1) * sampler.steps_per_pass)
            assert {sampler.epoch(step) for step in steps} == {epoch}
            used = np.concatenate([sampler.indices(step) for step in steps])
            assert len(used) == len(set(used.tolist())) == size


@patient
@given(n=sizes, batch=sizes, reuse=st.integers(1, 3), seed=seeds)
def test_reuse_is_a_limit_for_every_sample(n, batch, reuse, seed):
    sampler = Sampler("fixed reuse", n, batch, seed, reuse=reuse)
    stream = [sampler.indices(step) for step in range(sampler.max_steps)]
    counts = np.bincount(np.concatenate([np.empty(0, dtype=np.uint32), *stream]), minlength=n)
    assert counts.max() <= reuse
    assert counts.sum() == n * reuse - n * reuse % batch
    with pytest.raises(ValueError, match="step must be in"):
        sampler.span(sampler.max_steps)


@patient
@given(n=sizes, batch=sizes, remainder=st.sampled_from(["carry", "drop", "short"]), seed=seeds)
def test_any_stretch_of_positions_equals_the_same_stretch_step_by_step(n, batch, remainder, seed):
    batch = min(batch, n)
    sampler = Sampler("real", n, batch, seed, remainder=remainder)
    spans = [sampler.span(step) for step in range(7)]
    assert [start for start, _ in spans[1:]] == [stop for _, stop in spans[:-1]]
    together = sampler.at(np.arange(spans[2][0], spans[6][1]))
    assert np.array_equal(together, np.concatenate([sampler.indices(k) for k in range(2, 7)]))


def test_epochs_and_trials_have_orders_of_their_own():
    orders = {tuple(pass_order(50, 0, trial, epoch)) for trial in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert len({tuple(subset(50, 10, 0, trial)) for trial in range(4)}) == 4


def test_excluded_samples_are_never_drawn():
    first = subset(100, 30, 0)
    second = subset(100, 70, 0, exclude=first)
    assert np.array_equal(np.sort(np.concatenate((first, second))), np.arange(100))


def test_a_balanced_subset_has_equal_classes_in_every_prefix():
    labels = np.random.default_rng(0).integers(0, 4, 400)
    drawn = subset(400, 101, 0, balance=labels)
    assert len(set(drawn.tolist())) == 101
    for count in range(1, 102):
        per_class = np.bincount(labels[drawn[:count]], minlength=4)
        assert per_class.max() - per_class.min() <= 1
    assert np.array_equal(subset(400, 40, 0, balance=labels), drawn[:40])


def test_bootstrap_draws_repeat_within_n_samples():
    sampler = Sampler("bootstrap", 1000, 50, 3, samples=subset(1000, 50, 3), replace=True)
    drawn = sampler.indices(0)
    assert set(drawn.tolist()) <= set(sampler.samples.tolist())
    assert len(set(drawn.tolist())) < 50
    assert not np.array_equal(drawn, sampler.indices(1))


def test_how_often_a_sample_is_drawn_with_replacement_follows_the_binomial_law():
    n, batch, steps = 200, 50, 400  # each sample: 20,000 draws of probability 1 / 200, mean 100
    chosen = subset(1000, n, 3)
    sampler = Sampler("bootstrap", 1000, batch, 3, samples=chosen, replace=True)
    drawn = np.concatenate([sampler.indices(step) for step in range(steps)])
    counts = np.bincount(drawn, minlength=1000)[chosen]
    assert counts.sum() == batch * steps
    mean, variance = batch * steps / n, batch * steps / n * (1 - 1 / n)
    statistic = ((counts - mean) ** 2).sum() / mean  # chi-squared of 199 degrees of freedom
    assert 145 < statistic < 265  # but for one seed in 500; reuse by passes would give 0
    lag = np.mean((counts[1:] - mean) * (counts[:-1] - mean)) / variance
    assert abs(lag) < 0.25  # neighbors are drawn independently: 3.5 standard deviations
    first = np.concatenate([sampler.indices(step) for step in range(4)])  # n draws
    unseen = n - len(set(first.tolist()))
    assert abs(unseen - n * (1 - 1 / n) ** n) < 5 * (n * 0.0975) ** 0.5  # e^-1 (1 - 2 e^-1) each


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: subset(10, 11, 0), "between 1 and the 10 samples at hand, got 11"),
        (lambda: subset(10, 0, 0), "got 0"),
        (lambda: subset(10, 8, 0, exclude=np.arange(3)), r"10 less 3 excluded\), got 8"),
        (lambda: subset(4, 4, 0, balance=np.array([0, 0, 0, 1])), "class 1 has 1"),
        (lambda: Sampler("real", 10, 0), "batch_size must be 1 or more, got 0"),
        (lambda: Sampler("real", 0, 1), "pool must hold"),
        (lambda: Sampler("real", 10, 2, seed=-1), "seed must be in"),
        (lambda: Sampler("real", 10, 2, trial=-1), "trial must be in"),
        (lambda: Sampler("real", 10, 11, remainder="drop"), "leaves nothing"),
        (lambda: Sampler("real", 10, 2, remainder="wrap"), "got 'wrap'"),
        (lambda: Sampler("real", 10, 2, reuse=0), "reuse must be 1 or more"),
    ],
)
def test_bad_sampling_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_the_order_in_windows_is_frozen():
    """Literals: a change of them would change every run over an endless pool."""
    order = reuse_order("ideal", 23, None, 5, Seeds(7, 1), "carry", None, None, 2, window=8)
    first, second = np.split(order.stretch(0, 46), 2)
    assert first.tolist()[:16] == [3, 6, 2, 7, 5, 0, 1, 4, 12, 9, 10, 13, 11, 15, 14, 8]
    assert sorted(first) == sorted(second) == list(range(23))
    assert first.tolist() != second.tolist()
