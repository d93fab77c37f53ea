"""Stores and loaders in other processes: pickled to them, or forked into them."""

import copy
import multiprocessing
import os
import pickle
import warnings

import numpy as np
import pytest
import torch

from tests.worlds.small_stores import write_shards
from worlds import ArrayStore, RealLoader, open_store, write_pack

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 10, 100)


def arrays(folder):
    return ArrayStore(IMAGES, LABELS).train


def pack(folder):
    write_pack(list(ArrayStore(IMAGES, LABELS, IMAGES[:7], LABELS[:7]).splits.values()), folder)
    return open_store(folder).train


def parts(folder):
    for part, place in ((0, slice(0, 30)), (3, slice(30, 100))):
        np.savez(folder / f"cifar5m_part{part}.npz", X=IMAGES[place], Y=LABELS[place])
    return open_store(folder).train


def shards(folder):
    return write_shards(folder, IMAGES, LABELS)


def loader_of(split):
    return RealLoader(split, 60, 16, 12, augment="crop+flip")


def batches(loader):
    return [(x.clone(), y.clone()) for x, y in loader]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("make", [arrays, pack, parts, shards], ids=lambda make: make.__name__)
def test_a_loader_that_was_pickled_goes_on_where_it_stood(make, tmp_path, monkeypatch):
    loader, whole = loader_of(make(tmp_path)), batches(loader_of(make(tmp_path)))
    for _, (x, _) in zip(range(5), loader, strict=False):
        assert len(x) == 16
    saved = pickle.dumps(loader)
    monkeypatch.chdir("/")  # paths are kept whole
    assert loader.step == 5
    assert same(batches(pickle.loads(saved)), whole[5:])
    assert same(batches(copy.deepcopy(loader)), whole[5:])


def test_pickling_a_pack_takes_no_bytes_of_its_images(tmp_path):
    split = pack(tmp_path)
    assert len(pickle.dumps(split)) < 8_000 < IMAGES.nbytes
    again = pickle.loads(pickle.dumps(split))
    assert np.array_equal(again.gather(np.arange(100)), IMAGES)
    assert again.labels is again.clean_labels


def count_batches(loader, queue):
    queue.put((loader.step, len(batches(loader))))


@pytest.mark.slow
def test_a_spawned_process_takes_a_loader(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=count_batches, args=(loader_of(shards(tmp_path)), queue))
    process.start()
    assert queue.get(timeout=60) == (0, 12)
    process.join()


def test_a_loop_taken_into_a_forked_process_is_refused_and_a_new_one_runs(tmp_path):
    loader = RealLoader(arrays(tmp_path), 60, 16, 1_000)
    loop = iter(loader)
    next(loop)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, from 3.12
        child = os.fork()
    if not child:
        code = 1
        try:
            assert len(batches(loader_of(arrays(tmp_path)))) == 12
            for _ in loop:
                pass
        except RuntimeError as error:
            code = 0 if "begin a new one" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert sum(1 for _ in loop) == 999
