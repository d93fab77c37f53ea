"""Batches on a GPU: the pool lives there as uint8, and one launch makes a block of batches.

The kernel is `worlds.loaders.fused.fill`; `worlds.loaders.blocks.fill_plain` defines it, and takes
over where Triton or a C compiler is missing. Where the pool does not fit, the bytes of each block
are gathered into page-locked memory by a thread and copied while the GPU works on the one before.
Each of these ways checks itself against the CPU's batches at its first use on a device.
"""

import threading
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
import torch

from worlds.data.images import Images
from worlds.data.photographs import PhotographImages
from worlds.data.splits import Split
from worlds.data.stores import ArrayStore
from worlds.loaders.blocks import Block, fill_plain, name_of, value_table
from worlds.loaders.normalize import range_function
from worlds.loaders.nvjpeg import check_nvjpeg, decodes_alike, gather_on_gpu
from worlds.loaders.pipelines import (
    Batch,
    CpuPipeline,
    Form,
    Pipeline,
    batches,
    check_augment,
    staged,
)
from worlds.loaders.samplers import Sampler, WindowSampler
from worlds.rng.orders import pass_order
from worlds.runtime.selfcheck import passes

_RESERVE: Final = 4 << 30  # bytes of GPU memory left to the model where a pool is made resident
_UPLOAD: Final = 1 << 14  # images copied to the GPU at a time, 50 MB of CIFAR
_MADE_AHEAD: Final = 1 << 14  # samples of a pass whose order takes a millisecond

_Sent = tuple[list[torch.Tensor], list[int], torch.cuda.Event]  # bytes, labels ...; sizes; copied


def free_memory(device: torch.device) -> int:
    """Return the bytes that torch could still give: those free, and those it holds for reuse."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def cuda_pipeline(
    split: Split, sampler: Sampler, form: Form, resident: bool | None, gpu_decode: bool = False
) -> Pipeline:
    """Return the fastest way to make batches that passes its check: resident where the samples fit
    beside a reserve (or where asked), else streamed, as photographs always are.
    """
    check_augment(form.augment, split)
    photographs = isinstance(split.images, PhotographImages)
    if photographs and resident:
        raise ValueError("photographs are decoded as they are asked for: leave resident out")
    if gpu_decode and not photographs:
        raise ValueError(f"gpu_decode=True is for photographs, {split.name} holds none")
    # Where the bytes come from.
    device = form.device
    kind: type[_OnDevice] = Streamed
    if gpu_decode:
        check_nvjpeg()
        if passes("nvJPEG", device, partial(decodes_alike, device), "decoding on the CPU"):
            kind = Decoded
    elif not photographs and resident is not False and _fits(split, sampler, device, resident):
        kind = Resident
    # Who makes the batches of them: Triton, else PyTorch, else the CPU.
    for fused in (True, False):
        if not _passes(kind, split.image_shape, form, fused):
            continue
        try:
            return kind(split, sampler, form, fused)
        except torch.OutOfMemoryError:
            if kind is not Resident or resident:
                raise
            warnings.warn(f"{device} has no room for the pool: it is streamed", stacklevel=2)
            return cuda_pipeline(split, sampler, form, False)
    return Copied(split, sampler, replace(form, pin_memory=True))


def _fits(split: Split, sampler: Sampler, device: torch.device, insist: bool | None) -> bool:
    height, width, channels = split.image_shape
    # A whole pool that another loader has sent is used as it is.
    need, free = sampler.n * height * width * channels, free_memory(device)
    if sampler.samples is None and device in _pools.get(split.images, {}):
        return True
    if isinstance(sampler, WindowSampler) and not insist:  # what is not made yet
        return False
    if insist and need + _RESERVE > free:
        raise ValueError(
            f"the pool is too large for {device}: {sampler.n:,} samples need {need / 1e9:.1f} GB "
            f"beside {_RESERVE / 1e9:.1f} GB for the network, {free / 1e9:.1f} GB are free; take "
            "resident=False to stream them"
        )
    return need + _RESERVE <= free


def _passes(kind: "type[_OnDevice]", shape: tuple[int, ...], form: Form, fused: bool) -> bool:
    """Return whether a kind of pipeline makes the CPU's batches in this form here."""
    kind = Streamed if kind is Decoded else kind  # decoding has a check of its own
    by, instead = ("Triton", "PyTorch") if fused else ("PyTorch", "the CPU")
    layout = "channels_last" if form.channels_last else "contiguous"
    options = f"{form.dtype}, {layout}, {form.normalize}, {shape}, {form.augment}"
    check = partial(makes_the_cpus_batches, kind, shape, form, fused)
    return passes(f"{kind.__name__} pool by {by}, {options}", form.device, check, instead)


def makes_the_cpus_batches(
    kind: "type[_OnDevice]", shape: tuple[int, ...], form: Form, fused: bool
) -> bool:
    """Return whether three batches about the border of a pass, of random images, are the CPU's to
    the bit.
    """
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (24, *shape), np.uint8), rng.integers(0, 10, 24)
    split, sampler = ArrayStore(images, labels).train, Sampler("real", 24, 8, seed=1 << 40, trial=3)
    form = replace(form, augment=replace(form.augment, resized_crop=False), pin_memory=False)
    pipelines = kind(split, sampler, form, fused), CpuPipeline(split, sampler, form)
    made: list[Iterable[Batch]] = [p.finish(p.make(np.arange(16, 40), [8] * 3)) for p in pipelines]
    return all(
        torch.equal(x.cpu(), u) and torch.equal(y.cpu(), v)
        for (x, y), (u, v) in zip(*made, strict=True)
    )


class _OnDevice(Pipeline):
    block_samples = 8192

    def __init__(self, split: Split, sampler: Sampler, form: Form, fused: bool) -> None:
        super().__init__(split, sampler, form)
        self.device, self.fused = form.device, fused
        self._name = name_of(*sampler.crops, form.device)
        self._to_range = range_function(form.normalize, 3, form.device)
        table = value_table(range_function(form.normalize, 3), form.dtype)
        self._table = None if table is None else table.to(form.device)  # (3, 257)

    def _filled(
        self, pool: torch.Tensor, labels: torch.Tensor, block: Block
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images (B, 3, H, W) and labels (B,) of a block."""
        form = self.form
        layout = form.dtype, form.channels_last
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            if self.fused:
                from worlds.loaders.fused import fill

                return fill(pool, labels, block, self._name, form.augment, self._table, *layout)
            crops, to_range = self.sampler.crops, self._to_range
            return fill_plain(pool, labels, block, crops, form.augment, to_range, *layout)

    def _pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return memory from which the device copies by itself."""
        return torch.empty(shape, dtype=dtype, pin_memory=self.device.type == "cuda")

    def _sent(self, array: np.ndarray) -> torch.Tensor:
        """Return an array on the device, copied without waiting for it; uint32 becomes int32."""
        array = array.view(np.int32) if array.dtype == np.uint32 else array
        pinned = self._pinned(array.shape, torch.from_numpy(np.empty(0, array.dtype)).dtype)
        pinned.numpy()[...] = array
        return pinned.to(self.device, non_blocking=True)


# Whole pools on devices, which the runs of a process share for as long as the images are in use.
_pools: "WeakKeyDictionary[Images, dict[torch.device, torch.Tensor]]" = WeakKeyDictionary()


class Resident(_OnDevice):
    """The sampler's samples, and the orders of the current pass and the next, live on the GPU."""

    background = False  # a launch returns at once

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        samples = self.sampler.samples
        if samples is None:
            kept = _pools.setdefault(self.split.images, {})
            if self.device not in kept:
                kept[self.device] = self._uploaded(np.arange(self.sampler.n))
            self._pool, labels = kept[self.device], self.split.labels
        else:
            self._pool, labels = self._uploaded(samples), self.split.labels[samples]
        self._labels = torch.tensor(labels, device=self.device)
        self._orders: dict[int, torch.Tensor] = {}  # by pass

    def _uploaded(self, samples: np.ndarray) -> torch.Tensor:
        """Return uint8 (n, H, W, 3): one buffer is filled while the other is copied."""
        shape = self.split.image_shape
        pool = torch.empty((len(samples), *shape), dtype=torch.uint8, device=self.device)
        size = min(_UPLOAD, len(samples))
        buffers = [self._pinned((size, *shape), torch.uint8) for _ in range(2)]
        copied: list[torch.cuda.Event | None] = [None, None]
        # Fill one buffer while the device still copies the other one.
        for number, start in enumerate(range(0, len(samples), _UPLOAD)):
            part, event = samples[start : start + _UPLOAD], copied[number % 2]
            if event is not None:
                event.synchronize()
            buffer = buffers[number % 2][: len(part)]
            self.split.gather(part, buffer.numpy())
            pool[start : start + len(part)].copy_(buffer, non_blocking=True)
            if self.device.type == "cuda":
                copied[number % 2] = torch.cuda.current_stream(self.device).record_event()
        return pool

    def make(self, positions: np.ndarray, sizes: list[int]) -> list[Batch]:
        return batches(*self._filled(self._pool, self._labels, self._block(positions)), sizes)

    def finish(self, made: list[Batch]) -> Iterable[Batch]:
        return made

    def _block(self, positions: np.ndarray) -> Block:
        sampler, count = self.sampler, len(positions)
        # A row of positions in one pass or two: the kernel looks the samples up in their orders.
        if count and sampler.shuffle and not sampler.replace:
            first, size = int(positions[0]), sampler.pass_size
            epoch, start = divmod(first, size)
            if int(positions[-1]) - first == count - 1 and start + count <= 2 * size:
                order = self._order(epoch)
                after = self._order(epoch + 1) if start + count > size else order
                return Block(count, order, after, None, first, start, size)
        # Anything else is listed, sample by sample.
        places = self._sent(sampler.places(positions))
        return Block(count, places, places, self._sent(positions))

    def _order(self, epoch: int) -> torch.Tensor:
        """Return a pass's order, int32 (n,); a thread makes the next one, where it takes long."""
        if epoch not in self._orders:
            # Of the orders, the one before is kept: a block may begin in it.
            sampler = self.sampler
            name = sampler.n, sampler.seed, sampler.trial
            self._orders = {k: v for k, v in self._orders.items() if k == epoch - 1}
            self._orders[epoch] = self._sent(pass_order(*name, epoch))
            if sampler.n >= _MADE_AHEAD and (sampler.reuse is None or epoch + 1 < sampler.reuse):
                threading.Thread(target=pass_order, args=(*name, epoch + 1)).start()
        return self._orders[epoch]


class Streamed(_OnDevice):
    """Each block's bytes are gathered and sent by a thread, on a stream of its own, while the GPU
    works on the block before.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._threads = threading.local()

    def _stream(self) -> torch.cuda.Stream:
        """Return this thread's stream: memory that one thread frees is no other thread's to take
        before the kernels that read it are done.
        """
        if not hasattr(self._threads, "stream"):
            self._threads.stream = torch.cuda.Stream(self.device)
        stream: torch.cuda.Stream = self._threads.stream
        return stream

    def make(self, positions: np.ndarray, sizes: list[int]) -> _Sent:
        indices, stream = self.sampler.at(positions), self._stream()
        with torch.cuda.stream(stream):
            sent = [
                self._pixels(positions, indices),
                self._sent(self.split.labels[indices]),
                self._sent(positions),
                torch.arange(len(indices), dtype=torch.int32, device=self.device),
            ]
            # The event marks that all four have arrived.
            return sent, sizes, stream.record_event()

    def _pixels(self, positions: np.ndarray, indices: np.ndarray) -> torch.Tensor:
        """Return uint8 (N, H, W, 3) on the device, or on the way there."""
        pinned = self._pinned((len(indices), *self.split.image_shape), torch.uint8)
        staged(self.split, self.sampler, self.form.augment, positions, indices, pinned.numpy())
        return pinned.to(self.device, non_blocking=True)

    def finish(self, made: _Sent) -> Iterable[Batch]:
        sent, sizes, copied = made
        # The trainer's stream waits for the copy, and keeps its memory from being taken too early.
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)
        for tensor in sent:
            tensor.record_stream(current)
        pool, labels, positions, places = sent
        block = Block(len(places), places, places, positions)
        return batches(*self._filled(pool, labels, block), sizes)


class Decoded(Streamed):
    """Photographs whose JPEGs are sent, and decoded on the GPU."""

    def _pixels(self, positions: np.ndarray, indices: np.ndarray) -> torch.Tensor:
        assert isinstance(self.split.images, PhotographImages)
        address = *self.sampler.crops, positions
        boxes = address if self.form.augment.resized_crop else None
        return gather_on_gpu(self.split.images, indices, self.device, boxes)


class Copied(CpuPipeline):
    """The CPU's batches, copied: where nothing faster passes its check."""

    finish = Pipeline.finish
