"""Batches on a GPU: the pool lives there as uint8, and one launch makes a block of batches.

The kernel is `worlds.loaders.fused.fill`; `worlds.loaders.blocks.fill_plain` defines it, and takes
over where Triton or a C compiler is missing. Where the pool does not fit, the bytes of each block
are gathered into page-locked memory by a thread and copied while the GPU works on the one before.
Each of these ways checks itself against the CPU's batches at its first use on a device.
"""

import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
import torch

from worlds.data.images import Images
from worlds.data.photographs import PhotographImages
from worlds.data.splits import Split
from worlds.data.stores import ArrayStore
from worlds.loaders.augment import Augment
from worlds.loaders.blocks import Block, fill_plain, name_of, value_table
from worlds.loaders.normalize import Range, cpu_pipeline, range_function
from worlds.loaders.nvjpeg import check_nvjpeg, decodes_alike, gather_on_gpu
from worlds.loaders.pipelines import (
    Batch,
    Pipeline,
    batches,
    block_of,
    check_augment,
    staged,
)
from worlds.loaders.samplers import Sampler, WindowSampler
from worlds.rng.orders import pass_order
from worlds.runtime.selfcheck import passes

_CPU: Final = torch.device("cpu")
_RESERVE: Final = 4 << 30  # bytes of GPU memory left to the model where a pool is made resident
_UPLOAD: Final = 1 << 14  # images copied to the GPU at a time, 50 MB of CIFAR
_MADE_AHEAD: Final = 1 << 14  # samples of a pass whose order takes a millisecond

_Sent = tuple[list[torch.Tensor], list[int], torch.cuda.Event]  # bytes, labels ...; sizes; copied


def free_memory(device: torch.device) -> int:
    """Return the bytes that torch could still give: those free, and those it holds for reuse."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def cuda_pipeline(
    split: Split,
    sampler: Sampler,
    augment: Augment,
    dtype: torch.dtype,
    channels_last: bool,
    device: torch.device,
    resident: bool | None,
    gpu_decode: bool = False,
    normalize: Range = "symmetric",
) -> Pipeline:
    """Return the fastest way to make batches that passes its check: resident where the samples fit
    beside a reserve (or where asked), else streamed, as photographs always are.
    """
    check_augment(augment, split)
    photographs = isinstance(split.images, PhotographImages)
    if photographs and resident:
        raise ValueError("photographs are decoded as they are asked for: leave resident out")
    if gpu_decode and not photographs:
        raise ValueError(f"gpu_decode=True is for photographs, {split.name} holds none")
    options = (augment, dtype, channels_last, device, normalize)
    kind: type[_OnDevice] = Streamed
    if gpu_decode:
        check_nvjpeg()
        if passes("nvJPEG", device, partial(decodes_alike, device), "decoding on the CPU"):
            kind = Decoded
    elif not photographs and resident is not False and _fits(split, sampler, device, resident):
        kind = Resident
    for fused in (True, False):
        if not _passes(kind, split.image_shape, options, fused):
            continue
        try:
            return kind(split, sampler, *options, fused)
        except torch.OutOfMemoryError:
            if kind is not Resident or resident:
                raise
            warnings.warn(f"{device} has no room for the pool: it is streamed", stacklevel=2)
            return cuda_pipeline(split, sampler, *options[:4], False, normalize=normalize)
    plain = cpu_pipeline(split, sampler, augment, dtype, channels_last, True, normalize)
    return Copied(plain, device)


def _fits(split: Split, sampler: Sampler, device: torch.device, insist: bool | None) -> bool:
    height, width, channels = split.image_shape
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


def _passes(
    kind: "type[_OnDevice]", shape: tuple[int, ...], options: tuple[Any, ...], fused: bool
) -> bool:
    """Return whether a kind of pipeline makes the CPU's batches with these options here."""
    augment, dtype, channels_last, device, normalize = options
    kind = Streamed if kind is Decoded else kind  # decoding has a check of its own
    by, instead = ("Triton", "PyTorch") if fused else ("PyTorch", "the CPU")
    layout = "channels_last" if channels_last else "contiguous"
    path = f"{kind.__name__} pool by {by}, {dtype}, {layout}, {normalize}, {shape}, {augment}"
    return passes(
        path, device, partial(makes_the_cpus_batches, kind, shape, options, fused), instead
    )


def makes_the_cpus_batches(
    kind: "type[_OnDevice]", shape: tuple[int, ...], options: tuple[Any, ...], fused: bool
) -> bool:
    """Return whether three batches about the border of a pass, of random images, are the CPU's to
    the bit.
    """
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (24, *shape), np.uint8), rng.integers(0, 10, 24)
    split, sampler = ArrayStore(images, labels).train, Sampler("real", 24, 8, seed=1 << 40, trial=3)
    augment, dtype, channels_last, device, normalize = options
    augment = Augment(augment.pad, False, augment.reflect, augment.flip, augment.cutout)
    plain = cpu_pipeline(split, sampler, augment, dtype, channels_last, False, normalize)
    pipelines = (
        kind(split, sampler, augment, dtype, channels_last, device, normalize, fused),
        plain,
    )
    made: list[Iterable[Batch]] = [p.finish(p.make(np.arange(16, 40), [8] * 3)) for p in pipelines]
    return all(
        torch.equal(x.cpu(), u) and torch.equal(y.cpu(), v)
        for (x, y), (u, v) in zip(*made, strict=True)
    )


class _OnDevice:
    background = True

    def __init__(
        self,
        split: Split,
        sampler: Sampler,
        augment: Augment,
        dtype: torch.dtype,
        channels_last: bool,
        device: torch.device,
        normalize: Range,
        fused: bool,
    ) -> None:
        self.split, self.sampler, self.augment = split, sampler, augment
        self.dtype, self.channels_last, self.device = dtype, channels_last, device
        self.fused = fused
        self.block_samples = block_of(split, 8192)
        self._name = name_of(*sampler.crops, device)
        self._to_range = range_function(normalize, 3, device)
        table = value_table(range_function(normalize, 3, _CPU), dtype)
        self._table = None if table is None else table.to(device)

    def make(self, positions: np.ndarray, sizes: list[int]) -> Any:
        raise NotImplementedError

    def finish(self, made: Any) -> Iterable[Batch]:
        raise NotImplementedError

    def _filled(
        self, pool: torch.Tensor, labels: torch.Tensor, block: Block
    ) -> tuple[torch.Tensor, torch.Tensor]:
        layout = self.dtype, self.channels_last
        with _current(self.device):
            if self.fused:
                from worlds.loaders.fused import fill

                options = (self._name, self.augment, self._table, *layout)
                return fill(pool, labels, block, *options)
            crops, to_range = self.sampler.crops, self._to_range
            return fill_plain(pool, labels, block, crops, self.augment, to_range, *layout)

    def _pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return memory from which the device copies by itself."""
        return torch.empty(shape, dtype=dtype, pin_memory=self.device.type == "cuda")

    def _sent(self, array: np.ndarray) -> torch.Tensor:
        """Return an array on the device, copied without waiting for it; uint32 becomes int32."""
        array = array.view(np.int32) if array.dtype == np.uint32 else array
        pinned = self._pinned(array.shape, torch.from_numpy(np.empty(0, array.dtype)).dtype)
        pinned.numpy()[...] = array
        return pinned.to(self.device, non_blocking=True)


def _current(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


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
        if count and sampler.shuffle and not sampler.replace:
            first, size = int(positions[0]), sampler.pass_size
            epoch, start = divmod(first, size)
            if int(positions[-1]) - first == count - 1 and start + count <= 2 * size:
                order = self._order(epoch)
                after = self._order(epoch + 1) if start + count > size else order
                return Block(count, order, after, None, first, start, size)
        places = self._sent(sampler.places(positions))
        return Block(count, places, places, self._sent(positions))

    def _order(self, epoch: int) -> torch.Tensor:
        """Return a pass's order, int32 (n,); a thread makes the next one, where it takes long."""
        if epoch not in self._orders:
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
            return sent, sizes, stream.record_event()

    def _pixels(self, positions: np.ndarray, indices: np.ndarray) -> torch.Tensor:
        """uint8 (N, H, W, 3) on the device, or on the way there."""
        pinned = self._pinned((len(indices), *self.split.image_shape), torch.uint8)
        staged(self.split, self.sampler, self.augment, positions, indices, pinned.numpy())
        return pinned.to(self.device, non_blocking=True)

    def finish(self, made: _Sent) -> Iterable[Batch]:
        sent, sizes, copied = made
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
        boxes = address if self.augment.resized_crop else None
        return gather_on_gpu(self.split.images, indices, self.device, boxes)


class Copied:
    """The CPU's batches, copied: where nothing faster passes its check."""

    background = True

    def __init__(self, inner: Pipeline, device: torch.device) -> None:
        self.inner, self.device, self.make = inner, device, inner.make
        self.block_samples = inner.block_samples

    def finish(self, made: Any) -> Iterator[Batch]:
        for x, y in self.inner.finish(made):
            yield x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
