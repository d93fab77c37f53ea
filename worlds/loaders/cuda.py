"""Batches on a GPU: the pool lives there as uint8, and one Triton kernel makes the batch.

The kernel draws its own Philox words, so a launch needs pool indices and positions, no more; small
batches are made many to a launch. Where the pool does not fit, the bytes of each block are
gathered into page-locked memory by a thread and copied while the GPU works on the one before.

`fill` is held equal to `worlds.loaders.augment.augment_batch` by tests/worlds/test_cuda.py.
"""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import torch
import triton  # type: ignore[import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,unused-ignore]

from worlds.data.photographs import PhotographImages
from worlds.data.splits import Split
from worlds.loaders.augment import SCALE, Augment
from worlds.loaders.nvjpeg import check_nvjpeg, gather_on_gpu
from worlds.loaders.pipelines import Batch, batches, block_of, check_augment, staged
from worlds.loaders.samplers import Sampler
from worlds.rng.orders import pass_order
from worlds.rng.streams import AUGMENT, key_of

_BLOCK: Final = 1024  # of one image, made by one program: pixels, or values where channels are last
_RESERVE: Final = 4 << 30  # bytes of GPU memory left to the model where a pool is made resident
_UPLOAD: Final = 1 << 16  # images copied to the GPU at a time, 201 MB of CIFAR


_Sent = tuple[list[torch.Tensor], list[int], torch.cuda.Event]  # bytes, labels ...; sizes; copied


@triton.jit
def _philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Ten rounds on uint32; products and key schedule wrap."""
    m0 = tl.full((), 0xD2511F53, tl.uint32)
    m1 = tl.full((), 0xCD9E8D57, tl.uint32)
    w0 = tl.full((), 0x9E3779B9, tl.uint32)
    w1 = tl.full((), 0xBB67AE85, tl.uint32)
    for _ in tl.static_range(10):
        a, b = c0, c2
        c0 = tl.umulhi(b, m1) ^ c1 ^ k0
        c1 = b * m1
        c2 = tl.umulhi(a, m0) ^ c3 ^ k1
        c3 = a * m0
        k0 = k0 + w0
        k1 = k1 + w1
    return c0, c1, c2, c3


@triton.jit
def _reflected(i, size):  # type: ignore[no-untyped-def]
    return (size - 1) - tl.abs((size - 1) - tl.abs(i))


@triton.jit
def _fill(  # type: ignore[no-untyped-def]
    pool,
    indices,
    positions,
    name,
    out,
    scale,
    height: tl.constexpr,
    width: tl.constexpr,
    pad: tl.constexpr,
    reflect: tl.constexpr,
    can_flip: tl.constexpr,
    cutout: tl.constexpr,
    channels_last: tl.constexpr,
    block: tl.constexpr,
):
    """Program (i, b) makes the b-th block of sample i: of pixels, each with its three channels, or,
    where channels are last, of values. Either way neighbours in a block are neighbours in memory.
    """
    sample = tl.program_id(0).to(tl.int64)
    lane = tl.program_id(1) * block + tl.arange(0, block)
    channels: tl.constexpr = 1 if channels_last else 3
    pixel = lane // 3 if channels_last else lane
    first = lane % 3 if channels_last else lane * 0
    wanted = lane < height * width * (3 // channels)
    y, x = pixel // width, pixel % width

    position = tl.load(positions + sample)
    stream, trial = tl.load(name + 2), tl.load(name + 3)
    w0, w1, w2, w3 = _philox(
        tl.full((), 0, tl.uint32),
        trial.to(tl.uint32),
        (position & 0xFFFFFFFF).to(tl.uint32),
        ((stream << 24) | (position >> 32)).to(tl.uint32),
        tl.load(name).to(tl.uint32),
        tl.load(name + 1).to(tl.uint32),
    )
    places: tl.constexpr = 2 * pad + 1
    from_y = y + ((w0.to(tl.int64) * places) >> 32).to(tl.int32) - pad
    from_x = x
    if can_flip:
        from_x = tl.where((w2 >> 31) != 0, width - 1 - x, x)
    from_x += ((w1.to(tl.int64) * places) >> 32).to(tl.int32) - pad
    if reflect:
        from_y, from_x = _reflected(from_y, height), _reflected(from_x, width)
    inside = (from_y >= 0) & (from_y < height) & (from_x >= 0) & (from_x < width) & wanted

    hole = pixel < 0
    if cutout:
        hole_y = (((w3 >> 16).to(tl.int64) * height) >> 16).to(tl.int32)
        hole_x = (((w3 & 0xFFFF).to(tl.int64) * width) >> 16).to(tl.int32)
        hole = (y >= hole_y - cutout // 2) & (y < hole_y + cutout // 2)
        hole = hole & (x >= hole_x - cutout // 2) & (x < hole_x + cutout // 2)

    plane: tl.constexpr = height * width
    source = pool + tl.load(indices + sample) * (3 * plane) + (from_y * width + from_x) * 3 + first
    for c in tl.static_range(channels):
        byte = tl.load(source + c, mask=inside, other=0).to(tl.int32)
        value = tl.where(hole, 0.0, (2 * byte - 255).to(tl.float32) * scale)
        place = out + sample * (3 * plane) + c * plane + lane
        tl.store(place, value.to(out.dtype.element_ty), mask=wanted)


def name_of(seed: int, trial: int, device: torch.device) -> torch.Tensor:
    """Return a stream of augmentations' name: key low, key high, stream, trial; int64 (4,)."""
    return torch.tensor([*key_of(seed), AUGMENT, trial], dtype=torch.int64, device=device)


def fill(
    pool: torch.Tensor,
    indices: torch.Tensor,
    positions: torch.Tensor,
    name: torch.Tensor,
    augment: Augment,
    dtype: torch.dtype,
    channels_last: bool,
) -> torch.Tensor:
    """`augment_batch(pool[indices], ...)` in one kernel.

    pool uint8 (N, H, W, 3), contiguous; indices and positions int64 (B,); all on one GPU.
    """
    count, (_, height, width, _) = len(indices), pool.shape
    shape = (count, height, width, 3) if channels_last else (count, 3, height, width)
    out = torch.empty(shape, dtype=dtype, device=pool.device)
    if not count:  # a launch must have a program
        return out.permute(0, 3, 1, 2) if channels_last else out
    lanes = height * width * (3 if channels_last else 1)
    _fill[(count, triton.cdiv(lanes, _BLOCK))](
        pool,
        indices,
        positions,
        name,
        out,
        SCALE,
        height=height,
        width=width,
        pad=augment.pad,
        reflect=augment.reflect,
        can_flip=augment.flip,
        cutout=augment.cutout,
        channels_last=channels_last,
        block=_BLOCK,
    )
    return out.permute(0, 3, 1, 2) if channels_last else out


def cuda_pipeline(
    split: Split,
    sampler: Sampler,
    augment: Augment,
    dtype: torch.dtype,
    channels_last: bool,
    device: torch.device,
    resident: bool | None,
    gpu_decode: bool = False,
) -> "Resident | Streamed":
    """Resident where the samples fit beside a reserve (or where asked), else streamed, as
    photographs always are.
    """
    check_augment(augment, split)
    if isinstance(split.images, PhotographImages):
        if resident:
            raise ValueError("photographs are decoded as they are asked for: leave resident out")
        decoder = Decoded if gpu_decode else Streamed
        return decoder(split, sampler, augment, dtype, channels_last, device)
    if gpu_decode:
        raise ValueError(f"gpu_decode=True is for photographs, {split.name} holds none")
    height, width, channels = split.image_shape
    need = sampler.n * height * width * channels
    free, _ = torch.cuda.mem_get_info(device)
    if resident and need > free:
        raise ValueError(
            f"the pool is too large for {device}: {sampler.n:,} samples need {need / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free; take resident=False to stream them"
        )
    if resident is None:
        resident = need + _RESERVE <= free
    made = Resident if resident else Streamed
    return made(split, sampler, augment, dtype, channels_last, device)


class _OnDevice:
    def __init__(
        self,
        split: Split,
        sampler: Sampler,
        augment: Augment,
        dtype: torch.dtype,
        channels_last: bool,
        device: torch.device,
    ) -> None:
        self.split, self.sampler, self.augment = split, sampler, augment
        self.dtype, self.channels_last, self.device = dtype, channels_last, device
        self.block_samples = block_of(split, 8192)
        self.name = name_of(sampler.seed, sampler.trial, device)

    def _filled(
        self, pool: torch.Tensor, indices: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        with torch.cuda.device(self.device):
            return fill(
                pool,
                indices,
                positions,
                self.name,
                self.augment,
                self.dtype,
                self.channels_last,
            )

    def _sent(self, array: np.ndarray) -> torch.Tensor:
        """An array on the device, copied without waiting for it."""
        return torch.from_numpy(array).pin_memory().to(self.device, non_blocking=True)


class Resident(_OnDevice):
    """The sampler's samples, and the order of the current pass, live on the GPU."""

    background = False  # a launch returns at once

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        samples = self.sampler.samples
        if samples is None:
            samples = np.arange(self.sampler.n)
        shape = (self.sampler.n, *self.split.image_shape)
        self._pool = torch.empty(shape, dtype=torch.uint8, device=self.device)
        for start in range(0, self.sampler.n, _UPLOAD):
            images = self.split.gather(samples[start : start + _UPLOAD])
            self._pool[start : start + len(images)] = torch.from_numpy(images)
        self._labels = torch.from_numpy(self.split.labels[samples]).to(self.device)
        self._epoch: tuple[int, torch.Tensor] | None = None

    def make(self, positions: np.ndarray, sizes: list[int]) -> list[Batch]:
        where = self._positions(positions)
        indices = self._places(positions, where)
        images = self._filled(self._pool, indices, where)
        return batches(images, self._labels[indices], sizes)

    def finish(self, made: list[Batch]) -> Iterable[Batch]:
        return made

    def _positions(self, positions: np.ndarray) -> torch.Tensor:
        if not len(positions):  # a rank's share of a short last batch may be empty
            return self._sent(positions)
        first, last = int(positions[0]), int(positions[-1])
        if last - first == len(positions) - 1:
            return torch.arange(first, last + 1, device=self.device)
        return self._sent(positions)

    def _places(self, positions: np.ndarray, where: torch.Tensor) -> torch.Tensor:
        """Return positions among the resident samples, int64: from the pass's order on the device,
        or, where a block lies in several passes, computed here.
        """
        sampler = self.sampler
        epochs = np.unique(positions[:: max(1, len(positions) - 1)] // sampler.pass_size)
        if sampler.replace or not sampler.shuffle or len(epochs) != 1:
            return self._sent(sampler.places(positions).astype(np.int64))
        epoch = int(epochs[0])
        if self._epoch is None or self._epoch[0] != epoch:
            order = pass_order(sampler.n, sampler.seed, sampler.trial, epoch).astype(np.int64)
            self._epoch = epoch, self._sent(order)
        return self._epoch[1][where - epoch * sampler.pass_size]


class Streamed(_OnDevice):
    """Each block's bytes are gathered and sent by a thread, on a stream of their own, while the GPU
    works on the block before.
    """

    background = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._copies = torch.cuda.Stream(self.device)

    def make(self, positions: np.ndarray, sizes: list[int]) -> _Sent:
        indices = self.sampler.at(positions)
        with torch.cuda.stream(self._copies):
            sent = [
                self._pixels(positions, indices),
                self._sent(self.split.labels[indices]),
                self._sent(positions),
                torch.arange(len(indices), device=self.device),
            ]
            return sent, sizes, self._copies.record_event()

    def _pixels(self, positions: np.ndarray, indices: np.ndarray) -> torch.Tensor:
        """uint8 (N, H, W, 3) on the device, or on the way there."""
        shape = (len(indices), *self.split.image_shape)
        pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        staged(self.split, self.sampler, self.augment, positions, indices, pinned.numpy())
        return pinned.to(self.device, non_blocking=True)

    def finish(self, made: _Sent) -> Iterable[Batch]:
        sent, sizes, copied = made
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)
        for tensor in sent:
            tensor.record_stream(current)
        pool, labels, positions, indices = sent
        return batches(self._filled(pool, indices, positions), labels, sizes)


class Decoded(Streamed):
    """Photographs whose JPEGs are sent, and decoded on the GPU."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        check_nvjpeg()

    def _pixels(self, positions: np.ndarray, indices: np.ndarray) -> torch.Tensor:
        assert isinstance(self.split.images, PhotographImages)
        address = self.sampler.seed, self.sampler.trial, positions
        boxes = address if self.augment.resized_crop else None
        return gather_on_gpu(self.split.images, indices, self.device, boxes)
