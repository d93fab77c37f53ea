"""Samplers for any dataset: the order of the loaders, and what a DataLoader does with it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from worlds import (
    ArrayStore,
    BootstrapLoader,
    BootstrapSampler,
    FixedReuseLoader,
    FixedReuseSampler,
    IdealLoader,
    IdealSampler,
    RealLoader,
    RealSampler,
)

SIZE = 60


class Numbers(Dataset):
    """Item i is i."""

    def __init__(self, size=SIZE):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return index


def served(sampler, **options):
    """What one `for` over a DataLoader yields."""
    return [x.tolist() for x in DataLoader(Numbers(), batch_sampler=sampler, **options)]


def stream(sampler, first, last):
    return [sampler.indices(step).tolist() for step in range(first, last)]


def labels_of(size):
    return np.arange(size) % 3


@st.composite
def twins(draw):
    """A loader's class, its sampler's, a size, and equal arguments for both."""
    world = draw(st.sampled_from(["real", "reuse", "ideal", "bootstrap"]))
    size, world_size = draw(st.integers(1, 70)), draw(st.sampled_from([1, 2, 3, 4]))
    options = {
        "seed": draw(st.integers(0, 2**64 - 1)),
        "trial": draw(st.integers(0, 9)),
        "rank": draw(st.integers(0, world_size - 1)),
        "world_size": world_size,
    }
    n, batch = draw(st.integers(1, size)), world_size * draw(st.integers(1, 9))
    steps = draw(st.one_of(st.none(), st.integers(1, 40)))
    if world == "bootstrap":
        return BootstrapLoader, BootstrapSampler, size, (n, batch, steps or 1), options
    options["remainder"] = draw(st.sampled_from(["carry", "drop", "short"]))
    if draw(st.booleans()):
        options["disjoint_from"] = draw(st.lists(st.integers(0, size - 1), max_size=9))
    if world == "ideal":
        options["passes"] = draw(st.integers(1, 2))
        return IdealLoader, IdealSampler, size, (batch, steps), options
    options["balanced"] = draw(st.booleans())
    if world == "reuse":
        options["reuse"] = draw(st.integers(1, 4))
        n = draw(st.sampled_from([n, None]))
        return FixedReuseLoader, FixedReuseSampler, size, (n, batch, steps), options
    return RealLoader, RealSampler, size, (n, batch, steps), options


def made(build):
    """What `build` returns, or the message of its ValueError."""
    try:
        return build()
    except ValueError as error:
        return str(error).replace("balanced=True", "balanced")


@settings(deadline=None, max_examples=1000)
@given(twins())
def test_a_sampler_yields_the_indices_of_the_loader_of_equal_arguments(drawn):
    loader_class, sampler_class, size, arguments, options = drawn
    split = ArrayStore(np.zeros((size, 1, 1, 3), np.uint8), labels_of(size)).train
    loader = made(lambda: loader_class(split, *arguments, **options))
    if "balanced" in options:
        options["balanced"] = labels_of(size) if options["balanced"] else None
    sampler = made(lambda: sampler_class(size, *arguments, **options))
    if isinstance(loader, str):
        assert sampler == loader  # refused alike
        return
    assert len(sampler) == len(loader)
    assert list(sampler) == stream(loader, 0, len(loader))
    assert [sampler.epoch(k) for k in range(len(sampler))] == [
        loader.sampler.epoch(k) for k in range(len(loader))
    ]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 7])
def test_a_data_loader_gets_the_stream_from_the_step_that_is_asked(workers, start):
    sampler = RealSampler(SIZE, 25, 8, 12, start_step=start)
    assert len(sampler) == 12 - start
    assert served(sampler, num_workers=workers) == stream(sampler, start, 12)


def test_a_loop_that_was_left_begins_again_and_one_that_ended_does_not():
    sampler = IdealSampler(SIZE, 8)
    for _ in DataLoader(Numbers(), batch_sampler=sampler):
        break
    assert served(sampler) == stream(sampler, 0, 7)
    with pytest.raises(RuntimeError, match=r"finished \(7 of 7 steps\), and of the 60 .* fresh"):
        served(sampler)


def test_without_steps_each_loop_is_an_epoch():
    sampler = RealSampler(SIZE, 25, 8, remainder="short")
    assert [len(sampler), served(sampler), served(sampler)] == [
        4,
        stream(sampler, 0, 4),
        stream(sampler, 4, 8),
    ]
    late = RealSampler(SIZE, 25, 8, remainder="short", start_step=6)
    assert [len(late), served(late), served(late)] == [
        2,
        stream(sampler, 6, 8),
        stream(sampler, 8, 12),
    ]


def test_a_state_carries_the_step_and_refuses_another_order():
    state = RealSampler(SIZE, 25, 8, 12).state_dict(5)
    sampler = RealSampler(SIZE, 25, 8, 12)
    sampler.load_state_dict(state)
    assert served(sampler) == stream(sampler, 5, 12)
    with pytest.raises(ValueError, match="the saved loader has seed = 0, this one has 1"):
        RealSampler(SIZE, 25, 8, 12, seed=1).load_state_dict(state)


@pytest.mark.filterwarnings("ignore")  # torchdata's own
@pytest.mark.parametrize("workers", [0, 2])
def test_torchdatas_loader_resumes_where_its_reader_was(workers):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def make():
        sampler = RealSampler(SIZE, 25, 8, 12)
        return stateful(Numbers(), batch_sampler=sampler, num_workers=workers)

    whole = [x.tolist() for x in make()]
    first = make()
    steps = iter(first)
    head = [next(steps).tolist() for _ in range(5)]
    second = make()
    second.load_state_dict(first.state_dict())
    assert (
        head + [x.tolist() for x in second] == whole == stream(RealSampler(SIZE, 25, 8, 12), 0, 12)
    )


def test_samplers_can_be_kept_disjoint():
    real = RealSampler(SIZE, 25, 5, 10)
    ideal = IdealSampler(SIZE, 5, disjoint_from=real)
    used = {index for batch in ideal for index in batch}
    assert used.isdisjoint(index for batch in real for index in batch)
    assert len(used) == 35


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: RealSampler(SIZE, 25, 8), "25 is not a multiple of batch_size 8.*give steps, or"),
        (lambda: RealSampler(SIZE, 61, 8, 9), "between 1 and the 60 samples at hand, got 61"),
        (lambda: RealSampler(SIZE, 25, 8, 9, start_step=10), r"start_step must be in \[0, 9\]"),
        (lambda: RealSampler(SIZE, 25, 8, 9, start_step=0.5), "start_step must be an integer"),
        (lambda: RealSampler(Numbers(), 25, 8, 9), "size must be an integer, got"),
        (lambda: RealSampler(SIZE, 25, 8, 9, balanced=[0, 1]), "labels of all 60 samples, got 2"),
        (lambda: RealSampler(SIZE, 25, 8, 9, balanced=True), "labels of all samples, got True"),
        (lambda: IdealSampler(SIZE, 8, 8), "8 steps of 8 need 64 samples.*largest.* is 7 steps"),
        (lambda: IdealSampler(SIZE, 8, disjoint_from=IdealSampler(9, 3)), "pool of 9, this one"),
        (lambda: BootstrapSampler(SIZE, 9, 8, None), "steps must be an integer, got None"),
        (lambda: RealSampler(SIZE, 8, 8, world_size=3), "must be a multiple of world_size 3"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(make, says):
    with pytest.raises(ValueError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)
