import gc
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from worlds.runtime.prefetch import BufferPool, prefetch


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_what_is_made_comes_in_order(threads):
    def make(number):
        time.sleep(0.001 * (number % 3))
        return number

    assert list(prefetch(make, 23, threads)) == list(range(23))


def test_no_more_is_made_ahead_than_there_is_room_for():
    made = []
    before = threading.active_count()
    ahead = prefetch(made.append, 1000, 2)
    next(ahead)
    time.sleep(0.05)
    assert len(made) == 5
    ahead.close()
    assert threading.active_count() == before
    assert len(made) == 5


def test_an_error_is_raised_where_its_block_is_asked_for():
    def make(number):
        if number == 3:
            raise OSError("the disk is gone")
        return number

    before = threading.active_count()
    got = []
    with pytest.raises(OSError, match="the disk is gone"):
        got.extend(prefetch(make, 10, 2))
    assert threading.active_count() == before


OPEN_LOOP = """
import numpy as np
import torch
import worlds.loaders.loaders
from worlds import ArrayStore, RealLoader

pool = ArrayStore(np.zeros((64, 8, 8, 3), np.uint8), np.arange(64) % 4).train
loop = iter(RealLoader(pool, 64, 8, 100))
next(loop)
"""


def test_a_program_that_ends_inside_a_loop_ends_in_silence():
    done = subprocess.run([sys.executable, "-c", OPEN_LOOP], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


FLOAT32 = np.dtype(np.float32)


def leased(pool, size):
    return torch.from_numpy(pool.lease(size, FLOAT32))


def test_memory_is_leased_again_only_when_no_tensor_shares_it():
    pool = BufferPool(4)
    tensor = leased(pool, 100)
    place = tensor.data_ptr()
    keeper = tensor.view(10, 10)[3:].numpy()  # an array over a view of the tensor
    del tensor
    gc.collect()
    assert leased(pool, 100).data_ptr() != place
    del keeper
    gc.collect()
    assert place in {t.data_ptr() for t in [leased(pool, 50), leased(pool, 100)]}


def test_memory_of_another_kind_or_too_small_is_not_leased():
    pool = BufferPool(4)
    leased(pool, 10)
    assert pool.lease(20, FLOAT32).shape == (20,)
    assert pool.lease(5, np.dtype(np.uint16)).dtype == np.uint16


def test_a_full_pool_lets_its_oldest_memory_go():
    pool = BufferPool(2)
    held = [leased(pool, 10) for _ in range(5)]
    assert len({t.data_ptr() for t in held}) == 5
    for k, tensor in enumerate(held):
        tensor.fill_(k)
    assert [t[0].item() for t in held] == [0, 1, 2, 3, 4]
