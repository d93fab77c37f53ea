"""The base of all loaders: walking along a sampler's stream and saying how far they are."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from inspect import Parameter, Signature, cleandoc, signature
from itertools import pairwise
from typing import Any, Final, Unpack

import numpy as np

from worlds.data.samples import SampleSplit
from worlds.data.splits import Pool, Split
from worlds.loaders.options import LoaderOptions, Options
from worlds.loaders.pipelines import (
    ArrayPipeline,
    Batch,
    CpuPipeline,
    Pipeline,
    SamplePipeline,
    TransformPipeline,
    default_threads,
)
from worlds.loaders.samplers import Sampler
from worlds.loaders.stream import Stream
from worlds.rng.streams import stream_name
from worlds.runtime.checks import integer
from worlds.runtime.prefetch import prefetch

_STATE_FORMAT: Final = 1


class Batches:
    """Batches that are handed out from a position on, by a class with the options of every loader:
    its help shows them, with their defaults, in place of **options.
    """

    batch_sampler = None  # Lightning looks for one wherever there is a `sampler`
    _step = 0

    def __init_subclass__(cls) -> None:
        cls.__doc__ = f"{cleandoc(cls.__doc__ or '')}\n\n{cleandoc(LoaderOptions.__doc__ or '')}"
        # Its own parameters, then the common ones.
        own = list(signature(cls.__init__).parameters.values())[1:]
        if own[-1].kind == Parameter.VAR_KEYWORD:
            common = signature(LoaderOptions).parameters.values()
            cls.__signature__ = Signature([*own[:-1], *common])  # type: ignore[attr-defined]

    @property
    def step(self) -> int:
        """Return how many batches have been handed out."""
        return self._step

    def _advance(self, step: int) -> int:
        """Count a batch as handed out. Raises RuntimeError if `step` is not the position."""
        if self._step != step:
            raise RuntimeError(
                "the loader's position changed during this loop (a restored state, or a second "
                "loop); begin a new one"
            )
        self._step = step + 1
        return self._step


class Loader(Batches, Stream):
    """Walks along a sampler's stream; the worlds below only choose the sampler.

    Pickled to another process, a loader goes on from its position there, over the same files.
    """

    def __init__(
        self, split: Pool, sampler: Sampler, steps: int | None, **options: Unpack[Options]
    ) -> None:
        # Crops and flips are named by (seed, trial), or by a seed of their own.
        given = LoaderOptions(**options)
        if given.augment_seed is not None:
            own = integer("augment_seed", given.augment_seed)
            sampler = replace(sampler, augment=stream_name(own, sampler.seed, sampler.trial))
        super().__init__(sampler, steps, given.rank, given.world_size)
        # What batches are made of, and how.
        self.dataset, self.transform, self.form = split, given.transform, given.form(split)
        self.threads = default_threads(split) if given.threads is None else int(given.threads)
        images = isinstance(split, Split) and split.holds_images
        self._handout = given.hand_out(images, len(split.class_names))
        self._pipeline = self._choose_pipeline(given.resident, given.gpu_decode)

    def _choose_pipeline(self, resident: bool | None, gpu_decode: bool) -> Pipeline:
        """Return the fastest way to make the batches of such samples on such a device."""
        split, form = self.dataset, self.form
        if isinstance(split, SampleSplit):
            return SamplePipeline(split, self.sampler, form)
        if self.transform is not None:
            return TransformPipeline(split, self.sampler, form, self.transform)
        if not split.holds_images or split.image_shape[-1] != 3:
            return ArrayPipeline(split, self.sampler, form)
        if form.device.type == "cpu":
            return CpuPipeline(split, self.sampler, form)
        from worlds.loaders.cuda import cuda_pipeline

        return cuda_pipeline(split, self.sampler, form, resident, gpu_decode)

    def __repr__(self) -> str:
        sampler = self.sampler
        share = f", rank {self.rank} of {self.world_size}" if self.world_size > 1 else ""
        return (
            f"{type(self).__name__}({self.dataset.name}, n={sampler.n:,}, "
            f"batch_size={self.batch_size:,}, step {self._step:,} of {len(self):,}{share})"
        )

    @property
    def epoch(self) -> int:
        """Return the pass in which the next batch begins."""
        last = self.sampler.max_steps
        return self.sampler.epoch(self._step if last is None else min(self._step, last - 1))

    def __iter__(self) -> Iterator[Batch]:
        # Small batches are made several at once, which spares calls and copies.
        first, last = self._step, self.end_of_loop(self._step)
        per_block = max(1, self._pipeline.block_samples * self.world_size // self.batch_size)
        blocks = -(-(last - first) // per_block)  # rounded up

        def make(number: int) -> Any:
            start = first + number * per_block
            return self._block(range(start, min(start + per_block, last)))

        # In this thread, or in others that run ahead of it.
        if not self.threads or not self._pipeline.background:
            yield from self._hand_out(map(make, range(blocks)), first)
            return
        with closing(prefetch(make, blocks, self.threads)) as made:
            yield from self._hand_out(made, first)

    def _block(self, steps: range) -> Any:
        """Return the batches of some steps, made together as far as can be done ahead."""
        if self.world_size == 1:  # the batches lie in a row
            starts = self.sampler.boundaries(steps.start, steps.stop)
            sizes = [stop - start for start, stop in pairwise(starts)]
            return self._pipeline.make(np.arange(starts[0], starts[-1]), sizes)
        # A rank's parts of several batches are apart from each other.
        shares = [self.positions(step) for step in steps]
        return self._pipeline.make(np.concatenate(shares), [len(share) for share in shares])

    def _hand_out(self, blocks: Iterator[Any], step: int) -> Iterator[Batch]:
        for made in blocks:
            for batch in self._pipeline.finish(made):
                step = self._advance(step)
                yield self._handout(batch)

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and what decides the stream, as plain numbers, strings, dicts."""
        return {"format": _STATE_FORMAT, "step": self._step, "config": self._config()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; ValueError names the field in which the configuration differs.

        Rank, world size, device, dtype, layout and threads may differ: they do not change the
        stream.
        """
        self._step = self.saved_step(state, _STATE_FORMAT)

    def _config(self) -> dict[str, Any]:
        # Crops are listed only if they have a name of their own, so that old states fit.
        noise, sampler = self.dataset.label_noise, self.sampler
        apart = sampler.crops != (sampler.seed, sampler.trial)
        return (
            super()._config()
            | ({"crops": list(sampler.crops)} if apart else {})
            | {
                "pool": self.dataset.fingerprint,
                "augment": asdict(self.form.augment) if self.transform is None else "transform",
                "label_noise": None if noise is None else _plain(asdict(noise)),
            }
        )


def _plain(noise: dict[str, Any]) -> dict[str, Any]:
    """Return the facts with string keys in `pairs`, so that a state survives JSON."""
    return noise | {"pairs": {str(k): v for k, v in noise["pairs"].items()}}
