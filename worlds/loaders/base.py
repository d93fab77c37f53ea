"""What all loaders share: walking along a sampler's stream and saying how far they are."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from inspect import cleandoc
from typing import Any, Final

import numpy as np
import torch

from worlds.data.photographs import PhotographImages
from worlds.data.splits import Split
from worlds.loaders.augment import Augment, parse_augment
from worlds.loaders.normalize import Range, check_normalize, normalize_batches
from worlds.loaders.pipelines import (
    DTYPES,
    ArrayPipeline,
    Batch,
    CpuPipeline,
    Pipeline,
    Transform,
    TransformPipeline,
    default_threads,
)
from worlds.loaders.samplers import Sampler
from worlds.runtime.checks import count, integer
from worlds.runtime.device import check_device
from worlds.runtime.prefetch import Prefetcher

_STATE_FORMAT: Final = 1
_ARGS: Final = """
Args (keyword-only, of every loader):
    augment: None, "flip", "crop+flip", "crop+flip+cutout" or a worlds.Augment.
    transform: instead of augment, a function of uint8 (3, H, W) that returns a tensor; slower.
    normalize: range of pixels: "symmetric" [-1, 1], "unit" [0, 1], "cifar10", "imagenet",
        any (mean, std) on the [0, 1] scale, or None for the uint8 pixels themselves.
    device: "cpu", "cuda" or "cuda:K".
    dtype: torch.float32, float16 or bfloat16.
    channels_last: memory format of the images.
    resident: on CUDA, the pool in device memory (True), streamed (False), or as it fits (None).
    gpu_decode: on CUDA, decode photographs there.
    pin_memory: make CPU batches in page-locked memory, for copies that do not block.
    threads: that make batches ahead, 0: none; None: 2, or one a CPU for photographs.
    rank: this process's share of each global batch, in [0, world_size).
    world_size: number of processes that share each global batch.
"""


class Loader:
    """Walks along a sampler's stream; the worlds below only choose the sampler.

    `batch_size` is the global one: with `world_size` W, each rank yields a W-th of every batch.
    Pickled to another process, a loader goes on from its position there, over the same files.
    """

    batch_sampler = None  # Lightning looks for one wherever there is a `sampler`

    def __init_subclass__(cls) -> None:
        cls.__doc__ = f"{cleandoc(cls.__doc__ or '')}\n{_ARGS}"

    def __init__(
        self,
        split: Split,
        sampler: Sampler,
        steps: int | None,
        *,
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
        rank, world_size = integer("rank", rank), integer("world_size", world_size)
        _check_share(sampler, rank, world_size)
        threads = default_threads(split) if threads is None else integer("threads", threads)
        if threads < 0:
            raise ValueError(f"threads must be 0 or more, got {threads}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be float32, float16 or bfloat16, got {dtype}")
        self.dataset, self.sampler, self.threads = split, sampler, threads
        self.batch_size = sampler.batch_size
        self.rank, self.world_size = rank, world_size
        self.steps = _checked_steps(sampler, steps)
        photographs = isinstance(split.images, PhotographImages)
        self.augment, self.transform = parse_augment(augment, photographs), transform
        if transform is not None and not callable(transform):
            raise ValueError(f"transform must be a function of an image, got {transform!r}")
        if transform is not None and self.augment != Augment():
            raise ValueError(
                "give either augment or transform: a transform replaces the augmentation"
            )
        if transform is not None and normalize != "symmetric":
            raise ValueError(f"a transform normalizes by itself: leave normalize={normalize!r} out")
        if split.holds_images:
            check_normalize(normalize, split.image_shape[-1])
        elif normalize != "symmetric":
            raise ValueError(
                f"normalize is for uint8 images, {split.name} holds {split.images.dtype}: "
                "leave normalize out"
            )
        if normalize is None and dtype != torch.float32:
            raise ValueError(f"normalize=None yields uint8: leave dtype={dtype} out")
        target = check_device(device)
        if pin_memory and not torch.cuda.is_available():
            raise ValueError("pin_memory=True needs a CUDA device, and torch finds none")
        if gpu_decode and target.type != "cuda":
            raise ValueError('gpu_decode=True decodes photographs on a GPU: give device="cuda"')
        layout = (dtype, channels_last)
        self._pipeline: Pipeline
        if transform is not None:
            self._pipeline = TransformPipeline(split, sampler, transform, *layout, target)
        elif not split.holds_images or split.image_shape[-1] != 3:
            self._pipeline = ArrayPipeline(split, sampler, self.augment, *layout, target)
        elif target.type == "cuda":
            from worlds.loaders.cuda import cuda_pipeline

            self._pipeline = cuda_pipeline(
                split, sampler, self.augment, *layout, target, resident, gpu_decode
            )
        else:
            self._pipeline = CpuPipeline(split, sampler, self.augment, *layout, pin_memory)
        if split.holds_images and transform is None:
            self._pipeline = normalize_batches(
                self._pipeline, normalize, split.image_shape[-1], target
            )
        self._step = 0

    def __repr__(self) -> str:
        sampler = self.sampler
        share = f", rank {self.rank} of {self.world_size}" if self.world_size > 1 else ""
        return (
            f"{type(self).__name__}({self.dataset.name}, n={sampler.n:,}, "
            f"batch_size={self.batch_size:,}, step {self._step:,} of {len(self):,}{share})"
        )

    def __len__(self) -> int:
        return self.steps if self.steps is not None else self.sampler.steps_per_pass or 0

    @property
    def step(self) -> int:
        """Batches handed out so far."""
        return self._step

    @property
    def epoch(self) -> int:
        """The pass in which the next batch begins."""
        last = self.sampler.max_steps
        return self.sampler.epoch(self._step if last is None else min(self._step, last - 1))

    @property
    def passes(self) -> float:
        """How often a whole run goes through its n samples; in an Ideal World, 1 at most."""
        return len(self) * self.batch_size / self.sampler.pass_size

    def positions(self, step: int) -> np.ndarray:
        """The global positions, int64, of what this rank yields at `step`."""
        start, stop = self.sampler.span(step)
        size = stop - start
        return np.arange(
            start + size * self.rank // self.world_size,
            start + size * (self.rank + 1) // self.world_size,
        )

    def indices(self, step: int) -> np.ndarray:
        """Pool indices of what this rank yields at `step`; `sampler.indices` has them all."""
        return self.sampler.at(self.positions(step))

    def __iter__(self) -> Iterator[Batch]:
        first, last = self._step, self._end()
        per_block = max(1, self._pipeline.block_samples * self.world_size // self.batch_size)
        blocks = -(-(last - first) // per_block)

        def make(number: int) -> Any:
            start = first + number * per_block
            return self._block(range(start, min(start + per_block, last)))

        if not self.threads or not self._pipeline.background:
            yield from self._hand_out(map(make, range(blocks)), first)
            return
        prefetcher = Prefetcher(make, blocks, self.threads)
        try:
            yield from self._hand_out(iter(prefetcher), first)
        finally:
            prefetcher.close()

    def _end(self) -> int:
        """The step at which a `for` that begins now ends."""
        if self.steps is not None:
            return self.steps
        per_pass = self.sampler.steps_per_pass
        assert per_pass is not None
        return (self._step // per_pass + 1) * per_pass

    def _block(self, steps: range) -> Any:
        """The batches of some steps, made together as far as can be done ahead."""
        shares = [self.positions(step) for step in steps]
        positions = shares[0] if len(shares) == 1 else np.concatenate(shares)
        return self._pipeline.make(positions, [len(share) for share in shares])

    def _hand_out(self, blocks: Iterator[Any], step: int) -> Iterator[Batch]:
        for made in blocks:
            for batch in self._pipeline.finish(made):
                if self._step != step:
                    raise RuntimeError(
                        "the loader's position changed during this loop (a restored state, or a "
                        "second loop); begin a new one"
                    )
                step = self._step = step + 1
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """The position, and what decides the stream; plain numbers, strings and dicts."""
        return {"format": _STATE_FORMAT, "step": self._step, "config": self._config()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; ValueError names the field in which the configuration differs.

        Rank, world size, device, dtype, layout and threads may differ: they do not change the
        stream.
        """
        if not _is_state(state):
            raise ValueError(f"this is not a loader's state of format {_STATE_FORMAT}")
        saved, present = state["config"], self._config()
        for field in present | saved:
            if saved.get(field) != present.get(field):
                raise ValueError(
                    f"the saved loader has {field} = {saved.get(field)!r}, this one has "
                    f"{present.get(field)!r}: restore with an equal configuration"
                )
        step = state["step"]
        if step < 0 or (self.steps is not None and step > self.steps):
            raise ValueError(f"the saved step {step} is beyond this loader's {self.steps} steps")
        self._step = step

    @cached_property
    def _subset_digest(self) -> str | None:
        samples = self.sampler.samples
        return None if samples is None else hashlib.sha256(samples.data).hexdigest()

    def _config(self) -> dict[str, Any]:
        sampler, noise = self.sampler, self.dataset.label_noise
        return {
            "world": sampler.world,
            "seed": sampler.seed,
            "trial": sampler.trial,
            "pool": self.dataset.fingerprint,
            "n": sampler.n,
            "batch_size": sampler.batch_size,
            "remainder": sampler.remainder,
            "reuse": sampler.reuse,
            "subset": self._subset_digest,
            "augment": asdict(self.augment) if self.transform is None else "transform",
            "label_noise": None if noise is None else _plain(asdict(noise)),
        }


def _is_state(state: Any) -> bool:
    return (
        isinstance(state, dict)
        and state.get("format") == _STATE_FORMAT
        and isinstance(state.get("step"), int)
        and isinstance(state.get("config"), dict)
    )


def _plain(noise: dict[str, Any]) -> dict[str, Any]:
    """With string keys in `pairs`, so that a state survives JSON."""
    return noise | {"pairs": {str(k): v for k, v in noise["pairs"].items()}}


def _check_share(sampler: Sampler, rank: int, world_size: int) -> None:
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, world_size), got rank {rank} of {world_size}")
    if sampler.batch_size % world_size:
        raise ValueError(
            f"the global batch_size {sampler.batch_size} must be a multiple of world_size "
            f"{world_size}"
        )
    last = sampler.n % sampler.batch_size
    if sampler.remainder == "short" and sampler.shuffle and 0 < last < world_size:
        # The mean loss of an empty share is NaN, and the ranks' average with it.
        raise ValueError(
            f'remainder="short" ends a pass with a batch of {last}, too few for {world_size} '
            'ranks: take "carry" or "drop"'
        )


def _checked_steps(sampler: Sampler, steps: int | None) -> int | None:
    largest = sampler.max_steps
    if steps is None:
        if largest is None and sampler.steps_per_pass is None:
            raise ValueError(
                'remainder="carry" has no batch at which a pass ends: give steps, or take '
                '"drop" or "short" for one pass a loop'
            )
        if largest == 0:
            raise ValueError(
                f"n = {sampler.n:,} used at most {sampler.reuse} time(s) fills no batch of "
                f'{sampler.batch_size:,}: take a smaller batch_size or remainder="short"'
            )
        return largest
    steps = count("steps", steps)
    if largest is not None and steps > largest:
        raise ValueError(
            f"{steps:,} steps of {sampler.batch_size:,} need {steps * sampler.batch_size:,} "
            f"samples, but n = {sampler.n:,} used at most {sampler.reuse} time(s) gives "
            f"{sampler.n * (sampler.reuse or 1):,}: the largest possible is {largest:,} steps"
        )
    return steps
