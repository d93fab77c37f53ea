"""The choice and order of samples: pure functions of (seed, trial, epoch, position), with no state
but a position.

A training stream is one long row of positions 0, 1, 2, ... A sampler says which pool index stands
at a position and where each step's batch begins and ends; a loader only walks along it. The subset
of a Real World is the first n entries of a permutation of the pool named by (seed, trial), so the
subset for a smaller n is a prefix of that for a larger one; each pass has its own permutation,
named by (seed, trial, epoch).

    Real         n samples, reshuffled every epoch, for as long as asked
    Ideal        every sample of the pool at most once
    FixedReuse   n samples, each exactly `reuse` times: Ideal is reuse 1, Real is reuse E
    Bootstrap    n samples drawn with replacement, independently at every position

`remainder` says what happens where n is not a multiple of the batch size: "carry" lets batches run
on across the border of an epoch; "drop" leaves n mod batch_size samples of each pass out (others
each time); "short" ends a pass with a smaller batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import numpy as np

from worlds.rng.orders import key_words, pass_order
from worlds.rng.streams import BOOTSTRAP, SUBSET, WINDOW, Name, key_of
from worlds.runtime.checks import count, integer

Remainder = Literal["carry", "drop", "short"]

_LARGEST_POOL: Final = (1 << 32) - 1


def subset(
    pool: int,
    n: int,
    seed: int,
    trial: int = 0,
    *,
    exclude: np.ndarray | None = None,
    balance: np.ndarray | None = None,
    window: int | None = None,
) -> np.ndarray:
    """Return n distinct indices below `pool`, uint32, in the order that larger subsets keep.

    `exclude` holds distinct indices that may not be drawn. `balance` holds the label of every
    sample of the pool: then the subset takes the classes in turn, so that the counts of any prefix
    differ by one at most. Of a pool that is taken in windows the n samples stand in a row.
    """
    from worlds.rng.kernels import shuffled_prefix

    n = integer("n", n)
    allowed = pool - (0 if exclude is None else len(exclude))
    if not 1 <= n <= allowed:
        beside = "" if exclude is None else f" ({pool:,} less {len(exclude):,} excluded)"
        raise ValueError(
            f"n must be between 1 and the {allowed:,} samples at hand{beside}, got {n:,}"
        )
    if window is not None:
        if exclude is not None or balance is not None:
            raise ValueError("a pool that is made when asked for takes no balanced, and no "
                             "disjoint_from but in the Ideal World")  # fmt: skip
        return _in_a_row(first_of(pool, window, seed, trial), n, pool)
    whole = exclude is not None or balance is not None
    order = shuffled_prefix(pool, pool if whole else n, key_words(seed), SUBSET, trial, 0)
    if exclude is not None:
        keep = np.ones(pool, dtype=bool)
        keep[exclude] = False
        order = order[keep[order]]
    if balance is not None:
        order = _in_turn(order, balance, n)
    return order[:n].copy()  # not a view that keeps the whole pool's order in memory


def first_of(pool: int, window: int, seed: int, trial: int) -> int:
    """Return the index at which the samples of (seed, trial) begin in a pool taken in windows."""
    from worlds.rng.kernels import shuffled_prefix

    drawn = shuffled_prefix(-(-pool // window), 1, key_words(seed), SUBSET, trial, 0)
    return int(drawn[0]) * window


def _in_a_row(first: int, n: int, pool: int) -> np.ndarray:
    """`n` indices from `first` on, uint32; behind the last of the pool comes 0."""
    return ((first + np.arange(n)) % pool).astype(np.uint32)


def _in_turn(order: np.ndarray, labels: np.ndarray, n: int) -> np.ndarray:
    """Rearrange `order`: the first sample of each class, then the second of each, and so on."""
    # Rows by class, in the random order within each; column k holds the k-th of each class.
    by_class = np.argsort(labels[order], kind="stable")
    classes, counts = np.unique(labels[order], return_counts=True)
    needed = -(-n // len(classes))  # of each class, rounded up
    if counts.min() < needed:
        scarce = classes[counts.argmin()]
        raise ValueError(
            f"a balanced subset of {n:,} needs {needed:,} samples of each class, "
            f"but class {scarce} has {counts.min():,}"
        )
    starts = np.concatenate(([0], counts.cumsum()[:-1]))  # of each class in by_class
    return order[by_class[starts[None, :] + np.arange(needed)[:, None]].ravel()]


@dataclass(frozen=True, eq=False)
class Sampler:
    """A training stream over `samples`: pool indices, or None for the whole pool as it is numbered.

    `reuse` is how many passes there may be, None for no limit. `replace` draws with replacement
    instead of in passes; without `shuffle` every pass is in natural order.
    """

    world: str
    pool: int
    batch_size: int
    seed: int = 0
    trial: int = 0
    samples: np.ndarray | None = field(default=None, repr=False)
    remainder: Remainder = "carry"
    reuse: int | None = None
    replace: bool = False
    shuffle: bool = True
    exact: bool = False  # "carry": the last batch of all may be smaller, so that none is left
    augment: Name | None = None  # of crops and flips; None: that of the order

    def __post_init__(self) -> None:
        # Whole numbers become Python's own, so that states are plain JSON.
        for name in ("pool", "seed", "trial"):
            object.__setattr__(self, name, integer(name, getattr(self, name)))
        object.__setattr__(self, "batch_size", count("batch_size", self.batch_size))
        if self.reuse is not None:
            object.__setattr__(self, "reuse", count("reuse", self.reuse))
        key_of(self.seed)
        # Then what a Philox counter and the rule of the remainder allow.
        if not 0 <= self.trial < 1 << 32:
            raise ValueError(f"trial must be in [0, 2^32), got {self.trial}")
        if not 1 <= self.pool <= _LARGEST_POOL:
            raise ValueError(
                f"the pool must hold between 1 and {_LARGEST_POOL:,} samples, got {self.pool:,}"
            )
        if not self.n:
            raise ValueError("there must be at least one sample to draw, got none")
        if self.remainder not in get_args(Remainder):
            raise ValueError(
                f'remainder must be "carry", "drop" or "short", got {self.remainder!r}'
            )
        if self.remainder == "drop" and self.batch_size > self.n:
            raise ValueError(
                f'remainder="drop" leaves nothing of n = {self.n:,} at batch_size '
                f'{self.batch_size:,}; use "carry" or "short"'
            )

    @property
    def n(self) -> int:
        return self.pool if self.samples is None else len(self.samples)

    @property
    def crops(self) -> Name:
        """Return seed and trial of the augmentations."""
        return self.augment or (self.seed, self.trial)

    @property
    def pass_size(self) -> int:
        """Return the samples of one pass: n, or less where the remainder is dropped."""
        return self.n - self.n % self.batch_size if self.remainder == "drop" else self.n

    @property
    def max_steps(self) -> int | None:
        """Return the steps that can be fed, None for no limit; with "carry" the last samples, too
        few for a batch, are left out, unless `exact`.
        """
        if self.reuse is None:
            return None
        if self.remainder == "short":
            return -(-self.n // self.batch_size) * self.reuse
        if self.exact and self.remainder == "carry":
            return -(-self.n * self.reuse // self.batch_size)
        return self.pass_size * self.reuse // self.batch_size

    @property
    def steps_per_pass(self) -> int | None:
        """Return the batches of one pass; None if they run on across its end ("carry", unless n is
        a multiple of the batch size).
        """
        if self.remainder == "carry" and self.n % self.batch_size:
            return None
        return -(-self.pass_size // self.batch_size)

    def span(self, step: int) -> tuple[int, int]:
        """Return the positions [start, stop) of a step's global batch."""
        if step < 0 or (self.max_steps is not None and step >= self.max_steps):
            most = "0 or more" if self.max_steps is None else f"in [0, {self.max_steps})"
            raise ValueError(f"step must be {most}, got {step}")
        return self._start(step), self._start(step + 1)

    def _start(self, step: int) -> int:
        """Return the position at which a step begins, and the one before it ends."""
        if self.remainder != "short":
            start = step * self.batch_size
            return min(start, self.n * (self.reuse or 1)) if self.exact else start
        # "short": every pass begins anew at a multiple of n.
        per_pass = -(-self.n // self.batch_size)
        return step // per_pass * self.n + step % per_pass * self.batch_size

    def boundaries(self, first: int, last: int) -> Sequence[int]:
        """Return the positions at which the steps `first` to `last` begin."""
        if self.remainder != "short" and not self.exact:
            return range(first * self.batch_size, last * self.batch_size + 1, self.batch_size)
        return [self._start(step) for step in range(first, last + 1)]

    def epoch(self, step: int) -> int:
        """Return the pass in which a step begins."""
        return self.span(step)[0] // self.pass_size

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Return the pool indices, uint32, at increasing global positions (int64)."""
        places = self.places(positions)
        return places if self.samples is None else self.samples[places]

    def places(self, positions: np.ndarray) -> np.ndarray:
        """Return which of the n samples, uint32, are at increasing global positions (int64)."""
        if self.replace:
            from worlds.rng.kernels import draws_with_replacement

            return draws_with_replacement(
                self.n, positions, key_words(self.seed), BOOTSTRAP, self.trial
            )
        if not self.shuffle:
            return (positions % self.pass_size).astype(np.uint32)
        return self._in_passes(positions)

    def indices(self, step: int) -> np.ndarray:
        """Return the pool indices of a step's global batch."""
        return self.stretch(*self.span(step))

    def stretch(self, start: int, stop: int) -> np.ndarray:
        """Return the pool indices at [start, stop), uint32: `at` without an array of positions."""
        if self.replace or not self.shuffle:
            return self.at(np.arange(start, stop))
        # The stretch may run over the ends of several passes: cut it there.
        parts, size = [], self.pass_size
        for epoch in range(start // size, -(-stop // size)):
            order = pass_order(self.n, self.seed, self.trial, epoch)
            parts.append(order[max(start - epoch * size, 0) : min(stop - epoch * size, size)])
        places = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return places if self.samples is None else self.samples[places]

    def _in_passes(self, positions: np.ndarray) -> np.ndarray:
        if not len(positions):
            return np.empty(0, dtype=np.uint32)
        first, last = int(positions[0]) // self.pass_size, int(positions[-1]) // self.pass_size
        if first == last:
            order = pass_order(self.n, self.seed, self.trial, first)
            return order[positions - first * self.pass_size]
        # Cut the positions at the borders of passes; each pass has its own permutation.
        epochs = np.arange(first, last + 2)
        borders = np.searchsorted(positions, epochs * self.pass_size)
        parts = [
            pass_order(self.n, self.seed, self.trial, int(epoch))[
                positions[start:stop] - epoch * self.pass_size
            ]
            for epoch, start, stop in zip(epochs, borders, borders[1:], strict=False)
        ]
        return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class WindowSampler(Sampler):
    """Passes over a pool in a row, from the index `first` on, shuffled within windows. The samples
    `excluded`, which stand before `first`, are left out.
    """

    window: int = field(kw_only=True)
    first: int = field(kw_only=True)
    excluded: int = field(kw_only=True, default=0)

    @property
    def n(self) -> int:
        return self.pool - self.excluded

    def stretch(self, start: int, stop: int) -> np.ndarray:
        return self.at(np.arange(start, stop))

    def _in_passes(self, positions: np.ndarray) -> np.ndarray:
        from worlds.rng.kernels import shuffled_prefix

        places = np.empty(len(positions), np.int64)
        epochs, within = np.divmod(positions, self.pass_size)
        windows = within // self.window
        for epoch, number in sorted({*zip(epochs.tolist(), windows.tolist(), strict=True)}):
            chosen, start = (epochs == epoch) & (windows == number), number * self.window
            size = min(self.window, self.n - start)
            name = key_words(self.seed), WINDOW, epoch, self.trial << 24 | number
            order = shuffled_prefix(size, size, *name)
            places[chosen] = start + order[within[chosen] - start]
        return ((self.first + places) % self.pool).astype(np.uint32)
