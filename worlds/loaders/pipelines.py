"""From positions in the training stream to tensors: the compiled pass on the CPU, and the slow path
for arbitrary transforms. `worlds.loaders.cuda` has the pipelines of a GPU.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch.utils.data import default_collate

from worlds.data.photographs import PhotographImages
from worlds.data.samples import SampleSplit
from worlds.data.splits import Pool, Split
from worlds.loaders.augment import Augment, augment_batch, normalize
from worlds.loaders.samplers import Sampler
from worlds.rng.philox import words
from worlds.rng.streams import AUGMENT, key_of
from worlds.runtime.errors import first_line
from worlds.runtime.prefetch import BufferPool
from worlds.runtime.processes import cpu_count

Batch = tuple[torch.Tensor, torch.Tensor]
Transform = Callable[[torch.Tensor], torch.Tensor]

DTYPES: Final[dict[torch.dtype, np.dtype]] = {
    torch.float32: np.dtype(np.float32),
    torch.float16: np.dtype(np.uint16),  # as bits: numba has no 16-bit floats
    torch.bfloat16: np.dtype(np.uint16),
    torch.uint8: np.dtype(np.uint8),  # the pixels themselves, normalize=None
}
_SMALL: Final = (torch.float16, torch.bfloat16, torch.uint8)  # in the order of the kernel's kinds
_POOLED: Final = 8  # buffers kept: those made ahead, the one in use and the one being made


class Pipeline(Protocol):
    block_samples: int  # how many samples are worth making at once
    background: bool  # whether `make` belongs in a thread

    def make(self, positions: np.ndarray, sizes: list[int]) -> Any:
        """Make ahead what can be for batches of these sizes at `positions`, int64 (N,)."""

    def finish(self, made: Any) -> Iterable[Batch]:
        """Return batches of images (B, 3, H, W) and labels int64 (B,), in the trainer's thread."""


def batches(images: torch.Tensor, labels: torch.Tensor, sizes: list[int]) -> list[Batch]:
    return list(zip(images.split(sizes), labels.split(sizes), strict=True))


def check_augment(augment: Augment, split: Split) -> None:
    """Raises ValueError if the images of a split cannot be augmented so."""
    height, width, _ = split.image_shape
    photographs = isinstance(split.images, PhotographImages)
    if photographs and augment.pad:
        raise ValueError(
            f"{split.name} holds photographs, whose crop is resized_crop=True: pad must be 0, "
            f"got {augment.pad}"
        )
    if augment.resized_crop and not photographs:
        raise ValueError(
            f"resized_crop=True is for photographs, {split.name} holds images of {height} x "
            f"{width}: take pad"
        )
    augment.check_size(height, width)


def default_threads(split: Pool) -> int:
    """Return 2, which keep up with a trainer, or one a CPU if photographs must be decoded."""
    return cpu_count() if isinstance(split.images, PhotographImages) else 2


def block_of(split: Split, samples: int) -> int:
    """Return how many samples to make at once: of photographs no more than the batch needs."""
    return 1 if isinstance(split.images, PhotographImages) else samples


def staged(
    split: Split,
    sampler: Sampler,
    augment: Augment,
    positions: np.ndarray,
    indices: np.ndarray,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return the pixels before flip, padded crop and normalization, uint8 (N, H, W, 3)."""
    if not augment.resized_crop:
        return split.gather(indices, out)
    assert isinstance(split.images, PhotographImages)
    if out is None:
        out = np.empty((len(indices), *split.image_shape), np.uint8)
    split.images.gather_crops(indices, positions, *sampler.crops, out)
    return out


class CpuPipeline:
    """Gather, augment and normalize in one pass over memory."""

    background = True

    def __init__(
        self,
        split: Split,
        sampler: Sampler,
        augment: Augment,
        dtype: torch.dtype,
        channels_last: bool,
        pin_memory: bool,
    ) -> None:
        check_augment(augment, split)
        height, width, _ = split.image_shape
        self.block_samples = block_of(split, 256)
        self.split, self.sampler, self.augment = split, sampler, augment
        self.dtype, self.channels_last, self.pin_memory = dtype, channels_last, pin_memory
        seed, trial = sampler.crops
        self._name = np.array([*key_of(seed), AUGMENT, trial], dtype=np.uint64)
        self._options = np.array(
            [
                augment.pad,
                augment.reflect,
                augment.flip,
                augment.cutout,
                channels_last,
                height,
                width,
            ],
            dtype=np.uint64,
        )
        self._as_stored = dtype == torch.uint8 and channels_last and augment == Augment()
        self._buffers = BufferPool(_POOLED)

    def make(self, positions: np.ndarray, sizes: list[int]) -> list[Batch]:
        indices = self.sampler.at(positions)
        height, width, channels = self.split.image_shape
        pixels = None  # keeps what `addresses` point to alive
        addresses = self.split.images.addresses(indices)
        if addresses is None:
            pixels = staged(self.split, self.sampler, self.augment, positions, indices)
            steps = np.arange(len(indices), dtype=np.uint64)
            addresses = np.uint64(pixels.ctypes.data) + steps * np.uint64(height * width * channels)
        flat, out = self._allocate(len(indices) * height * width * channels)
        if self._as_stored:
            self.split.gather(indices, out.reshape(len(indices), height, width, channels))
        else:
            self._fill(addresses, positions.astype(np.uint64), out)
        if self.channels_last:
            images = flat.view(len(indices), height, width, channels).permute(0, 3, 1, 2)
        else:
            images = flat.view(len(indices), channels, height, width)
        return batches(images, torch.from_numpy(self.split.labels[indices]), sizes)

    def finish(self, made: list[Batch]) -> Iterable[Batch]:
        return made

    def _allocate(self, size: int) -> tuple[torch.Tensor, np.ndarray]:
        """Return one piece of memory as a tensor of `dtype` and as the array to write to."""
        if self.pin_memory:
            pinned = torch.empty(size, dtype=self.dtype, pin_memory=True)
            return pinned, pinned.view(torch.uint8).numpy().view(DTYPES[self.dtype])
        out = self._buffers.lease(size, DTYPES[self.dtype])
        return torch.from_numpy(out).view(self.dtype), out

    def _fill(self, addresses: np.ndarray, positions: np.ndarray, out: np.ndarray) -> None:
        from worlds.loaders.kernels import fill_float32, fill_small

        if self.dtype == torch.float32:
            fill_float32(addresses, positions, self._name, self._options, out)
        else:
            kind = _SMALL.index(self.dtype)
            fill_small(addresses, positions, self._name, self._options, kind, out)


def _each(split: Split, indices: np.ndarray) -> Iterator[torch.Tensor]:
    """Yield each image, uint8 (3, H, W)."""
    pixels: Iterable[np.ndarray] = (
        split.images.whole(indices)
        if isinstance(split.images, PhotographImages)
        else split.gather(indices)
    )
    return (torch.tensor(image).permute(2, 0, 1).contiguous() for image in pixels)


def transform_seeds(sampler: Sampler, positions: np.ndarray) -> list[int]:
    """Return the seed of torch's generator for the sample at each position."""
    seed, trial = sampler.crops
    drawn = words(seed, AUGMENT, trial, torch.from_numpy(positions), blocks=1)
    seeds: list[int] = (drawn[:, 0] << 31 | drawn[:, 1] >> 1).tolist()
    return seeds


def _stacked(images: list[torch.Tensor]) -> torch.Tensor:
    found = {tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__ for x in images}
    if len(found) != 1 or not isinstance(images[0], torch.Tensor):
        told = " and ".join(map(str, sorted(found, key=str)[:2]))
        raise ValueError(f"transform must give tensors, all of one size, got {told}")
    return torch.stack(images)


class ArrayPipeline:
    """Gather what the compiled pass is not for: gray images, features, sequences.

    Gray images are augmented and normalized by the plain torch code that the kernels are held
    equal to. Floats become `dtype`; integers stay as they are.
    """

    background = True

    def __init__(
        self,
        split: Split,
        sampler: Sampler,
        augment: Augment,
        dtype: torch.dtype,
        channels_last: bool,
        device: torch.device,
    ) -> None:
        if split.holds_images:
            check_augment(augment, split)
        elif augment != Augment():
            raise ValueError(
                f"augment is for uint8 images, {split.name} holds {split.images.dtype} "
                f"{split.image_shape}: leave augment out"
            )
        self.split, self.sampler, self.augment = split, sampler, augment
        self.dtype, self.channels_last, self.device = dtype, channels_last, device
        self.block_samples = block_of(split, 256)

    def make(self, positions: np.ndarray, sizes: list[int]) -> list[Batch]:
        indices = self.sampler.at(positions)
        x = torch.from_numpy(self.split.gather(indices))  # (B, ...)
        if self.split.holds_images:
            drawn = *self.sampler.crops, torch.from_numpy(positions)
            x = augment_batch(x, self.augment, *drawn, self.dtype, self.channels_last)
        elif x.is_floating_point():
            x = x.to(self.dtype)
        return batches(x, torch.from_numpy(self.split.labels[indices]), sizes)

    def finish(self, made: list[Batch]) -> Iterable[Batch]:
        return [(x.to(self.device), y.to(self.device)) for x, y in made]


class TransformPipeline:
    """`transform` on each uint8 image (3, height, width), for what the compiled pass cannot do: of
    photographs, on the whole of each.

    It runs in the trainer's thread, since transforms draw from torch's global generator: that is
    seeded for each sample from its address, and put back as it was.
    """

    block_samples = 1
    background = False

    def __init__(
        self,
        split: Split,
        sampler: Sampler,
        transform: Transform,
        dtype: torch.dtype,
        channels_last: bool,
        device: torch.device,
    ) -> None:
        self.split, self.sampler, self.transform = split, sampler, transform
        self.dtype, self.device = dtype, device
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def make(self, positions: np.ndarray, sizes: list[int]) -> list[Batch]:
        indices = self.sampler.at(positions)
        images = _each(self.split, indices)
        seeds = transform_seeds(self.sampler, positions)
        transformed = []
        with torch.random.fork_rng(devices=[]):
            for image, seed in zip(images, seeds, strict=True):
                torch.default_generator.manual_seed(seed)
                transformed.append(self.transform(image))
        batch = _stacked(transformed)
        if batch.dtype == torch.uint8:
            batch = normalize(batch)
        batch = batch.to(self.device, self.dtype, memory_format=self.layout)
        labels = torch.from_numpy(self.split.labels[indices]).to(self.device)
        return batches(batch, labels, sizes)

    def finish(self, made: list[Batch]) -> Iterable[Batch]:
        return made


class SamplePipeline:
    """Items of a map-style dataset.

    Items are made in the trainer's thread, since random transforms draw from torch's global
    generator: that is seeded for each sample from its address, and put back as it was.
    """

    block_samples = 1
    background = False

    def __init__(self, split: SampleSplit, sampler: Sampler, device: torch.device) -> None:
        self.split, self.sampler, self.device = split, sampler, device

    def make(self, positions: np.ndarray, sizes: list[int]) -> list[Batch]:
        indices = self.sampler.at(positions)
        return [self._collated(*part) for part in _parts(positions, indices, sizes)]

    def finish(self, made: list[Batch]) -> Iterable[Batch]:
        return ((x.to(self.device), y.to(self.device)) for x, y in made)

    def _collated(self, positions: np.ndarray, indices: np.ndarray) -> Batch:
        seeds, items = transform_seeds(self.sampler, positions), []
        with torch.random.fork_rng(devices=[]):
            for index, seed in zip(indices.tolist(), seeds, strict=True):
                torch.default_generator.manual_seed(seed)
                items.append(self.split.dataset[index])
        return collate(items, self.split)


def collate(items: list[Any], split: SampleSplit) -> Batch:
    """The batch (x, y) of some items. Raises ValueError if they are no pairs, or do not fit."""
    kind = type(split.dataset).__name__
    if not all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
        found = next(type(item).__name__ for item in items)
        raise ValueError(f"items of {kind} must be pairs (x, y), got {found}")
    for column in zip(*items, strict=True):
        types = {value.dtype for value in column if isinstance(value, torch.Tensor | np.ndarray)}
        if len(types) > 1:
            raise ValueError(f"{kind} mixes {' and '.join(sorted(map(str, types)))} in one batch")
    try:
        x, y = default_collate(items)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{kind} gives samples that make no batch: {first_line(error)}") from error
    if not (isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)):
        raise ValueError(f"items of {kind} must be tensors, arrays or numbers, got {type(x)}")
    return x, y.float() if y.dtype == torch.float64 else y


def _parts(
    positions: np.ndarray, indices: np.ndarray, sizes: list[int]
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    borders = np.cumsum(sizes)[:-1]
    return zip(np.split(positions, borders), np.split(indices, borders), strict=True)
