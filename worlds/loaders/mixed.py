"""Batches with a fixed share of each of several pools, such as real and generated images.

    mixed = MixedLoader(
        {
            RealLoader(cifar10.train, 50_000, 128, 39_000, augment="crop+flip"): 0.3,
            IdealLoader(cifar5m.train, 128, augment="crop+flip", trial=1): 0.7,
        },
        batch_size=128, steps=39_000,
    )
    for x, y in mixed: ...       # 38 or 39 real images, then 90 or 89 generated ones

A batch of two pools holds the shares to less than one sample, of more to less than two, and after
every `period` steps they are exact. Each pool keeps its own rule of reuse: its loader says which
sample is at which position of its stream, and only how many a batch takes is decided here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate
from math import lcm
from typing import Any, Final, Unpack

import numpy as np
import torch

from worlds.data.splits import Pool
from worlds.data.stores import Store
from worlds.loaders.base import Loader
from worlds.loaders.loaders import RealLoader
from worlds.loaders.options import Options
from worlds.loaders.pipelines import Batch
from worlds.loaders.stream import check_rank
from worlds.runtime.checks import count, integer

_FINEST: Final = 10_000  # denominator of a share


class MixedLoader(Loader):
    """Batches of `batch_size` with a share of each pool, pool after pool in the order given.

    Args:
        pools: shares, above 0 and relative to their sum, by loader, or by split or store. Of a
            loader the order and the options count, not its own batch size and steps; loaders of
            equal seed and trial crop alike. A split, or the train split of a store, is used whole
            and reshuffled every pass, with `options`.
        batch_size: of all pools together, and of all ranks.
        steps: number of batches.
        seed: of the pools given as splits; pool k of the mapping has trial k.

    `indices(step)` lists each pool's indices, `counts(step)` their numbers. `epoch` and `passes`
    are those of the first pool.
    """

    def __init__(
        self,
        pools: "Mapping[Loader | Pool | Store, float]",
        batch_size: int,
        steps: int,
        *,
        seed: int = 0,
        **options: Unpack[Options],
    ) -> None:
        self.batch_size, self.steps = count("batch_size", batch_size), count("steps", steps)
        share = options.pop("rank", 0), options.pop("world_size", 1)
        self.rank, self.world_size = check_rank(*share, self.batch_size)
        # What is left of the options is for pools without a loader of their own.
        threads = options.pop("threads", None)
        self.shares = _shares(pools)
        self.loaders = tuple(
            _loader(pool, self.batch_size, self.steps, seed, k, options)
            for k, pool in enumerate(pools)
        )
        if options and all(isinstance(pool, Loader) for pool in pools):
            raise ValueError(
                f"{', '.join(options)} is for pools that are splits: give loaders theirs"
            )
        # What batches are, is as the first pool says; `_check_pools` holds the others to it.
        first = self.loaders[0]
        self.dataset, self._handout = first.dataset, first._handout
        self.threads = first.threads if threads is None else max(0, integer("threads", threads))
        self._pipeline: Any = _Joined(self.loaders)
        # Where the pools' parts of the stream end, as fractions.
        self._ends = [end.as_integer_ratio() for end in accumulate(self.shares)]
        self._check_pools()

    def __repr__(self) -> str:
        pools = ", ".join(
            f"{loader!r}: {float(share):.4g}"
            for loader, share in zip(self.loaders, self.shares, strict=True)
        )
        return f"MixedLoader({{{pools}}}, batch_size={self.batch_size:,}, step {self._step:,})"

    @property
    def period(self) -> int:
        """Return the steps after which the shares are exact, again and again."""
        return lcm(*((self.batch_size * share).denominator for share in self.shares))

    @property
    def epoch(self) -> int:
        """Return the pass of the first pool in which the next batch begins."""
        return self._starts(self._step)[0] // self.loaders[0].sampler.pass_size

    @property
    def passes(self) -> float:
        """Return how often a whole run goes through the first pool."""
        return self._starts(len(self))[0] / self.loaders[0].sampler.pass_size

    def counts(self, step: int) -> list[int]:
        """Return the samples of each pool in the global batch of a step."""
        pairs = zip(self._starts(step), self._starts(step + 1), strict=True)
        return [stop - start for start, stop in pairs]

    def indices(self, step: int) -> list[np.ndarray]:  # type: ignore[override]
        """Return, pool by pool, the indices of what this rank yields at `step`."""
        parts = self._positions(step)
        return [loader.sampler.at(part) for loader, part in zip(self.loaders, parts, strict=True)]

    def end_of_loop(self, step: int) -> int:
        if step >= len(self):
            raise RuntimeError(
                f"this run is finished ({step:,} of {len(self):,} steps): make a new loader, or "
                "load a state"
            )
        return len(self)

    def _starts(self, step: int) -> list[int]:
        """Return the position in each pool's stream at which a step begins."""
        ends = [step * self.batch_size * a // b for a, b in self._ends]
        return [end - before for before, end in zip([0, *ends], ends, strict=False)]

    def _positions(self, step: int) -> list[np.ndarray]:
        """Return what this rank yields as positions in each pool's stream: each W-th row of the
        batch, so that every rank has its part of every pool.
        """
        found, row = [], 0
        for start, stop in zip(self._starts(step), self._starts(step + 1), strict=True):
            first = start + (self.rank - row) % self.world_size
            found.append(np.arange(first, stop, self.world_size))
            row += stop - start
        return found

    def _block(self, steps: range) -> Any:
        by_pool = list(zip(*(self._positions(step) for step in steps), strict=True))
        sizes = [[len(part) for part in parts] for parts in by_pool]
        return self._pipeline.make([np.concatenate(parts) for parts in by_pool], sizes)

    def _check_pools(self) -> None:
        """Raises ValueError if the pools do not fit each other, the batch or the steps."""
        first, ends = self.loaders[0], self._starts(len(self))
        for loader, end in zip(self.loaders, ends, strict=True):
            name, sampler = loader.dataset.name, loader.sampler
            if loader.world_size > 1:
                raise ValueError("give rank and world_size to the MixedLoader, not to its loaders")
            # Joined batches: one shape, one meaning of the values, one place.
            if loader._handout != first._handout or _form(loader) != _form(first):
                raise ValueError(
                    "pools must have one image size, number of classes, normalize, dtype, output "
                    f"and device: {name} differs from {first.dataset.name}"
                )
            # A pool that is used up ends the run, which is better known before it begins.
            most = None if sampler.reuse is None else sampler.pass_size * sampler.reuse
            if most is not None and end > most:
                raise ValueError(
                    f"{len(self):,} steps need {end:,} samples of {name}, whose loader gives "
                    f"{most:,}: take fewer steps, a smaller share or another rule of reuse"
                )
        # Shares repeat after a period: what holds in one holds in all.
        for step in range(min(self.period, len(self))):
            if min(self.counts(step)) < self.world_size:
                raise ValueError(
                    f"batch_size {self.batch_size} has no sample of each pool for each rank at "
                    f"shares of {', '.join(map(str, self.shares))}: take a larger one"
                )

    def _config(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"world": "mixed", "batch_size": self.batch_size}
        # Each pool's settings, with its number in their names.
        for k, (loader, share) in enumerate(zip(self.loaders, self.shares, strict=True)):
            own = {"share": str(share)} | loader._config()
            if loader.sampler.remainder != "drop":  # its own batch size decides nothing
                del own["batch_size"]
            settings |= {f"{name} of pool {k}": value for name, value in own.items()}
        return settings


class _Joined:
    """The pipelines of several loaders: batches of each, joined; on the CPU by the thread that made
    them.
    """

    def __init__(self, loaders: Sequence[Loader]) -> None:
        self.pipelines = [loader._pipeline for loader in loaders]
        sizes = [pipeline.block_samples for pipeline in self.pipelines]
        self.block_samples = 1 if min(sizes) == 1 else sum(sizes)
        self.background = all(pipeline.background for pipeline in self.pipelines)
        self.ahead = loaders[0].form.device.type == "cpu"

    def make(self, positions: Any, sizes: Any) -> Any:
        """Make batches ahead, given positions and sizes of each pool."""
        pools = zip(self.pipelines, positions, sizes, strict=True)
        made = [pipeline.make(where, size) for pipeline, where, size in pools]
        return list(self._joined(made)) if self.ahead else made

    def finish(self, made: Any) -> Iterable[Batch]:
        return made if self.ahead else self._joined(made)

    def _joined(self, made: list[Any]) -> Iterator[Batch]:
        parts = (p.finish(one) for p, one in zip(self.pipelines, made, strict=True))
        for pools in zip(*parts, strict=True):
            # One batch: the parts of all pools, one after the other.
            images, labels = zip(*pools, strict=True)
            yield torch.cat(images), torch.cat(labels)


def _shares(pools: Any) -> list[Fraction]:
    """Return the shares as fractions of sum 1."""
    if not isinstance(pools, Mapping) or len(pools) < 2:
        raise ValueError("pools are two or more with their shares: {loader: 0.3, other: 0.7}")
    # Shares as exact fractions, so that sums over many steps do not drift.
    try:
        shares = [Fraction(share).limit_denominator(_FINEST) for share in pools.values()]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"shares must be numbers, got {list(pools.values())}") from error
    if min(shares) <= 0:
        raise ValueError(f"shares must be above 0, got {list(pools.values())}")
    return [share / sum(shares) for share in shares]


def _loader(
    pool: Any, batch_size: int, steps: int, seed: int, trial: int, options: Options
) -> Loader:
    if isinstance(pool, MixedLoader):
        raise ValueError("a MixedLoader cannot be a pool: give its loaders with their shares")
    if isinstance(pool, Loader):
        return pool
    split = pool.train if isinstance(pool, Store) else pool
    size = min(batch_size, len(split))
    return RealLoader(split, len(split), size, steps, seed=seed, trial=trial, **options)


def _form(loader: Loader) -> Any:
    """Return what must be equal in batches that are joined: device, values and shape."""
    split, form = loader.dataset, loader.form
    values = repr(form.normalize) if loader.transform is None else "transform"
    return form.device, form.dtype, values, split.image_shape if split.holds_images else None
