"""Mixed batches hold the exact share of each pool, each by its own rule of reuse."""

import json
import pickle

import numpy as np
import pytest
import torch

from worlds import (
    ArrayStore,
    BootstrapLoader,
    FixedReuseLoader,
    IdealLoader,
    MixedLoader,
    RealLoader,
    subset,
)

RNG = np.random.default_rng(4)


def make_store(size, labels, edge=32):
    images = RNG.integers(0, 256, (size, edge, edge, 3), np.uint8)
    return ArrayStore(images, np.full(size, labels), class_names=("real", "made", "other"))


REAL, MADE = make_store(60, 0), make_store(480, 1)


def mixed(steps=20, batch_size=32, share=0.3, **options):
    real = RealLoader(REAL.train, 50, 8, 100, augment="crop+flip", seed=1)
    made = IdealLoader(MADE.train, 16, augment="flip", seed=2)
    return MixedLoader({real: share, made: 1 - share}, batch_size, steps, **options)


def counts(loader):
    return [np.bincount(y, minlength=3)[:2].tolist() for _, y in loader]


def test_the_share_is_within_one_sample_in_every_batch_and_exact_over_a_period():
    loader = mixed()
    assert loader.period == 5  # of 9.6 real samples a batch
    found = counts(loader)
    assert {tuple(c) for c in found} == {(9, 23), (10, 22)}
    assert found == [loader.counts(step) for step in range(20)]
    for start in range(0, 20, 5):
        assert np.sum(found[start : start + 5], axis=0).tolist() == [48, 112]
    assert counts(mixed(share=0.25)) == [[8, 24]] * 20


def test_three_pools_hold_their_shares_too():
    pools = {REAL: 1, MADE: 2, make_store(90, 2): 4}
    loader = MixedLoader(pools, 16, 30)
    total = sum(np.bincount(y, minlength=3) for _, y in loader)
    assert total.tolist() == [loader._starts(30)[k] for k in range(3)]
    assert loader.period == 7
    for step in range(30):
        assert np.abs(loader.counts(step) - np.array([16, 32, 64]) / 7).max() < 2


def test_batches_are_those_of_the_pools_own_loaders_pool_after_pool():
    def joined(batches):
        return torch.cat(list(batches))

    loader = mixed()
    batches = [(x, loader.counts(step)[0]) for step, (x, _) in enumerate(loader)]
    alone = RealLoader(REAL.train, 50, 8, 24, augment="crop+flip", seed=1)
    assert torch.equal(joined(x[:n] for x, n in batches), joined(x for x, _ in alone))
    alone = IdealLoader(MADE.train, 16, 28, augment="flip", seed=2)
    assert torch.equal(joined(x[n:] for x, n in batches), joined(x for x, _ in alone))


def test_each_pool_is_reused_by_its_own_rule():
    loader = MixedLoader(
        {
            FixedReuseLoader(REAL.train, 40, 10, reuse=4): 0.4,
            BootstrapLoader(MADE.train, None, 10, 1): 0.6,
        },
        batch_size=20,
        steps=20,
    )
    seen = [np.concatenate(one) for one in zip(*map(loader.indices, range(20)), strict=True)]
    assert np.unique(seen[0], return_counts=True)[1].tolist() == [4] * 40
    assert len(np.unique(seen[1])) < len(seen[1])  # all 240 of 480 distinct: odds below 1e-40
    assert loader.passes == 4


def test_splits_stores_and_subsets_are_used_whole_and_reshuffled():
    few = subset(MADE.train, n=24)
    loader = MixedLoader({REAL: 0.5, few: 0.5}, 24, 10, seed=3, augment="crop+flip")
    seen = [np.concatenate(one) for one in zip(*map(loader.indices, range(10)), strict=True)]
    assert np.bincount(seen[0]).tolist() == [2] * 60
    assert np.bincount(seen[1]).tolist() == [5] * 24
    assert loader.epoch == 0
    x, _ = next(iter(loader))
    assert not torch.equal(x[:12], x[12:])


@pytest.mark.parametrize("threads", [0, 2])
def test_a_restored_loader_gives_exactly_the_rest(threads):
    whole = [x for x, _ in mixed(threads=threads)]
    first = mixed(threads=threads)
    iterator = iter(first)
    for _ in range(7):
        next(iterator)
    state = json.loads(json.dumps(first.state_dict()))
    second = mixed(threads=threads)
    second.load_state_dict(state)
    rest = [x for x, _ in second]
    assert len(rest) == 13
    assert all(torch.equal(a, b) for a, b in zip(whole[7:], rest, strict=True))
    with pytest.raises(ValueError, match="share of pool 0"):
        mixed(share=0.25).load_state_dict(state)
    with pytest.raises(RuntimeError, match="finished"):
        next(iter(second))


def test_ranks_share_every_batch_and_every_pool():
    whole = [(x, y) for x, y in mixed()]
    parts = [list(mixed(rank=rank, world_size=4)) for rank in range(4)]
    for step, (x, y) in enumerate(whole):
        ranks = [part[step] for part in parts]
        assert {len(r[1]) for r in ranks} == {8}
        for rank, (own, labels) in enumerate(ranks):
            assert torch.equal(own, x[rank::4])
            assert 2 <= (labels == 0).sum() <= 3
            assert torch.equal(labels, y[rank::4])


def test_it_goes_to_another_process_and_hands_out_other_forms():
    again = pickle.loads(pickle.dumps(mixed()))
    assert torch.equal(next(iter(again))[0], next(iter(mixed()))[0])
    loader = MixedLoader({REAL: 1, MADE: 1}, 8, 2, output="numpy", layout="NHWC", normalize=None)
    x, y = next(iter(loader))
    assert (x.shape, x.dtype, y.tolist()) == ((8, 32, 32, 3), np.uint8, [0] * 4 + [1] * 4)
    real, made = loader.indices(0)
    assert np.array_equal(x[:4], REAL.train.gather(real))
    assert np.array_equal(x[4:], MADE.train.gather(made))


IDEAL = IdealLoader(MADE.train, 16)


@pytest.mark.parametrize(
    "pools, options, message",
    [
        ({REAL: 1}, {}, "two or more"),
        ({REAL: 0, MADE: 1}, {}, "above 0"),
        ({REAL: "half", MADE: 1}, {}, "half"),
        ({REAL: 0.01, MADE: 0.99}, {}, "no sample"),
        ({REAL: 0.5, IDEAL: 0.5}, {"steps": 42}, "672 samples of train.*480"),
        ({REAL: 0.5, make_store(9, 1, 28): 0.5}, {}, "image size"),
        ({REAL: 0.5, IDEAL: 0.5}, {"output": "numpy"}, "output"),
        ({REAL: 0.5, IDEAL: 0.5}, {"normalize": "unit"}, "normalize"),
        ({RealLoader(REAL.train, 60, 6): 1, IDEAL: 1}, {"augment": "flip"}, "augment"),
        ({REAL: 1, IdealLoader(MADE.train, 16, world_size=2): 1}, {}, "world_size"),
        ({REAL: 1, MADE: 1}, {"world_size": 3}, "world_size"),
        ({REAL: 1, "pack": 1}, {}, "str"),
        ({REAL: 1, mixed(): 1}, {}, "MixedLoader"),
        ({REAL: 1, MADE: 1}, {"steps": 0}, "steps"),
    ],
)
def test_pools_that_do_not_fit_are_refused(pools, options, message):
    with pytest.raises(ValueError, match=message):
        MixedLoader(pools, 32, **({"steps": 2} | options))
