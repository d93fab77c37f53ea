import json
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from worlds import (
    ArrayStore,
    Augment,
    BootstrapLoader,
    FixedReuseLoader,
    IdealLoader,
    LabelNoise,
    RealLoader,
    SequentialLoader,
)
from worlds.data.stores import Store
from worlds.formats.shards import encode_png
from worlds.loaders.augment import augment_batch, parse_augment

SIZE = 300


def make_store(size=SIZE, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
    return ArrayStore(images, rng.integers(0, 10, size), images[:50], rng.integers(0, 10, 50))


@pytest.fixture(scope="module")
def store() -> Store:
    return make_store()


WORLDS = {
    "real": lambda pool, **options: RealLoader(pool, 90, 32, 12, **options),
    "real, drop": lambda pool, **options: RealLoader(pool, 90, 32, 12, remainder="drop", **options),
    "real, short": lambda pool, **options: RealLoader(
        pool, 90, 32, 12, remainder="short", **options
    ),
    "ideal": lambda pool, **options: IdealLoader(pool, 32, **options),
    "fixed reuse": lambda pool, **options: FixedReuseLoader(pool, 90, 32, reuse=3, **options),
    "bootstrap": lambda pool, **options: BootstrapLoader(pool, 90, 32, 12, **options),
    "sequential": lambda pool, **options: SequentialLoader(pool, 32, n=90, **options),
}
each_world = pytest.mark.parametrize("world", WORLDS)


def equal(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True)
    )


@each_world
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_are_what_indices_and_positions_say(store, world, threads):
    loader = WORLDS[world](store.train, seed=7, trial=2, augment="crop+flip", threads=threads)
    seed, trial = loader.sampler.seed, loader.sampler.trial
    steps = 0
    for step, (images, labels) in enumerate(loader):
        indices, positions = loader.indices(step), torch.from_numpy(loader.positions(step))
        pixels = torch.from_numpy(store.train.gather(indices))
        expected = augment_batch(pixels, parse_augment("crop+flip"), seed, trial, positions)
        assert torch.equal(images, expected)
        assert labels.tolist() == store.train.labels[indices].tolist()
        assert labels.dtype == torch.int64
        assert loader.step == step + 1
        steps += 1
    assert steps == len(loader)


@each_world
@settings(deadline=None, max_examples=6)
@given(stop=st.integers(0, 100), threads=st.sampled_from([0, 2]))
def test_a_restored_loader_gives_exactly_the_rest(store, world, stop, threads):
    if world == "sequential":
        return  # it always begins at the beginning
    whole = list(WORLDS[world](store.train, seed=3, augment="crop+flip"))
    first = WORLDS[world](store.train, seed=3, augment="crop+flip", threads=threads)
    stop = min(stop, len(whole))
    head = []
    for batch in first:
        if len(head) == stop:
            break
        head.append(batch)
    # The batch at which the loop broke was handed out: the state is past it.
    taken = min(stop + 1, len(whole))
    saved = json.loads(json.dumps(first.state_dict()))
    second = WORLDS[world](store.train, seed=3, augment="crop+flip", threads=threads)
    second.load_state_dict(saved)
    assert equal(head, whole[:stop])
    for loader in (first, second):
        if taken < len(whole):
            assert equal(list(loader), whole[taken:])
        with pytest.raises(RuntimeError, match=rf"finished \({len(whole)} of {len(whole)} steps\)"):
            next(iter(loader))


def test_a_finished_ideal_run_says_that_no_fresh_sample_is_left(store):
    loader = IdealLoader(store.train, 32)
    assert len(list(loader)) == len(loader) == 9
    with pytest.raises(RuntimeError, match=r"9 of 9 steps\), and of the 300 samples none is left"):
        list(loader)


def test_an_n_of_whole_batches_needs_no_steps(store):
    loader = RealLoader(store.train, 96, 32)
    assert len(loader) == len(list(loader)) == 3
    assert [loader.epoch, len(list(loader)), loader.epoch] == [1, 3, 2]


@each_world
def test_the_ranks_together_yield_the_global_batch(store, world):
    whole = list(WORLDS[world](store.train, augment="flip"))
    shares = [
        list(WORLDS[world](store.train, augment="flip", rank=rank, world_size=4))
        for rank in range(4)
    ]
    joined = [
        tuple(torch.cat(parts) for parts in zip(*step, strict=True))
        for step in zip(*shares, strict=True)
    ]
    assert equal(joined, whole)


def test_a_restart_may_use_another_world_size(store):
    whole = list(WORLDS["real"](store.train))
    loader = WORLDS["real"](store.train, rank=1, world_size=2)
    steps = iter(loader)
    for _ in range(5):
        next(steps)
    rest = []
    for rank in range(4):
        other = WORLDS["real"](store.train, rank=rank, world_size=4)
        other.load_state_dict(loader.state_dict())
        rest.append(list(other))
    joined = [torch.cat([x for x, _ in step]) for step in zip(*rest, strict=True)]
    assert all(torch.equal(x, y) for x, (y, _) in zip(joined, whole[5:], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_dtype_and_layout_change_the_form_and_not_the_images(store, dtype, channels_last):
    plain = list(WORLDS["real"](store.train, augment="crop+flip+cutout"))
    made = list(
        WORLDS["real"](
            store.train, augment="crop+flip+cutout", dtype=dtype, channels_last=channels_last
        )
    )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for (x, _), (expected, _) in zip(made, plain, strict=True):
        assert x.shape == (32, 3, 32, 32)
        assert x.is_contiguous(memory_format=layout)
        assert torch.equal(x, expected.to(dtype))


def test_a_batch_in_hand_is_never_overwritten(store):
    loader = RealLoader(store.train, 90, 32, 200, threads=2)
    kept = [(x, x.clone()) for x, _ in loader]
    assert all(torch.equal(x, copy) for x, copy in kept)


def test_memory_of_dropped_batches_is_used_again(store):
    loader = RealLoader(store.train, 90, 32, 600)
    places = {x.untyped_storage().data_ptr() for x, _ in loader}
    assert len(places) <= 8


def test_a_subset_for_smaller_n_is_a_prefix(store):
    samples = [RealLoader(store.train, n, 10, 1).sampler.samples for n in (10, 100)]
    assert np.array_equal(samples[0], samples[1][:10])


def test_worlds_can_be_kept_disjoint(store):
    real = RealLoader(store.train, 100, 10, 1)
    ideal = IdealLoader(store.train, 10, disjoint_from=real)
    other = RealLoader(store.train, 100, 10, 1, disjoint_from=real.sampler.samples)
    used = {int(i) for step in range(len(ideal)) for i in ideal.indices(step)}
    assert len(used) == 200
    assert used.isdisjoint(real.sampler.samples.tolist())
    assert set(other.sampler.samples.tolist()) <= used


def test_a_balanced_subset_has_equal_classes():
    labels = np.arange(100) % 4
    pool = ArrayStore(np.zeros((100, 8, 8, 3), dtype=np.uint8), labels).train
    loader = RealLoader(pool, 20, 5, 1, balanced=True)
    assert np.bincount(labels[loader.sampler.samples]).tolist() == [5, 5, 5, 5]


def test_without_steps_a_loop_is_one_pass_and_the_next_goes_on(store):
    loader = RealLoader(store.train, 90, 32, remainder="short")
    whole = list(RealLoader(store.train, 90, 32, 9, remainder="short"))
    assert len(loader) == 3
    assert [loader.epoch, equal(list(loader), whole[:3])] == [0, True]
    assert [loader.epoch, equal(list(loader), whole[3:6])] == [1, True]
    assert [len(x) for x, _ in loader] == [32, 32, 26]


def test_an_evaluation_loader_begins_anew_each_time(store):
    loader = SequentialLoader(store.test, 16, n=40)
    for _ in loader:
        break
    labels = [torch.cat([y for _, y in loader]).tolist() for _ in range(2)]
    assert labels == [store.test.labels[:40].tolist()] * 2
    assert len(loader) == 3


def test_an_evaluation_loader_takes_the_samples_of_a_real_world(store):
    real = RealLoader(store.train, 90, 32, 1)
    loader = SequentialLoader(store.train, 40, indices=real.sampler.samples)
    labels = torch.cat([y for _, y in loader])
    assert labels.tolist() == store.train.labels[real.sampler.samples].tolist()


def test_an_ideal_loader_with_no_steps_uses_the_whole_pool(store):
    loader = IdealLoader(store.train, 7, remainder="short")
    assert sum(len(y) for _, y in loader) == SIZE
    assert loader.epoch == 0


def test_encoded_images_are_served_like_arrays(store, tmp_path):
    from tests.worlds.small_stores import write_shards

    pool = write_shards(tmp_path, store.train.gather(range(60)), store.train.labels[:60])
    loaders = [
        RealLoader(p, 20, 8, 9, augment="crop+flip")
        for p in (pool, ArrayStore(store.train.gather(range(60)), store.train.labels[:60]).train)
    ]
    assert equal(*map(list, loaders))
    assert encode_png(store.train.gather([0])[0])[:4] == b"\x89PNG"


def test_a_transform_is_addressed_and_leaves_the_generator_alone(store):
    def noisy(image):
        return image.float() / 255 + torch.rand(())

    def run(start=0):
        loader = RealLoader(store.train, 90, 32, 6, transform=noisy, dtype=torch.float16)
        loader.load_state_dict(loader.state_dict() | {"step": start})
        return list(loader)

    torch.manual_seed(5)
    before = torch.get_rng_state()
    whole = run()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert equal(run(start=3), whole[3:])
    assert whole[0][0].dtype == torch.float16


def test_a_uint8_transform_is_normalized(store):
    loader = RealLoader(store.train, 90, 32, 2, transform=lambda image: image.flip(-1))
    plain = RealLoader(store.train, 90, 32, 2)
    assert all(torch.equal(x, y.flip(-1)) for (x, _), (y, _) in zip(loader, plain, strict=True))


def test_a_split_works_under_a_torch_dataloader(store):
    images, labels = next(iter(DataLoader(store.train, batch_size=5)))
    assert images.shape == (5, 3, 32, 32)
    assert labels.tolist() == store.train.labels[:5].tolist()


def test_a_second_loop_ends_the_first(store):
    loader = WORLDS["real"](store.train)
    first, second = iter(loader), iter(loader)
    next(first)
    next(second)
    with pytest.raises(RuntimeError, match="position changed"):
        next(first)


def test_an_error_in_a_thread_reaches_the_trainer(store):
    loader = WORLDS["real"](store.train)
    loader.dataset.images.addresses, restore = None, loader.dataset.images.addresses
    try:
        with pytest.raises(TypeError):
            next(iter(loader))
    finally:
        loader.dataset.images.addresses = restore


def test_leaving_a_loop_ends_its_threads(store):
    import threading

    before = threading.active_count()
    steps = iter(RealLoader(store.train, 90, 32, 10_000, threads=2))
    next(steps)
    assert threading.active_count() == before + 2
    steps.close()
    assert threading.active_count() == before


NOISY = LabelNoise("symmetric", 0.5)
DIFFERENT = [
    ("seed", lambda s: RealLoader(s.train, 90, 32, 25, seed=1)),
    ("trial", lambda s: RealLoader(s.train, 90, 32, 25, trial=1)),
    ("n", lambda s: RealLoader(s.train, 91, 32, 25)),
    ("batch_size", lambda s: RealLoader(s.train, 90, 31, 25)),
    ("remainder", lambda s: RealLoader(s.train, 90, 32, 25, remainder="drop")),
    ("augment", lambda s: RealLoader(s.train, 90, 32, 25, augment=Augment(pad=2))),
    ("world", lambda s: BootstrapLoader(s.train, 90, 32, 25)),
    ("label_noise", lambda s: RealLoader(s.train.with_label_noise(NOISY), 90, 32, 25)),
    ("subset", lambda s: RealLoader(s.train, 90, 32, 25, disjoint_from=np.arange(9))),
    ("pool", lambda s: RealLoader(make_store(seed=1).train, 90, 32, 25)),
]


@pytest.mark.parametrize("field, make", DIFFERENT, ids=[field for field, _ in DIFFERENT])
def test_a_state_of_another_configuration_is_refused_by_name(store, field, make):
    state = RealLoader(store.train, 90, 32, 25).state_dict()
    with pytest.raises(ValueError, match=f"the saved loader has {field} ="):
        make(store).load_state_dict(state)


BAD = [
    (lambda s: RealLoader(s.train, 301, 32, 5), "the 300 samples at hand, got 301"),
    (lambda s: RealLoader(s.train, 0, 32, 5), "samples at hand, got 0"),
    (lambda s: RealLoader(s.train, 90, 0, 5), "batch_size must be 1 or more, got 0"),
    (lambda s: RealLoader(s.train, 90, 32, 0), "steps must be 1 or more, got 0"),
    (lambda s: RealLoader(s.train, 90.0, 32, 5), "n must be an integer, got 90.0"),
    (lambda s: RealLoader(s.train, 90, 32.0, 5), "batch_size must be an integer, got 32.0"),
    (lambda s: RealLoader(s.train, 90, 32, 5.0), "steps must be an integer, got 5.0"),
    (lambda s: RealLoader(s.train, 90, 32), "give steps"),
    (lambda s: IdealLoader(s.train, 301), "300 samples, .* fill no batch of 301"),
    (
        lambda s: IdealLoader(s.train, 32, 10),
        "10 steps of 32 need 320 samples, .* give 300: the largest possible is 9 steps",
    ),
    (lambda s: RealLoader(s.train, 90, 32, 5, rank=2, world_size=2), "got rank 2 of 2"),
    (lambda s: RealLoader(s.train, 90, 32, 5, world_size=3), "multiple of world_size 3"),
    (lambda s: RealLoader(s.train, 90, 32, 5, threads=-1), "threads must be 0 or more"),
    (lambda s: RealLoader(s.train, 90, 32, 5, dtype=torch.int8), "dtype must be"),
    (lambda s: RealLoader(s.train, 90, 32, 5, device="mps"), 'device must be "cpu", "cuda"'),
    (lambda s: RealLoader(s.train, 90, 32, 5, device="gpu"), 'device must be "cpu", "cuda"'),
    (
        lambda s: RealLoader(s.train, 90, 32, 5, augment="flip", transform=torch.clone),
        "either augment or transform",
    ),
    (lambda s: RealLoader(s.train, 90, 32, 5, augment=Augment(pad=40)), "larger than that"),
    (lambda s: RealLoader(s.train, 9, 3, 5, disjoint_from=np.array([300])), "indices must be in"),
    (
        lambda s: IdealLoader(s.test, 3, disjoint_from=RealLoader(s.train, 9, 3, 5)),
        "another pool",
    ),
    (
        lambda s: IdealLoader(s.train, 3, disjoint_from=IdealLoader(s.train, 3)),
        "nothing is left",
    ),
    (lambda s: SequentialLoader(s.test, 5, n=5, indices=np.arange(5)), "either n or indices"),
    (lambda s: SequentialLoader(s.test, 5, indices=np.array([-1])), "got -1 to -1"),
    (lambda s: SequentialLoader(s.test, 5, indices=np.arange(0)), "at least one sample"),
    (lambda s: SequentialLoader(s.test, 5, indices=np.ones(50, dtype=bool)), "integers, got bool"),
    (lambda s: SequentialLoader(s.test, 5, n=51), "the 50 samples at hand, got 51"),
    (lambda s: FixedReuseLoader(s.train, None, 5, reuse=1, balanced=True), "give n as well"),
]


@pytest.mark.parametrize("make, says", BAD, ids=[says for _, says in BAD])
def test_bad_input_is_refused_in_one_line(store, make, says):
    with pytest.raises(ValueError, match=says) as caught:
        make(store)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
@pytest.mark.parametrize("options", [{"device": "cuda"}, {"pin_memory": True}])
def test_cuda_without_cuda_is_refused(store, options):
    with pytest.raises(ValueError, match=r"0 usable GPUs|needs a CUDA device"):
        RealLoader(store.train, 90, 32, 5, **options)


NO_STATE = "not a loader's state of format 1"
BROKEN = [
    ({"format": 2}, NO_STATE),
    ({"step": "3"}, NO_STATE),
    ({"config": None}, NO_STATE),
    ({"step": 26}, "beyond this loader's 25 steps"),
]


@pytest.mark.parametrize("change, says", BROKEN, ids=str)
def test_a_broken_state_is_refused(store, change, says):
    loader = RealLoader(store.train, 90, 32, 25)
    with pytest.raises(ValueError, match=says):
        loader.load_state_dict(loader.state_dict() | change)


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_state_is_refused(store, nothing):
    with pytest.raises(ValueError, match=NO_STATE):
        RealLoader(store.train, 90, 32, 25).load_state_dict(nothing)


def test_a_ready_batch_costs_the_trainer_little_time(store):
    loader = RealLoader(store.train, 300, 128, 40, augment="crop+flip")
    spent = []
    steps = iter(loader)
    next(steps)
    for _ in range(39):
        time.sleep(0.002)  # a training step, in which the thread makes what comes next
        start = time.thread_time()
        next(steps)
        spent.append(time.thread_time() - start)
    assert sorted(spent)[len(spent) // 2] < 50e-6


@pytest.mark.parametrize("n, batch_size, reuse", [(700, 128, 5), (90, 32, 3), (64, 32, 2)])
def test_fixed_reuse_uses_every_sample_exactly_so_often_by_default(n, batch_size, reuse):
    pool = make_store(800).train
    loader = FixedReuseLoader(pool, n, batch_size, reuse=reuse)
    batches = [loader.indices(step) for step in range(len(loader))]
    counts = np.bincount(np.concatenate(batches), minlength=len(pool))
    assert sorted(set(counts[counts > 0])) == [reuse]
    assert [len(b) for b in batches[:-1]] == [batch_size] * (len(loader) - 1)
    assert len(batches[-1]) == (n * reuse - 1) % batch_size + 1
    if n == 90:
        assert sum(len(y) for _, y in loader) == n * reuse
        with pytest.raises(ValueError, match="ends with a batch of 14, too few for 16 ranks"):
            FixedReuseLoader(pool, n, batch_size, reuse=reuse, world_size=16)
