"""Loaders: the four worlds, and a plain pass for evaluation, as iterables of (images, labels).

    real = RealLoader(store.train, n=50_000, batch_size=128, steps=39_000, augment="crop+flip")
    for x, y in real: ...        # x float (B, 3, H, W) in [-1, 1], y int64 (B,)

A loader's state is its position: the number of batches handed out, whatever has been made ahead.
`for` goes on from there, so a loop that was left early continues, and a restored loader gives
exactly the rest. `len(loader)` is the number of batches of a whole run (or of one pass where
`steps` was not given). A batch is never overwritten while anything refers to it.
"""

from collections.abc import Iterator

import numpy as np
import torch

from worlds.data.splits import Split, check_split, integers
from worlds.loaders.augment import Augment
from worlds.loaders.base import Loader
from worlds.loaders.normalize import Range
from worlds.loaders.pipelines import Batch, Transform
from worlds.loaders.samplers import Remainder, Sampler, subset
from worlds.runtime.checks import count, integer


def _excluded(split: Split, disjoint_from: "Loader | np.ndarray | None") -> np.ndarray | None:
    """Distinct pool indices that may not be drawn."""
    check_split(split)
    if disjoint_from is None:
        return None
    if isinstance(disjoint_from, Loader):
        if disjoint_from.dataset.fingerprint != split.fingerprint:
            raise ValueError("disjoint_from is a loader over another pool: indices do not compare")
        samples = disjoint_from.sampler.samples
        excluded = np.arange(len(split)) if samples is None else samples
    else:
        excluded = np.unique(_pool_indices(split, disjoint_from))
    return excluded


def _pool_indices(split: Split, indices: np.ndarray) -> np.ndarray:
    """`indices` as uint32, if all of them are in the pool."""
    indices = integers(indices)
    if len(indices) and not 0 <= indices.min() <= indices.max() < len(split):
        raise ValueError(
            f"indices must be in [0, {len(split):,}), the pool, "
            f"got {indices.min()} to {indices.max()}"
        )
    return indices.astype(np.uint32)


class RealLoader(Loader):
    """Real World: `n` samples of the pool, chosen by (seed, trial), reshuffled every epoch.

    With n the whole pool nothing is chosen, and the first epoch is the Ideal World's pass.
    """

    def __init__(
        self,
        split: Split,
        n: int,
        batch_size: int,
        steps: int | None = None,
        *,
        seed: int = 0,
        trial: int = 0,
        remainder: Remainder = "carry",
        balanced: bool = False,
        disjoint_from: "Loader | np.ndarray | None" = None,
        augment: Augment | str | None = None,
        transform: Transform | None = None,
        normalize: Range = "symmetric",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        resident: bool | None = None,
        gpu_decode: bool = False,
        pin_memory: bool = False,
        threads: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        excluded = _excluded(split, disjoint_from)
        samples: np.ndarray | None = None
        if n != len(split) or excluded is not None:
            balance = split.labels if balanced else None
            samples = subset(len(split), n, seed, trial, exclude=excluded, balance=balance)
        sampler = Sampler(
            "real", len(split), batch_size, seed, trial, samples=samples, remainder=remainder
        )
        super().__init__(
            split,
            sampler,
            steps,
            augment=augment,
            transform=transform,
            normalize=normalize,
            device=device,
            dtype=dtype,
            channels_last=channels_last,
            resident=resident,
            gpu_decode=gpu_decode,
            pin_memory=pin_memory,
            threads=threads,
            rank=rank,
            world_size=world_size,
        )


class FixedReuseLoader(Loader):
    """Between the worlds: `n` samples (None: the whole pool), each used exactly `reuse` times, in
    `reuse` shuffled passes. Without `steps`, all the batches there are.
    """

    world: str = "fixed reuse"

    def __init__(
        self,
        split: Split,
        n: int | None,
        batch_size: int,
        steps: int | None = None,
        *,
        reuse: int,
        seed: int = 0,
        trial: int = 0,
        remainder: Remainder = "carry",
        balanced: bool = False,
        disjoint_from: "Loader | np.ndarray | None" = None,
        augment: Augment | str | None = None,
        transform: Transform | None = None,
        normalize: Range = "symmetric",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        resident: bool | None = None,
        gpu_decode: bool = False,
        pin_memory: bool = False,
        threads: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        excluded = _excluded(split, disjoint_from)
        samples: np.ndarray | None = None
        if n is not None:
            balance = split.labels if balanced else None
            samples = subset(len(split), n, seed, trial, exclude=excluded, balance=balance)
        elif balanced:
            raise ValueError("balanced=True chooses a subset: give n as well")
        elif excluded is not None:
            samples = np.delete(np.arange(len(split), dtype=np.uint32), excluded)
            if not len(samples):
                raise ValueError("disjoint_from excludes the whole pool: nothing is left to draw")
        sampler = Sampler(
            self.world,
            len(split),
            batch_size,
            seed,
            trial,
            samples=samples,
            remainder=remainder,
            reuse=reuse,
        )
        super().__init__(
            split,
            sampler,
            steps,
            augment=augment,
            transform=transform,
            normalize=normalize,
            device=device,
            dtype=dtype,
            channels_last=channels_last,
            resident=resident,
            gpu_decode=gpu_decode,
            pin_memory=pin_memory,
            threads=threads,
            rank=rank,
            world_size=world_size,
        )


class IdealLoader(FixedReuseLoader):
    """Ideal World: every sample of the pool at most once. Without `steps`, one pass.

    Where the pool is too small for that, `passes` allows more than one: an approximation, in which
    only the augmentation is fresh from the second pass on. Its `world` says so, and the loader's
    `passes` how many it comes to (the paper's on ImageNet-DogBird: 7.7).
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        steps: int | None = None,
        *,
        seed: int = 0,
        trial: int = 0,
        passes: int = 1,
        remainder: Remainder = "carry",
        disjoint_from: "Loader | np.ndarray | None" = None,
        augment: Augment | str | None = None,
        transform: Transform | None = None,
        normalize: Range = "symmetric",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        resident: bool | None = None,
        gpu_decode: bool = False,
        pin_memory: bool = False,
        threads: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        passes = count("passes", passes)
        self.world = "ideal" if passes == 1 else "approximate ideal"
        super().__init__(
            split,
            None,
            batch_size,
            steps,
            reuse=passes,
            seed=seed,
            trial=trial,
            remainder=remainder,
            disjoint_from=disjoint_from,
            augment=augment,
            transform=transform,
            normalize=normalize,
            device=device,
            dtype=dtype,
            channels_last=channels_last,
            resident=resident,
            gpu_decode=gpu_decode,
            pin_memory=pin_memory,
            threads=threads,
            rank=rank,
            world_size=world_size,
        )


class BootstrapLoader(Loader):
    """`n` samples of the pool (None: all), drawn with replacement at every position."""

    def __init__(
        self,
        split: Split,
        n: int | None,
        batch_size: int,
        steps: int,
        *,
        seed: int = 0,
        trial: int = 0,
        augment: Augment | str | None = None,
        transform: Transform | None = None,
        normalize: Range = "symmetric",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        resident: bool | None = None,
        gpu_decode: bool = False,
        pin_memory: bool = False,
        threads: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_split(split)
        samples = None if n is None else subset(len(split), n, seed, trial)
        sampler = Sampler(
            "bootstrap", len(split), batch_size, seed, trial, samples=samples, replace=True
        )
        super().__init__(
            split,
            sampler,
            steps,
            augment=augment,
            transform=transform,
            normalize=normalize,
            device=device,
            dtype=dtype,
            channels_last=channels_last,
            resident=resident,
            gpu_decode=gpu_decode,
            pin_memory=pin_memory,
            threads=threads,
            rank=rank,
            world_size=world_size,
        )


class SequentialLoader(Loader):
    """Some samples in a fixed order, for evaluation: every `for` is one whole pass from the
    beginning, and the last batch may be smaller.

    By default all samples in their natural order; `n` takes the first n, `indices` takes those (for
    the train error of a Real World: `indices=real.sampler.samples`).
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        n: int | None = None,
        *,
        indices: np.ndarray | None = None,
        seed: int = 0,
        trial: int = 0,
        augment: Augment | str | None = None,
        transform: Transform | None = None,
        normalize: Range = "symmetric",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        resident: bool | None = None,
        gpu_decode: bool = False,
        pin_memory: bool = False,
        threads: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_split(split)
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
            samples=None if indices is None else _pool_indices(split, indices),
            remainder="short",
            reuse=1,
            shuffle=False,
        )
        super().__init__(
            split,
            sampler,
            None,
            augment=augment,
            transform=transform,
            normalize=normalize,
            device=device,
            dtype=dtype,
            channels_last=channels_last,
            resident=resident,
            gpu_decode=gpu_decode,
            pin_memory=pin_memory,
            threads=threads,
            rank=rank,
            world_size=world_size,
        )

    def __iter__(self) -> Iterator[Batch]:
        self._step = 0
        return super().__iter__()
