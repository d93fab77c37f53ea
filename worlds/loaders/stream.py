"""A process's share of a training stream of so many steps: what loaders and batch samplers share.

`real_order`, `reuse_order` and `bootstrap_order` are the one place where the arguments of a world
become an order, so that `RealLoader(split, ...)` and `RealSampler(len(split), ...)` with equal
arguments go through equal indices.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from worlds.loaders.samplers import Remainder, Sampler, WindowSampler, first_of, subset
from worlds.rng.streams import Name, stream_name
from worlds.runtime.checks import count, integer, integers


@dataclass(frozen=True)
class Seeds:
    """Names of a world's streams: (seed, trial), or for one of them a seed of its own, which is
    the same in every trial.
    """

    seed: int = 0
    trial: int = 0
    data_seed: int | None = None
    order_seed: int | None = None

    @property
    def data(self) -> Name:
        return stream_name(self.data_seed, self.seed, self.trial)

    @property
    def order(self) -> dict[str, Any]:
        """Return a Sampler's names: crops keep (seed, trial) if the order has its own seed."""
        seed, trial = stream_name(self.order_seed, self.seed, self.trial)
        own = (integer("seed", self.seed), integer("trial", self.trial))
        return {"seed": seed, "trial": trial, "augment": own}


class Stream:
    """`steps` batches of a sampler's stream, of each the part of `rank` among `world_size`.

    `batch_size` is the global one: each of W ranks takes a W-th of every batch.
    """

    def __init__(
        self, sampler: Sampler, steps: int | None, rank: int = 0, world_size: int = 1
    ) -> None:
        self.rank, self.world_size = check_rank(rank, world_size, sampler.batch_size)
        _check_last_batches(sampler, self.world_size)
        self.sampler, self.steps = sampler, _checked_steps(sampler, steps)
        self.batch_size = sampler.batch_size

    def __len__(self) -> int:
        return self.steps if self.steps is not None else self.sampler.steps_per_pass or 0

    @property
    def world(self) -> str:
        """Return the name of the world, such as "approximate ideal"."""
        return self.sampler.world

    @property
    def passes(self) -> float:
        """Return how often a whole run goes through its n samples; in an Ideal World, 1 at most."""
        return len(self) * self.batch_size / self.sampler.pass_size

    def share(self, start: int, stop: int) -> tuple[int, int]:
        """Return this rank's part of a global batch at the positions [start, stop)."""
        # Cut in proportion: shares of a smaller batch differ by one sample at most.
        size = stop - start
        return (
            start + size * self.rank // self.world_size,
            start + size * (self.rank + 1) // self.world_size,
        )

    def positions(self, step: int) -> np.ndarray:
        """Return the global positions, int64, of what this rank yields at `step`."""
        return np.arange(*self.share(*self.sampler.span(step)))

    def indices(self, step: int) -> np.ndarray:
        """Return the pool indices that this rank yields at `step`; all: `sampler.indices`."""
        return self.sampler.at(self.positions(step))

    def end_of_loop(self, step: int) -> int:
        """Return the step at which a `for` that begins at `step` ends. Raises RuntimeError if it
        would yield nothing.
        """
        # Without steps a loop ends with its epoch, else with the run.
        if self.steps is None:
            per_pass = self.sampler.steps_per_pass
            assert per_pass is not None
            return (step // per_pass + 1) * per_pass
        if step < self.steps:
            return self.steps
        # Nothing is left: say whether a larger pool or a saved state helps.
        finished = f"this run is finished ({step:,} of {self.steps:,} steps)"
        if self.sampler.reuse == 1 and self.steps == self.sampler.max_steps:
            pool = f"of the {self.sampler.n:,} samples none is left that is fresh"
            raise RuntimeError(f"{finished}, and {pool}: take a larger pool, or load a state")
        raise RuntimeError(f"{finished}: make a new loader, or load a state")

    @cached_property
    def _subset_digest(self) -> str | None:
        samples = self.sampler.samples
        return None if samples is None else hashlib.sha256(samples.data).hexdigest()

    def _config(self) -> dict[str, Any]:
        """Return the settings that decide the stream, as plain values."""
        sampler = self.sampler
        return {
            "world": sampler.world,
            "seed": sampler.seed,
            "trial": sampler.trial,
            "pool": sampler.pool,
            "n": sampler.n,
            "batch_size": sampler.batch_size,
            "remainder": sampler.remainder,
            "reuse": sampler.reuse,
            "subset": self._subset_digest,
        }

    def saved_step(self, state: Any, form: int) -> int:
        """Return the step of a saved state. Raises ValueError if it is not of this format, or of a
        stream that differs; rank and world size may differ.
        """
        check_state(state, form, self._config())
        step: int = state["step"]
        if step < 0 or (self.steps is not None and step > self.steps):
            raise ValueError(f"the saved step {step} is beyond this loader's {self.steps} steps")
        return step


def real_order(
    pool: int,
    n: int,
    batch_size: int,
    seeds: Seeds,
    remainder: Remainder,
    balance: np.ndarray | None,
    excluded: np.ndarray | None,
    window: int | None = None,
) -> Sampler:
    """Real World: `n` samples of the pool, reshuffled every epoch; in a row, if it has windows."""
    samples: np.ndarray | None = None
    if n != pool or excluded is not None:
        given = {"exclude": excluded, "balance": balance, "window": window}
        samples = subset(pool, n, *seeds.data, **given)  # type: ignore[arg-type]
    return Sampler("real", pool, batch_size, samples=samples, remainder=remainder, **seeds.order)


def reuse_order(
    world: str,
    pool: int,
    n: int | None,
    batch_size: int,
    seeds: Seeds,
    remainder: Remainder,
    balance: np.ndarray | None,
    excluded: np.ndarray | None,
    reuse: int,
    window: int | None = None,
) -> Sampler:
    """Return the order of `n` samples (None: all), each used `reuse` times at most; 1 is Ideal."""
    samples: np.ndarray | None = None
    names = {"remainder": remainder, **seeds.order}
    # In windows, from where (seed, trial) begins, or behind the samples excluded.
    if n is None and window is not None and balance is None:
        first, left_out = first_of(pool, window, names["seed"], names["trial"]), 0
        if excluded is not None and len(excluded):
            first, left_out = (int(excluded[0]) + len(excluded)) % pool, len(excluded)
            if ((excluded.astype(np.int64) - int(excluded[0])) % pool != np.arange(left_out)).any():
                raise ValueError(
                    "a pool that is made when asked for excludes samples in a row alone"
                )
        names |= {"window": window, "first": first, "excluded": left_out, "reuse": reuse}
        return WindowSampler(world, pool, batch_size, **names)
    # A subset, the whole pool, or what is left of it.
    if n is not None:
        given = {"exclude": excluded, "balance": balance, "window": window}
        samples = subset(pool, n, *seeds.data, **given)  # type: ignore[arg-type]
    elif balance is not None:
        raise ValueError("balanced=True chooses a subset: give n as well")
    elif excluded is not None:
        samples = np.delete(np.arange(pool, dtype=np.uint32), excluded)
        if not len(samples):
            raise ValueError("disjoint_from excludes the whole pool: nothing is left to draw")
    exact = world == "fixed reuse" and remainder == "carry"
    order = Sampler(world, pool, batch_size, samples=samples, **names)
    return replace(order, reuse=reuse, exact=exact)


def bootstrap_order(
    pool: int, n: int | None, batch_size: int, seeds: Seeds, window: int | None = None
) -> Sampler:
    """`n` samples of the pool (None: all), drawn with replacement at every position."""
    samples = None if n is None else subset(pool, n, *seeds.data, window=window)
    return Sampler("bootstrap", pool, batch_size, samples=samples, replace=True, **seeds.order)


def excluded_indices(
    pool: int, disjoint_from: "Stream | Sequence[int] | np.ndarray | None"
) -> np.ndarray | None:
    """Return distinct pool indices that may not be drawn: a stream's own, or those given."""
    if disjoint_from is None:
        return None
    if not isinstance(disjoint_from, Stream):
        return np.unique(pool_indices(pool, disjoint_from))
    if disjoint_from.sampler.pool != pool:
        raise ValueError(
            f"disjoint_from draws from a pool of {disjoint_from.sampler.pool:,}, this one holds "
            f"{pool:,}: indices do not compare"
        )
    samples = disjoint_from.sampler.samples
    return np.arange(pool) if samples is None else samples


def pool_indices(pool: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return `indices` as uint32. Raises ValueError if one of them is not in the pool."""
    wanted = integers(indices)
    if len(wanted) and not 0 <= wanted.min() <= wanted.max() < pool:
        raise ValueError(
            f"indices must be in [0, {pool:,}), the pool, got {wanted.min()} to {wanted.max()}"
        )
    return wanted.astype(np.uint32)


def check_state(
    state: Any, form: int, config: dict[str, Any], position: Sequence[str] = ("step",)
) -> None:
    """Raise ValueError unless a saved state is of format `form`, holds the integers of `position`,
    and was saved under an equal `config`.
    """
    saved: Any = state.get("config") if isinstance(state, dict) else None
    whole = isinstance(saved, dict) and all(isinstance(state.get(n), int) for n in position)
    if not whole or state.get("format") != form:
        raise ValueError(f"this is not a loader's state of format {form}")
    for field in config | saved:
        if saved.get(field) != config.get(field):
            raise ValueError(
                f"the saved loader has {field} = {saved.get(field)!r}, this one has "
                f"{config.get(field)!r}: restore with an equal configuration"
            )


def check_rank(rank: int, world_size: int, batch_size: int) -> tuple[int, int]:
    """Return both as integers. Raises ValueError unless each rank has an equal share of a batch."""
    rank, world_size = integer("rank", rank), integer("world_size", world_size)
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, world_size), got rank {rank} of {world_size}")
    if batch_size % world_size:
        raise ValueError(
            f"the global batch_size {batch_size} must be a multiple of world_size {world_size}"
        )
    return rank, world_size


def _check_last_batches(sampler: Sampler, world_size: int) -> None:
    """Raise ValueError if a smaller batch, where a pass or the run ends, has none for a rank."""
    last = sampler.n % sampler.batch_size
    end = sampler.n * (sampler.reuse or 1) % sampler.batch_size
    if sampler.exact and 0 < end < world_size:
        raise ValueError(
            f"n = {sampler.n:,} used {sampler.reuse} times ends with a batch of {end}, too few for "
            f"{world_size} ranks: take another n or batch_size"
        )
    if sampler.remainder == "short" and sampler.shuffle and 0 < last < world_size:
        # The mean loss of an empty share is NaN, and the ranks' average with it.
        raise ValueError(
            f'remainder="short" ends a pass with a batch of {last}, too few for {world_size} '
            'ranks: take "carry" or "drop"'
        )


def _checked_steps(sampler: Sampler, steps: int | None) -> int | None:
    # No steps given: the whole of the stream, if it has an end.
    largest = sampler.max_steps
    if steps is None:
        if largest is None and sampler.steps_per_pass is None:
            raise ValueError(
                f"n = {sampler.n:,} is not a multiple of batch_size {sampler.batch_size:,}, so no "
                'batch ends an epoch: give steps, or take remainder="drop" or "short" for one '
                "epoch a loop"
            )
        if largest == 0:
            raise ValueError(
                f"{_used(sampler)} fill no batch of {sampler.batch_size:,}: "
                'take a smaller batch_size or remainder="short"'
            )
        return largest
    # Steps given: no more than the samples can feed.
    steps = count("steps", steps)
    if largest is not None and steps > largest:
        raise ValueError(
            f"{steps:,} steps of {sampler.batch_size:,} need {steps * sampler.batch_size:,} "
            f"samples, but {_used(sampler)} give {sampler.n * (sampler.reuse or 1):,}: the largest "
            f"possible is {largest:,} steps; take fewer, or a larger pool"
        )
    return steps


def _used(sampler: Sampler) -> str:
    often = "once" if sampler.reuse == 1 else f"{sampler.reuse} times"
    return f"the pool's {sampler.n:,} samples, used at most {often} each,"
