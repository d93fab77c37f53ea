"""The worlds for any map-style dataset: batch samplers for a DataLoader of one's own.

    sampler = RealSampler(len(dataset), n=5_000, batch_size=128, steps=20_000, seed=0)
    for x, y in DataLoader(dataset, batch_sampler=sampler, num_workers=4): ...

They yield lists of indices in the order of the loader of the same name with equal arguments. Every
`for` begins at `start_step`, however far a DataLoader's workers have read ahead; to resume, give
the step that comes next. A `for` that went to the end of a run raises RuntimeError if it is begun
again; without `steps` each `for` is one epoch, and the next goes on with the next.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from worlds.loaders.samplers import Remainder, Sampler
from worlds.loaders.stream import (
    Seeds,
    Stream,
    bootstrap_order,
    excluded_indices,
    real_order,
    reuse_order,
)
from worlds.runtime.checks import count, integer, integers

Labels = Sequence[int] | np.ndarray
Excluded = Stream | Sequence[int] | np.ndarray

_STATE_FORMAT: Final = 1
_BLOCK: Final = 1 << 13  # indices that are made at once
_AT_ONCE: Final = 8  # batches that become lists at once


class WorldSampler(Stream):
    """Lists of indices, step by step; the classes below choose the order."""

    drop_last = False  # what Accelerate and Lightning ask of a batch sampler

    def __init__(
        self, sampler: Sampler, steps: int | None, start_step: int, rank: int, world_size: int
    ) -> None:
        super().__init__(sampler, steps, rank, world_size)
        self._begin_at(integer("start_step", start_step))

    def _begin_at(self, step: int) -> None:
        if step < 0 or (self.steps is not None and step > self.steps):
            most = "0 or more" if self.steps is None else f"in [0, {self.steps:,}]"
            raise ValueError(f"start_step must be {most}, got {step}")
        self.start_step = self._next = step

    def __len__(self) -> int:
        """Return the batches that a `for` yields."""
        if self.steps is not None:
            return self.steps - self.start_step
        return self.end_of_loop(self._next) - self._next

    def epoch(self, step: int) -> int:
        """Return the pass in which `step` begins."""
        return self.sampler.epoch(step)

    def __iter__(self) -> "Walk":
        return Walk(self, self._next, self.end_of_loop(self._next))

    def lists(self, first: int, last: int) -> Iterator[list[int]]:
        """Yield the indices of the steps [first, last) that are this rank's."""
        # Indices are made in blocks of many batches, then cut.
        per_block = max(1, _BLOCK // self.batch_size)
        for step in range(first, last, per_block):
            starts = self.sampler.boundaries(step, min(step + per_block, last))
            before = starts[0]
            block = self.sampler.stretch(before, starts[-1])
            if self.world_size == 1 and isinstance(starts, range):
                # All batches are of one size: int64, and several at once, make lists faster.
                batches = block.astype(np.int64).reshape(-1, self.batch_size)
                for i in range(0, len(batches), _AT_ONCE):
                    yield from batches[i : i + _AT_ONCE].tolist()
            else:
                for start, stop in map(self.share, starts, starts[1:]):
                    yield block[start - before : stop - before].tolist()

    def finish_loop(self, step: int) -> None:
        """Note that a `for` has gone to its end, so that the next goes on there."""
        self._next = step

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """Return what decides the order, and the step to begin at (default: `start_step`)."""
        step = self.start_step if step is None else integer("step", step)
        return {"format": _STATE_FORMAT, "step": step, "config": self._config()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin at the step of a state. Raises ValueError if it is of another order."""
        self._begin_at(self.saved_step(state, _STATE_FORMAT))


class Walk:
    """One `for` over a sampler; torchdata's StatefulDataLoader saves and restores it."""

    def __init__(self, sampler: WorldSampler, step: int, end: int) -> None:
        self._sampler, self._step, self._end = sampler, step, end
        self._lists = sampler.lists(step, end)

    def __iter__(self) -> "Walk":
        return self

    def __next__(self) -> list[int]:
        if self._step == self._end:
            self._sampler.finish_loop(self._end)
            raise StopIteration
        self._step += 1
        return next(self._lists)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step, "end": self._end}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step, self._end = state["step"], state["end"]
        self._lists = self._sampler.lists(self._step, self._end)


class RealSampler(WorldSampler):
    """Real World: `n` of `size` samples, chosen by (seed, trial), reshuffled every epoch.

    `balanced` are the labels of all samples, for equally many of each class. `disjoint_from` is
    another sampler over this dataset, or indices, whose samples are not drawn.
    """

    def __init__(
        self,
        size: int,
        n: int,
        batch_size: int,
        steps: int | None = None,
        *,
        seed: int = 0,
        trial: int = 0,
        data_seed: int | None = None,
        order_seed: int | None = None,
        remainder: Remainder = "carry",
        balanced: Labels | None = None,
        disjoint_from: Excluded | None = None,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        size = count("size", size)
        balance, excluded = _balance(size, balanced), excluded_indices(size, disjoint_from)
        seeds = Seeds(seed, trial, data_seed, order_seed)
        order = real_order(size, n, batch_size, seeds, remainder, balance, excluded)
        super().__init__(order, steps, start_step, rank, world_size)


class FixedReuseSampler(WorldSampler):
    """Between the worlds: `n` of `size` samples (None: all), each used exactly `reuse` times.
    Without `steps`, all the batches there are.
    """

    def __init__(
        self,
        size: int,
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
        balanced: Labels | None = None,
        disjoint_from: Excluded | None = None,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        size = count("size", size)
        balance, excluded = _balance(size, balanced), excluded_indices(size, disjoint_from)
        seeds = Seeds(seed, trial, data_seed, order_seed)
        choice = (seeds, remainder, balance, excluded)
        order = reuse_order("fixed reuse", size, n, batch_size, *choice, reuse)
        super().__init__(order, steps, start_step, rank, world_size)


class IdealSampler(WorldSampler):
    """Ideal World: every sample at most once. Without `steps`, one pass.

    `passes` above 1 allows an approximate Ideal World where the dataset is too small.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        steps: int | None = None,
        *,
        seed: int = 0,
        trial: int = 0,
        order_seed: int | None = None,
        passes: int = 1,
        remainder: Remainder = "carry",
        disjoint_from: Excluded | None = None,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        size, passes = count("size", size), count("passes", passes)
        world = "ideal" if passes == 1 else "approximate ideal"
        seeds = Seeds(seed, trial, None, order_seed)
        choice = (seeds, remainder, None, excluded_indices(size, disjoint_from))
        order = reuse_order(world, size, None, batch_size, *choice, passes)
        super().__init__(order, steps, start_step, rank, world_size)


class BootstrapSampler(WorldSampler):
    """`n` of `size` samples (None: all), drawn with replacement at every position."""

    def __init__(
        self,
        size: int,
        n: int | None,
        batch_size: int,
        steps: int,
        *,
        seed: int = 0,
        trial: int = 0,
        data_seed: int | None = None,
        order_seed: int | None = None,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        seeds = Seeds(seed, trial, data_seed, order_seed)
        order = bootstrap_order(count("size", size), n, batch_size, seeds)
        super().__init__(order, count("steps", steps), start_step, rank, world_size)


def _balance(size: int, labels: Labels | None) -> np.ndarray | None:
    """Return the labels of all samples. Raises ValueError if they are not `size` integers."""
    if labels is None:
        return None
    if isinstance(labels, bool):
        raise ValueError(f"balanced takes the labels of all samples, got {labels}")
    array = integers(labels)
    if len(array) != size:
        raise ValueError(f"balanced takes the labels of all {size:,} samples, got {len(array):,}")
    return array
