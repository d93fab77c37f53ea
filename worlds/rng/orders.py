"""The permutation in which one pass takes its samples."""

import os
from functools import lru_cache
from threading import Lock

import numpy as np

from worlds.rng.streams import ORDER, key_of

_permuting = Lock()  # threads that come to a pass together make its permutation once


def _unlock() -> None:
    """Replace the lock in a forked process, where no thread would ever release it."""
    global _permuting
    _permuting = Lock()


os.register_at_fork(after_in_child=_unlock)


def key_words(seed: int) -> np.ndarray:
    """Return the Philox key of a seed as the compiled kernels take it, uint64 (2,)."""
    return np.array(key_of(seed), dtype=np.uint64)


def pass_order(n: int, seed: int, trial: int, epoch: int) -> np.ndarray:
    """Return the permutation of range(n), uint32, in which pass `epoch` takes its n samples."""
    with _permuting:
        return _pass_order(n, seed, trial, epoch)


@lru_cache(maxsize=4)
def _pass_order(n: int, seed: int, trial: int, epoch: int) -> np.ndarray:
    from worlds.rng.kernels import shuffled_prefix

    order = shuffled_prefix(n, n, key_words(seed), ORDER, epoch, trial)
    # The cache hands the same array to all who ask.
    order.flags.writeable = False
    return order
