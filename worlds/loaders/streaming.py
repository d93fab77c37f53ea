"""An Ideal World read from remote shards, without a copy on disk.

    loader = StreamLoader("hf://datasets/owner/name", batch_size=128, steps=39_000,
                          augment="crop+flip")
    for x, y in loader: ...        # x float (B, 3, H, W) in [-1, 1], y int64 (B,)

How its order differs from IdealLoader's: that one takes a permutation of the whole pool, which
needs random access. A stream permutes the shards, and then samples only within a window of W shards
that are in memory at once (W + 2 x workers decoded shards: 31 MB each of 10,000 CIFAR images). Two
samples of one shard are therefore never more than W shards apart; if shards are alike, as generated
ones are, that is no loss, while sorted shards need a larger window.

    order of the shards, of each pass     (seed, trial, epoch)
    order of the samples of a shard       (seed, trial, epoch, place of the shard in the pass)
    which shard of a window comes next    (seed, trial, epoch, place of the window's first shard)
    crop and flip of a sample             (seed, trial, place in all passes << 24 | place in shard)

Rank r of R takes the shards r, r + R, ... of each pass and cuts them into windows, so every sample
is read by one rank, once a pass. Workers change nothing but the speed.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Final, Unpack

import numpy as np
import torch

from worlds.data.images import ArrayImages
from worlds.data.remote import RemoteShard, StreamError, find_shards, read_shard
from worlds.data.splits import Split
from worlds.formats.pools import numbered_classes
from worlds.loaders.augment import parse_augment
from worlds.loaders.base import Batches
from worlds.loaders.options import LoaderOptions, Options
from worlds.loaders.pipelines import Batch, CpuPipeline, Form, Pipeline, TransformPipeline
from worlds.loaders.samplers import Sampler
from worlds.loaders.stream import check_rank, check_state
from worlds.rng.orders import key_words
from worlds.rng.streams import SHARDS, WINDOW, WITHIN, stream_name
from worlds.runtime.checks import count, integer
from worlds.runtime.device import check_device

_STATE_FORMAT: Final = 1
_PLACE_BITS: Final = 24  # of an address: the place of a sample within its shard
Read = tuple[np.ndarray, np.ndarray]  # images uint8 (N, H, W, 3), labels int64 (N,)


@dataclass(frozen=True, eq=False)
class ShardsSampler(Sampler):
    """The samples of a window's shards, found by their addresses (place << 24 | place in shard)."""

    shards: np.ndarray = field(kw_only=True, repr=False)  # their places in all passes, increasing
    starts: np.ndarray = field(kw_only=True, repr=False)  # of the shards among the samples
    orders: np.ndarray = field(kw_only=True, repr=False)  # of each shard, one after the other

    def at(self, positions: np.ndarray) -> np.ndarray:
        shard = np.searchsorted(self.shards, positions >> _PLACE_BITS)
        return self.orders[self.starts[shard] + (positions & ((1 << _PLACE_BITS) - 1))]


class StreamLoader(Batches):
    """Ideal World over remote shards: every sample at most once, read while it trains.

    Args:
        source: "hf://datasets/OWNER/NAME", "https://.../{00000..00599}.tar", a dataset directory or
            a local pattern. Tars of an image (png, jpg, webp) and its cls, images of one size.
        batch_size: the global one: each rank yields a `world_size`-th of it.
        steps: batches; ValueError if the shards cannot feed them. None: whatever the rank's shards
            hold, with a smaller last batch; ranks then differ by up to a shard.
        split: of a dataset; a pattern names its files itself.
        window: shards among which samples are shuffled, >= 1.
        passes: over all shards; above 1 only the order and augmentation are fresh.
        workers: processes that read and decode shards ahead, 0: none.

    A rank reads one of every `world_size` shards. resident, gpu_decode and threads of the options
    below are for the other loaders.
    """

    def __init__(
        self,
        source: str,
        batch_size: int,
        steps: int | None = None,
        *,
        split: str = "train",
        window: int = 4,
        passes: int = 1,
        seed: int = 0,
        trial: int = 0,
        order_seed: int | None = None,
        workers: int = 2,
        **options: Unpack[Options],
    ) -> None:
        given = LoaderOptions(**options)
        if foreign := {*options} & {"resident", "gpu_decode", "threads"}:
            raise ValueError(f"StreamLoader takes no {', '.join(sorted(foreign))}: leave it out")
        self.batch_size, self.steps = count("batch_size", batch_size), steps
        self.window, self.passes = count("window", window), count("passes", passes)
        seed, trial = integer("seed", seed), integer("trial", trial)
        self.seed, self.trial = stream_name(order_seed, seed, trial)
        self.crops = stream_name(given.augment_seed, seed, trial)
        self.workers = integer("workers", workers)
        if self.workers < 0:
            raise ValueError(f"workers must be 0 or more, got {workers}")
        self.rank, self.world_size = check_rank(given.rank, given.world_size, self.batch_size)
        # Batches are made on the CPU, and sent to the device when they are whole.
        self.device, self.transform = check_device(given.device), given.transform
        self.form = Form(
            augment=parse_augment(given.augment),
            normalize=given.normalize,
            dtype=given.dtype,
            channels_last=given.channels_last or given.layout == "NHWC",
            pin_memory=given.pin_memory or self.device.type == "cuda",
        )
        self.source, self.shards = source, find_shards(source, split)
        if len(self.shards.items) < self.world_size:
            raise ValueError(
                f"{source} has {len(self.shards.items)} shards, too few for {self.world_size} ranks"
            )
        self._handout = given.hand_out(True, len(self.shards.class_names or ()))
        self._check_steps()
        self._window = self._offset = 0

    def _check_steps(self) -> None:
        """Raises ValueError if the rank with the fewest samples cannot feed the steps."""
        if self.steps is None:
            return
        self.steps = count("steps", self.steps)
        sizes = [self._samples(rank) for rank in range(self.world_size)]
        share = self.batch_size // self.world_size
        fed = [size // share for size in sizes if size is not None]
        if fed and min(fed) < self.steps:
            raise ValueError(
                f"steps = {self.steps:,} is more than {self.source} feeds in {self.passes} "
                f"pass(es): {min(fed):,} batches of {self.batch_size:,}; take fewer, or passes="
            )

    def __repr__(self) -> str:
        return (
            f"StreamLoader({self.source!r}, {len(self.shards.items):,} shards, window "
            f"{self.window}, batch_size={self.batch_size:,}, step {self._step:,}, rank {self.rank} "
            f"of {self.world_size})"
        )

    def __len__(self) -> int:
        """Return the batches of this rank; TypeError if they cannot be known before reading."""
        samples = self._samples(self.rank)
        if self.steps is not None:
            return self.steps
        if samples is None:
            raise TypeError(
                f"{self.source}: sizes of shards are unknown before reading: give steps"
            )
        return -(-samples // (self.batch_size // self.world_size))

    @property
    def epoch(self) -> int:
        """Return the pass in which the next batch begins."""
        return min(self._window // self._windows_per_pass, self.passes - 1)

    def shard_order(self, epoch: int) -> np.ndarray:
        """Return the order in which pass `epoch` takes the shards of all ranks, uint32 (K,)."""
        return self._permutation(len(self.shards.items), SHARDS, epoch, self.trial)

    def _permutation(self, size: int, stream: int, epoch: int, minor: int) -> np.ndarray:
        from worlds.rng.kernels import shuffled_prefix

        order: np.ndarray = shuffled_prefix(size, size, key_words(self.seed), stream, epoch, minor)
        return order

    def _samples(self, rank: int) -> int | None:
        """Return the samples of a rank in all passes, None if the shards' sizes are unknown."""
        if self.shards.counts is None:
            return None
        # Which shards are this rank's changes with every pass, and their sizes may differ.
        counts = np.array(self.shards.counts)
        orders = (self.shard_order(epoch) for epoch in range(self.passes))
        return int(sum(counts[order[rank :: self.world_size]].sum() for order in orders))

    @property
    def _windows_per_pass(self) -> int:
        shards = len(range(self.rank, len(self.shards.items), self.world_size))
        return -(-shards // self.window)

    def _places(self, number: int) -> np.ndarray:
        """Return the places in their pass of the shards in this rank's window `number`."""
        first = number % self._windows_per_pass * self.window
        places = np.arange(self.rank, len(self.shards.items), self.world_size)
        return places[first : first + self.window]

    def __iter__(self) -> Iterator[Batch]:
        step = self._step
        left = None if self.steps is None else max(0, self.steps - step)
        for batch, window, offset in islice(self._batches(self._window, self._offset), left):
            step = self._advance(step)
            self._window, self._offset = window, offset
            yield self._handout(batch)
        if self.steps is not None and self._step < self.steps:
            raise ValueError(
                f"{self.source} fed rank {self.rank} {self._step:,} of {self.steps:,} steps: "
                "give fewer steps, or more passes"
            )

    def _batches(self, first: int, offset: int) -> Iterator[tuple[Batch, int, int]]:
        """Yield batches from a position on, each with the position after it."""
        # This rank's part of each batch, filled from one window after the other.
        size = self.batch_size // self.world_size
        held: list[Batch] = []  # parts of the next batch, which may span windows
        missing, last = size, self.passes * self._windows_per_pass
        if first == last:
            return
        for number, (pipeline, addresses) in enumerate(self._windows(first, last), first):
            # Take what the next batch still lacks, as far as this window has it.
            while offset < len(addresses):
                part = addresses[offset : offset + missing]
                held += pipeline.finish(pipeline.make(part, [len(part)]))
                missing, offset = missing - len(part), offset + len(part)
                if missing:
                    continue
                # The position after the batch: at a window's end, the start of the next one.
                end = offset == len(addresses)
                yield self._joined(held), number + end, 0 if end else offset
                held, missing = [], size
            offset = 0
        if held and self.steps is None:
            yield self._joined(held), last, 0

    def _joined(self, parts: list[Batch]) -> Batch:
        images, labels = parts[0]
        if len(parts) > 1:
            images = torch.cat([part[0] for part in parts])
            labels = torch.cat([part[1] for part in parts])
        return (
            images.to(self.device, non_blocking=True),
            labels.to(self.device, non_blocking=True),
        )

    def _windows(self, first: int, last: int) -> Iterator[tuple[Pipeline, np.ndarray]]:
        """Yield each window as what makes its batches, and the addresses of its samples in order,
        int64 (N,).
        """
        # All shards that will be read, in order, so that workers can go ahead.
        coming = [
            int(shard)
            for number in range(first, last)
            for shard in self.shard_order(number // self._windows_per_pass)[self._places(number)]
        ]
        reads = iter(_read_ahead(self.shards.items, coming, self.workers))
        for number in range(first, last):
            parts: list[Read] = []
            for _ in self._places(number):
                read = next(reads)
                if isinstance(read, Exception):
                    raise read
                parts.append(read)
            yield self._shuffled(number, parts)

    def _shuffled(self, number: int, parts: list[Read]) -> tuple[Pipeline, np.ndarray]:
        # Each shard is shuffled within itself.
        epoch, places = number // self._windows_per_pass, self._places(number)
        sizes = [len(labels) for _, labels in parts]
        starts = np.cumsum([0, *sizes[:-1]])  # of the shards among the window's samples
        orders = [
            self._permutation(size, WITHIN, epoch, self._minor(place)) + start
            for size, place, start in zip(sizes, places, starts, strict=True)
        ]
        in_all = epoch * len(self.shards.items) + places  # places in all passes
        # A random sequence of turns; each shard then hands out its samples in its own order.
        turns = np.repeat(np.arange(len(parts)), sizes)
        turns = turns[self._permutation(sum(sizes), WINDOW, epoch, self._minor(places[0]))]
        # An address says shard and place in it, whatever the window or the rank.
        addresses = np.empty(len(turns), dtype=np.int64)
        for shard, size in enumerate(sizes):
            addresses[turns == shard] = (int(in_all[shard]) << _PLACE_BITS) + np.arange(size)
        sampler = ShardsSampler(
            "stream",
            len(turns),
            self.batch_size,
            self.seed,
            self.trial,
            augment=self.crops,
            shards=in_all,
            starts=starts,
            orders=np.concatenate(orders).astype(np.uint32),
        )
        if self.transform is not None:
            split = self._split(parts)
            return TransformPipeline(split, sampler, self.form, self.transform), addresses
        return CpuPipeline(self._split(parts), sampler, self.form), addresses

    def _minor(self, place: int) -> int:
        return self.trial << _PLACE_BITS | int(place)

    def _split(self, parts: list[Read]) -> Split:
        labels = np.concatenate([labels for _, labels in parts])
        names = self.shards.class_names or numbered_classes(int(labels.max()))
        images = ArrayImages([images for images, _ in parts])
        return Split("window", images, labels, names, self.shards.fingerprint)

    def state_dict(self) -> dict[str, Any]:
        """Return the position (this rank's window of shards, and the samples taken of it), and what
        decides the stream; plain numbers, strings and dicts. Each rank saves its own.
        """
        position = {"step": self._step, "window": self._window, "offset": self._offset}
        return {"format": _STATE_FORMAT, **position, "config": self._config()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; ValueError names the field in which the configuration differs.

        Workers, device, dtype, layout and steps may differ: they do not change the stream.
        """
        position = ("step", "window", "offset")
        check_state(state, _STATE_FORMAT, self._config(), position)
        self._step, self._window, self._offset = (state[name] for name in position)

    def _config(self) -> dict[str, Any]:
        apart = self.crops != (self.seed, self.trial)
        return ({"crops": list(self.crops)} if apart else {}) | {
            "world": "stream",
            "seed": self.seed,
            "trial": self.trial,
            "pool": self.shards.fingerprint,
            "window": self.window,
            "passes": self.passes,
            "batch_size": self.batch_size,
            "rank": self.rank,
            "world_size": self.world_size,
            "augment": asdict(self.form.augment) if self.transform is None else "transform",
        }


class _ShardReader(torch.utils.data.Dataset[Read | Exception]):
    """Shards by number; what fails is returned, so that one line reaches the trainer."""

    def __init__(self, shards: tuple[RemoteShard, ...]) -> None:
        self.shards = shards

    def __getitem__(self, number: int) -> Read | Exception:
        try:
            return read_shard(self.shards[number])
        except StreamError as error:
            return error


def _read_ahead(
    shards: tuple[RemoteShard, ...], numbers: list[int], workers: int
) -> "torch.utils.data.DataLoader[Any]":
    """Return an iterable of the shards `numbers`, in this order, read by `workers` processes."""
    return torch.utils.data.DataLoader(
        _ShardReader(shards),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_as_it_is,  # arrays, not tensors: they need no shared memory
    )


def _as_it_is(read: Any) -> Any:
    return read
