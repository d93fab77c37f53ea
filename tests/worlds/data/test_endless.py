"""Endless pools: windows in a row, within a bound of bytes, made ahead, and a wait is told."""

import contextlib
import os
import pickle
import signal
import threading
import time
from multiprocessing import Pipe

import numpy as np
import pytest
import torch

from tests.processes import Forked
from tests.worlds.data.numbered_shards import SlowNumbered, numbered
from worlds import IdealLoader, RealLoader, TrainConfig, train
from worlds.data.endless import EndlessImages
from worlds.training.build import Data

CONFIG = TrainConfig("mlp_1x8", world="ideal", steps=12, batch_size=5, augment=None, log=4)
pytestmark = pytest.mark.filterwarnings("ignore:waiting for the generator")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch, request):
    """The maker in a thread, so that a test waits for no process to begin; but for one."""

    def start(function, *arguments):
        here, there = Pipe()
        threading.Thread(target=function, args=(there, *arguments), daemon=True).start()
        return here

    if "killed" not in request.node.name:
        monkeypatch.setattr("worlds.data.endless.start_process", start)


def test_an_ideal_world_takes_every_sample_once_window_by_window(tmp_path):
    split = numbered(tmp_path)[0]
    loader = IdealLoader(split, 10, seed=1, normalize=None)
    taken = [int(i) for step in range(10) for i in loader.sampler.indices(step)]
    assert sorted(taken) == list(range(100))
    for start in range(0, 100, 10):  # a window is two shards of five
        assert len({i // 10 for i in taken[start : start + 10]}) == 1
    images = torch.cat([x[:, 0, 0, 0] for x, _ in loader])
    assert images.tolist() == taken
    assert [int(y) for _, labels in IdealLoader(split, 10, seed=1) for y in labels] == [
        i % 10 for i in taken
    ]


def test_a_real_world_is_a_row_and_a_disjoint_ideal_world_stands_behind_it(tmp_path):
    split = numbered(tmp_path)[0]
    real, more = RealLoader(split, 30, 10), RealLoader(split, 40, 10)
    chosen = real.sampler.samples.tolist()
    assert chosen == [(chosen[0] + k) % 100 for k in range(30)]
    assert more.sampler.samples[:30].tolist() == chosen
    ideal = IdealLoader(split, 10, disjoint_from=real)
    taken = np.concatenate([ideal.indices(step) for step in range(len(ideal))])
    assert sorted([*taken.tolist(), *chosen]) == list(range(100))
    with pytest.raises(ValueError, match="in a row alone"):
        IdealLoader(split, 10, disjoint_from=np.array([1, 3]))
    with pytest.raises(ValueError, match="balanced"):
        RealLoader(split, 30, 10, balanced=True)


def test_trials_begin_elsewhere_and_a_pool_of_a_thousand_million_costs_nothing(tmp_path):
    split = numbered(tmp_path, n=10**9, shards=64)[0]
    firsts = {int(IdealLoader(split, 8, 5, trial=trial).indices(0)[0]) // 128 for trial in range(9)}
    assert len(firsts) == 9
    assert RealLoader(split, 50_000, 128, 5, trial=3).indices(0).max() < 10**9


def bytes_in(folder):
    """The bytes of the files there, of which some go while they are counted."""
    total = 0
    for path in folder.glob("*.npy"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def test_the_bytes_stay_within_the_bound_and_what_is_gone_is_made_again(tmp_path):
    split = numbered(tmp_path, n=400, most_bytes=8_000)[0]
    first = split.gather(np.arange(10))
    for start in range(0, 400, 40):
        split.gather(np.arange(start, start + 40))
        assert bytes_in(tmp_path) <= 8_000
    names = {path.name for path in tmp_path.glob("*.npy")}
    assert split.images.cache.path((0, 5)).name not in names  # the least recently used
    assert np.array_equal(split.gather(np.arange(10)), first)
    with pytest.raises(ValueError, match="cache_bytes must be at least 5,445"):
        numbered(tmp_path, most_bytes=5_000)


def test_a_cache_is_found_again_and_a_damaged_file_is_made_again(tmp_path):
    split = numbered(tmp_path, n=10)[0]
    pixels = split.gather(np.arange(10))
    again = pickle.loads(pickle.dumps(split))
    assert np.array_equal(again.gather(np.arange(10)), pixels)
    assert again.images.cache._connection is None  # no process had to start
    path = again.images.cache.path((5, 10))
    path.write_bytes(path.read_bytes()[:150])
    assert np.array_equal(again.gather(np.arange(10)), pixels)


def test_shards_are_made_ahead_of_the_one_in_use(tmp_path):
    split = numbered(tmp_path)[0]
    split.gather(np.arange(5))
    ahead = [split.images.cache.path((start, start + 5)) for start in (5, 10)]
    until = time.monotonic() + 20
    while not all(path.exists() for path in ahead):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_wait_is_told_with_the_rate_that_is_made_and_the_one_needed(tmp_path, monkeypatch):
    monkeypatch.setattr("worlds.data.endless._PATIENCE", 0.0)
    monkeypatch.setattr("worlds.data.endless._AGAIN", 0.0)
    split = numbered(tmp_path, kind=SlowNumbered)[0]
    told = r"generator: \d+\.\d images a second are made, [\d,]+ a second would be needed"
    split.gather(np.arange(5))
    with pytest.warns(UserWarning, match=told):
        split.gather(np.arange(5, 30))


def test_what_the_maker_cannot_make_is_one_line(tmp_path):
    cache = numbered(tmp_path)[0].images.cache
    with pytest.raises(RuntimeError, match="no shard could be made: no such images"):
        EndlessImages(cache, 1 << 40, 5).gather(np.arange(5), np.empty((5, 2, 2, 3), np.uint8))


def train_slowly(cache, folder):
    data = Data(*numbered(cache, kind=SlowNumbered))
    train(CONFIG, data, folder, checkpoint_seconds=0)


def test_a_killed_run_goes_on_with_the_cache_it_has(tmp_path):
    cache, folder = tmp_path / "cache", tmp_path / "run"
    process = Forked(train_slowly, cache, folder, group=True)
    while not (folder / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_ino for path in cache.glob("*.npy")}
    assert kept
    run = train(CONFIG, Data(*numbered(cache, kind=SlowNumbered)), folder)
    assert all(path.stat().st_ino == inode for path, inode in kept.items())
    whole = train(CONFIG, Data(*numbered(tmp_path / "other")), tmp_path / "whole")
    assert run.final["test_soft_error"] == whole.final["test_soft_error"]
