"""Loaders: the four worlds, and a plain pass for evaluation, as iterables of (images, labels).

    real = RealLoader(store.train, n=50_000, batch_size=128, steps=39_000, augment="crop+flip")
    for x, y in real: ...        # x float (B, 3, H, W) in [-1, 1], y int64 (B,)

A loader's state is its position: the number of batches handed out, whatever has been made ahead.
`for` goes on from there, so a loop that was left early continues, and a restored loader gives
exactly the rest. `len(loader)` is the number of batches of a whole run (or of one pass where
`steps` was not given). A batch is never overwritten while anything refers to it.
"""

from collections.abc import Iterator
from typing import Unpack

import numpy as np

from worlds.data.splits import Pool, check_split, labels_of, window_of
from worlds.loaders.base import Loader
from worlds.loaders.options import Options
from worlds.loaders.pipelines import Batch
from worlds.loaders.samplers import Remainder, Sampler
from worlds.loaders.stream import (
    Seeds,
    bootstrap_order,
    excluded_indices,
    pool_indices,
    real_order,
    reuse_order,
)
from worlds.runtime.checks import count, integer


def _excluded(split: Pool, disjoint_from: "Loader | np.ndarray | None") -> np.ndarray | None:
    """Return distinct pool indices that may not be drawn."""
    check_split(split)
    # Indices of a loader mean something in its own pool only.
    other = disjoint_from.dataset if isinstance(disjoint_from, Loader) else split
    if other.fingerprint != split.fingerprint:
        raise ValueError("disjoint_from is a loader over another pool: indices do not compare")
    return excluded_indices(len(split), disjoint_from)


class RealLoader(Loader):
    """Real World: `n` samples of the pool, chosen by (seed, trial), reshuffled every epoch.

    With n the whole pool nothing is chosen, and the first epoch is the Ideal World's pass.
    """

    def __init__(
        self,
        split: Pool,
        n: int,
        batch_size: int,
        steps: int | None = None,
        *,
        seed: int = 0,
        trial: int = 0,
        data_seed: int | None = None,
        order_seed: int | None = None,
        remainder: Remainder = "carry",
        balanced: bool = False,
        disjoint_from: "Loader | np.ndarray | None" = None,
        **options: Unpack[Options],
    ) -> None:
        excluded = _excluded(split, disjoint_from)
        balance = labels_of(split) if balanced else None
        seeds = Seeds(seed, trial, data_seed, order_seed)
        choice = (seeds, remainder, balance, excluded)
        sampler = real_order(len(split), n, batch_size, *choice, window_of(split))
        super().__init__(split, sampler, steps, **options)


class FixedReuseLoader(Loader):
    """Between the worlds: `n` samples (None: the whole pool), each used exactly `reuse` times, in
    `reuse` shuffled passes. Without `steps`, all the batches there are: of a run whose samples are
    no multiple of the batch size, the last one is smaller.
    """

    def __init__(
        self,
        split: Pool,
        n: int | None,
        batch_size: int,
        steps: int | None = None,
        *,
        reuse: int,
        seed: int = 0,
        trial: int = 0,
        data_seed: int | None = None,
        order_seed: int | None = None,
        remainder: Remainder = "carry",
        balanced: bool = False,
        disjoint_from: "Loader | np.ndarray | None" = None,
        **options: Unpack[Options],
    ) -> None:
        excluded = _excluded(split, disjoint_from)
        balance = labels_of(split) if balanced else None
        seeds = Seeds(seed, trial, data_seed, order_seed)
        order = ("fixed reuse", len(split), n, batch_size, seeds, remainder, balance, excluded)
        sampler = reuse_order(*order, reuse, window_of(split))
        super().__init__(split, sampler, steps, **options)


class IdealLoader(Loader):
    """Ideal World: every sample of the pool at most once. Without `steps`, one pass.

    Where the pool is too small for that, `passes` allows more than one: an approximation, in which
    only the augmentation is fresh from the second pass on. Its `world` says so, and the loader's
    `passes` how many it comes to (the paper's on ImageNet-DogBird: 7.7).
    """

    def __init__(
        self,
        split: Pool,
        batch_size: int,
        steps: int | None = None,
        *,
        seed: int = 0,
        trial: int = 0,
        order_seed: int | None = None,
        passes: int = 1,
        remainder: Remainder = "carry",
        disjoint_from: "Loader | np.ndarray | None" = None,
        **options: Unpack[Options],
    ) -> None:
        excluded, seeds = _excluded(split, disjoint_from), Seeds(seed, trial, None, order_seed)
        passes = count("passes", passes)
        world = "ideal" if passes == 1 else "approximate ideal"
        order = (world, len(split), None, batch_size, seeds, remainder, None, excluded)
        super().__init__(split, reuse_order(*order, passes, window_of(split)), steps, **options)


class BootstrapLoader(Loader):
    """`n` samples of the pool (None: all), drawn with replacement at every position."""

    def __init__(
        self,
        split: Pool,
        n: int | None,
        batch_size: int,
        steps: int,
        *,
        seed: int = 0,
        trial: int = 0,
        data_seed: int | None = None,
        order_seed: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        check_split(split)
        seeds = Seeds(seed, trial, data_seed, order_seed)
        sampler = bootstrap_order(len(split), n, batch_size, seeds, window_of(split))
        super().__init__(split, sampler, steps, **options)


class SequentialLoader(Loader):
    """Some samples in a fixed order, for evaluation: every `for` is one whole pass from the
    beginning, and the last batch may be smaller.

    By default all samples in their natural order; `n` takes the first n, `indices` takes those (for
    the train error of a Real World: `indices=real.sampler.samples`).
    """

    def __init__(
        self,
        split: Pool,
        batch_size: int,
        n: int | None = None,
        *,
        indices: np.ndarray | None = None,
        seed: int = 0,
        trial: int = 0,
        **options: Unpack[Options],
    ) -> None:
        check_split(split)
        # Which samples: all, the first n, or those listed.
        if n is not None and indices is not None:
            raise ValueError("give either n or indices, not both")
        if n is not None:
            n = integer("n", n)
            if not 1 <= n <= len(split):
                raise ValueError(
                    f"n must be between 1 and the {len(split):,} samples at hand, got {n:,}"
                )
            indices = np.arange(n)
        sampler = Sampler(
            "sequential",
            len(split),
            batch_size,
            seed,
            trial,
            samples=None if indices is None else pool_indices(len(split), indices),
            remainder="short",
            reuse=1,
            shuffle=False,
        )
        super().__init__(split, sampler, None, **options)

    def __iter__(self) -> Iterator[Batch]:
        self._step = 0
        return super().__iter__()
