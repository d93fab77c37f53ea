"""The base of all loaders: walking along a sampler's stream and saying how far they are."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from inspect import Parameter, Signature, cleandoc, signature
from typing import Any, Final, TypedDict

import numpy as np
import torch

from worlds.data.photographs import PhotographImages
from worlds.data.samples import SampleSplit
from worlds.data.splits import Pool, Split
from worlds.loaders.augment import Augment, parse_augment
from worlds.loaders.handout import check_handout
from worlds.loaders.normalize import Range, check_normalize, cpu_pipeline, normalize_batches
from worlds.loaders.pipelines import (
    DTYPES,
    ArrayPipeline,
    Batch,
    Pipeline,
    SamplePipeline,
    Transform,
    TransformPipeline,
    default_threads,
)
from worlds.loaders.samplers import Sampler
from worlds.loaders.stream import Stream
from worlds.rng.streams import stream_name
from worlds.runtime.checks import integer
from worlds.runtime.device import check_device
from worlds.runtime.prefetch import Prefetcher

_STATE_FORMAT: Final = 1
_KEYWORD: Final = Parameter.KEYWORD_ONLY
_ARGS: Final = """
Args (keyword-only, of every loader):
    augment: None, "flip", "crop+flip", "crop+flip+cutout" or a worlds.Augment.
    augment_seed: of the augmentations in every trial; None: (seed, trial). The same hold data_seed
        for the choice of the samples and order_seed for their order, where a loader takes them.
    transform: instead of augment, a function of uint8 (3, H, W) that returns a tensor; slower.
    normalize: range of pixels: "symmetric" [-1, 1], "unit" [0, 1], "cifar10", "imagenet",
        any (mean, std) on the [0, 1] scale, or None for the uint8 pixels themselves.
    device: "cpu", "cuda" or "cuda:K".
    dtype: torch.float32, float16 or bfloat16.
    channels_last: memory format of the images.
    output: "torch" tensors, or arrays of "numpy" or "jax" over the same memory.
    layout: shape of a batch of images, "NCHW" or "NHWC".
    labels: "int64", "int32" or "one-hot" (float32).
    resident: on CUDA, the pool in device memory (True), streamed (False), or as it fits (None).
    gpu_decode: on CUDA, decode photographs there.
    pin_memory: make CPU batches in page-locked memory, for copies that do not block.
    threads: that make batches ahead, 0: none; None: 2, or one a CPU for photographs.
    rank: this process's share of each global batch, in [0, world_size).
    world_size: number of processes that share each global batch.
"""


class Options(TypedDict, total=False):
    """Keyword arguments of every loader, with the defaults of `Loader`."""

    augment: Augment | str | None
    augment_seed: int | None
    transform: Transform | None
    normalize: Range
    device: str | torch.device
    dtype: torch.dtype
    channels_last: bool
    output: str
    layout: str
    labels: str
    resident: bool | None
    gpu_decode: bool
    pin_memory: bool
    threads: int | None
    rank: int
    world_size: int


class Loader(Stream):
    """Walks along a sampler's stream; the worlds below only choose the sampler.

    Pickled to another process, a loader goes on from its position there, over the same files.
    """

    batch_sampler = None  # Lightning looks for one wherever there is a `sampler`

    def __init_subclass__(cls) -> None:
        cls.__doc__ = f"{cleandoc(cls.__doc__ or '')}\n{_ARGS}"
        # help() shows the common options with their defaults in place of **options.
        common = [p for p in signature(Loader.__init__).parameters.values() if p.kind == _KEYWORD]
        own = list(signature(cls.__init__).parameters.values())[1:]
        if own[-1].kind == Parameter.VAR_KEYWORD:
            cls.__signature__ = Signature(own[:-1] + common)  # type: ignore[attr-defined]

    def __init__(
        self,
        split: Pool,
        sampler: Sampler,
        steps: int | None,
        *,
        augment: Augment | str | None = None,
        augment_seed: int | None = None,
        transform: Transform | None = None,
        normalize: Range = "symmetric",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        output: str = "torch",
        layout: str = "NCHW",
        labels: str = "int64",
        resident: bool | None = None,
        gpu_decode: bool = False,
        pin_memory: bool = False,
        threads: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if augment_seed is not None:
            name = stream_name(integer("augment_seed", augment_seed), sampler.seed, sampler.trial)
            sampler = replace(sampler, augment=name)
        super().__init__(sampler, steps, rank, world_size)
        threads = default_threads(split) if threads is None else integer("threads", threads)
        if threads < 0:
            raise ValueError(f"threads must be 0 or more, got {threads}")
        if dtype not in DTYPES or dtype == torch.uint8:
            raise ValueError(f"dtype must be float32, float16 or bfloat16, got {dtype}")
        self.dataset, self.threads = split, threads
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
        if isinstance(split, SampleSplit):
            if self.augment != Augment() or transform is not None or normalize != "symmetric":
                raise ValueError(
                    f"{split.name} hands out its samples as they are: leave augment, transform and "
                    "normalize out"
                )
        elif split.holds_images:
            check_normalize(normalize, split.image_shape[-1])
        elif normalize != "symmetric":
            raise ValueError(
                f"normalize is for uint8 images, {split.name} holds {split.images.dtype}: "
                "leave normalize out"
            )
        if normalize is None and dtype != torch.float32:
            raise ValueError(f"normalize=None yields uint8: leave dtype={dtype} out")
        self.device = target = check_device(device)
        self.values = dtype, repr(normalize) if transform is None else "transform"
        if pin_memory and not torch.cuda.is_available():
            raise ValueError("pin_memory=True needs a CUDA device, and torch finds none")
        if gpu_decode and target.type != "cuda":
            raise ValueError('gpu_decode=True decodes photographs on a GPU: give device="cuda"')
        self._handout = check_handout(
            *(output, layout, labels),
            images=isinstance(split, Split) and split.holds_images,
            classes=len(split.class_names),
            dtype=dtype,
            device=target,
        )
        form = (dtype, channels_last or layout == "NHWC")
        self._pipeline: Pipeline
        if isinstance(split, SampleSplit):
            self._pipeline = SamplePipeline(split, sampler, target)
        elif transform is not None:
            self._pipeline = TransformPipeline(split, sampler, transform, *form, target)
        elif not split.holds_images or split.image_shape[-1] != 3:
            plain = ArrayPipeline(split, sampler, self.augment, *form, target)
            channels = split.image_shape[-1] if split.holds_images else 1
            self._pipeline = normalize_batches(plain, normalize, channels, target)
        elif target.type == "cuda":
            from worlds.loaders.cuda import cuda_pipeline

            self._pipeline = cuda_pipeline(
                split, sampler, self.augment, *form, target, resident, gpu_decode, normalize
            )
        else:
            self._pipeline = cpu_pipeline(
                split, sampler, self.augment, *form, pin_memory, normalize
            )
        self._step = 0

    def __repr__(self) -> str:
        sampler = self.sampler
        share = f", rank {self.rank} of {self.world_size}" if self.world_size > 1 else ""
        return (
            f"{type(self).__name__}({self.dataset.name}, n={sampler.n:,}, "
            f"batch_size={self.batch_size:,}, step {self._step:,} of {len(self):,}{share})"
        )

    @property
    def step(self) -> int:
        """Batches handed out so far."""
        return self._step

    @property
    def epoch(self) -> int:
        """The pass in which the next batch begins."""
        last = self.sampler.max_steps
        return self.sampler.epoch(self._step if last is None else min(self._step, last - 1))

    def __iter__(self) -> Iterator[Batch]:
        first, last = self._step, self.end_of_loop(self._step)
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

    def _block(self, steps: range) -> Any:
        """The batches of some steps, made together as far as can be done ahead."""
        if self.world_size == 1:  # the batches lie in a row
            spans = [self.sampler.span(step) for step in steps]
            sizes = [stop - start for start, stop in spans]
            return self._pipeline.make(np.arange(spans[0][0], spans[-1][1]), sizes)
        shares = [self.positions(step) for step in steps]
        return self._pipeline.make(np.concatenate(shares), [len(share) for share in shares])

    def _hand_out(self, blocks: Iterator[Any], step: int) -> Iterator[Batch]:
        for made in blocks:
            for batch in self._pipeline.finish(made):
                if self._step != step:
                    raise RuntimeError(
                        "the loader's position changed during this loop (a restored state, or a "
                        "second loop); begin a new one"
                    )
                step = self._step = step + 1
                yield self._handout(batch)

    def state_dict(self) -> dict[str, Any]:
        """The position, and what decides the stream; plain numbers, strings and dicts."""
        return {"format": _STATE_FORMAT, "step": self._step, "config": self._config()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; ValueError names the field in which the configuration differs.

        Rank, world size, device, dtype, layout and threads may differ: they do not change the
        stream.
        """
        self._step = self.saved_step(state, _STATE_FORMAT)

    def _config(self) -> dict[str, Any]:
        noise, sampler = self.dataset.label_noise, self.sampler
        apart = sampler.crops != (sampler.seed, sampler.trial)
        return (
            super()._config()
            | ({"crops": list(sampler.crops)} if apart else {})
            | {
                "pool": self.dataset.fingerprint,
                "augment": asdict(self.augment) if self.transform is None else "transform",
                "label_noise": None if noise is None else _plain(asdict(noise)),
            }
        )


def _plain(noise: dict[str, Any]) -> dict[str, Any]:
    """With string keys in `pairs`, so that a state survives JSON."""
    return noise | {"pairs": {str(k): v for k, v in noise["pairs"].items()}}
