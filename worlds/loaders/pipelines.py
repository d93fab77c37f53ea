"""From positions in the training stream to tensors: the compiled pass on the CPU, and the slow path
for arbitrary transforms. `worlds.loaders.cuda` has the pipelines of a GPU.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import default_collate

from worlds.data.photographs import PhotographImages
from worlds.data.samples import SampleSplit
from worlds.data.splits import Pool, Split
from worlds.loaders.augment import Augment, augment_batch, normalize, visible_bytes
from worlds.loaders.normalize import Range, range_function
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
    torch.float16: np.dtype(np.int16),  # as bits, and two types by which kernels tell them apart
    torch.bfloat16: np.dtype(np.uint16),
    torch.uint8: np.dtype(np.uint8),  # the pixels themselves, normalize=None
}
_PLAIN: Final = Augment()
_CPU: Final = torch.device("cpu")
_POOLED: Final = 8  # buffers kept: those made ahead, the one in use and the one being made


@dataclass(frozen=True)
class Form:
    """The work of a pipeline on the images of a batch."""

    augment: Augment = _PLAIN
    normalize: Range = "symmetric"
    dtype: torch.dtype = torch.float32  # uint8 if normalize is None
    channels_last: bool = False  # in memory; the shape is (B, 3, H, W)
    device: torch.device = _CPU
    pin_memory: bool = False


class Pipeline:
    """Makes batches of a split at positions of a sampler's stream."""

    block_samples = 384  # how many are worth making at once
    background = True  # whether `make` belongs in a thread

    def __init__(self, split: Any, sampler: Sampler, form: Form) -> None:
        self.split, self.sampler, self.form = split, sampler, form
        if isinstance(split.images, PhotographImages):
            self.block_samples = 1  # no more than the batch needs: decoding is slow

    def make(self, positions: np.ndarray, sizes: list[int]) -> Any:
        """Make ahead what can be for batches of these sizes at `positions`, int64 (N,)."""
        raise NotImplementedError

    def finish(self, made: Any) -> Iterable[Batch]:
        """Return batches of images (B, 3, H, W) and labels int64 (B,), in the trainer's thread."""
        device = self.form.device
        return ((x.to(device, non_blocking=True), y.to(device, non_blocking=True)) for x, y in made)


def batches(images: torch.Tensor, labels: torch.Tensor, sizes: list[int]) -> list[Batch]:
    parts = images.split_with_sizes(sizes), labels.split_with_sizes(sizes)
    return list(zip(*parts, strict=True))


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


class CpuPipeline(Pipeline):
    """Gather, augment and normalize in one pass over memory."""

    def __init__(self, split: Split, sampler: Sampler, form: Form) -> None:
        check_augment(form.augment, split)
        super().__init__(split, sampler, form)
        self._dtype = torch.uint8 if form.normalize is None else form.dtype
        self._to_range = None if form.normalize is None else range_function(form.normalize, 3)
        # What the kernels take, uint64: the name of the crops, and what to do.
        seed, trial = sampler.crops
        self._name = np.array([*key_of(seed), AUGMENT, trial], dtype=np.uint64)
        augment, (height, width, _) = form.augment, split.image_shape
        options = [augment.pad, augment.reflect, augment.flip, augment.cutout]
        options += [form.channels_last, height, width]
        self._options = np.array(options, dtype=np.uint64)
        self._visible = visible_bytes(augment, height, width, form.channels_last)
        self._as_stored = form.normalize is None and form.channels_last and augment == _PLAIN
        self._buffers = BufferPool(_POOLED)

    def make(self, positions: np.ndarray, sizes: list[int]) -> list[Batch]:
        indices = self.sampler.at(positions)  # uint32 (N,)
        height, width, channels = self.split.image_shape
        flat, out = self._allocate(len(indices) * height * width * channels)
        if self._as_stored:
            self.split.gather(indices, out.reshape(len(indices), height, width, channels))
        else:
            self._fill(indices, positions, out)
        # The tensor over that memory, (N, 3, H, W) whatever the layout.
        if self.form.channels_last:
            images = flat.view(len(indices), height, width, channels).permute(0, 3, 1, 2)
        else:
            images = flat.view(len(indices), channels, height, width)
        if self._to_range is not None:
            images = self._to_range(images)
        return batches(images, torch.from_numpy(self.split.labels[indices]), sizes)

    def finish(self, made: list[Batch]) -> Iterable[Batch]:
        return made

    def _allocate(self, size: int) -> tuple[torch.Tensor, np.ndarray]:
        """Return one piece of memory as a tensor and as the array to write to."""
        # numpy has no bfloat16, and numba no float16: the same bytes as integers.
        if self.form.pin_memory:
            pinned = torch.empty(size, dtype=self._dtype, pin_memory=True)
            return pinned, pinned.view(torch.uint8).numpy().view(DTYPES[self._dtype])
        out = self._buffers.lease(size, DTYPES[self._dtype])
        return torch.from_numpy(out).view(self._dtype), out

    def _fill(self, indices: np.ndarray, positions: np.ndarray, out: np.ndarray) -> None:
        from worlds.loaders.kernels import fill

        # The kernel reads pixels where they are: in the pool, or decoded for this block.
        pixels = None  # keeps what `addresses` point to alive
        addresses = self.split.images.addresses(indices)  # uint64 (B,)
        if addresses is None:
            pixels = staged(self.split, self.sampler, self.form.augment, positions, indices)
            steps = np.arange(len(indices), dtype=np.uint64)
            addresses = np.uint64(pixels.ctypes.data) + steps * np.uint64(
                prod(self.split.image_shape)
            )
        stream = positions.view(np.uint64)
        fill(addresses, stream, self._name, self._options, self._visible, out)


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
    # Two of the words of the sample's address, as one number of 62 bits.
    drawn = words(seed, AUGMENT, trial, torch.from_numpy(positions), blocks=1)
    seeds: list[int] = (drawn[:, 0] << 31 | drawn[:, 1] >> 1).tolist()
    return seeds


def _stacked(images: list[torch.Tensor]) -> torch.Tensor:
    found = {tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__ for x in images}
    if len(found) != 1 or not isinstance(images[0], torch.Tensor):
        told = " and ".join(map(str, sorted(found, key=str)[:2]))
        raise ValueError(f"transform must give tensors, all of one size, got {told}")
    return torch.stack(images)


class ArrayPipeline(Pipeline):
    """Gather what the compiled pass is not for: gray images, features, sequences.

    Gray images are augmented and normalized by the plain torch code that the kernels are held
    equal to. Floats become `dtype`; integers stay as they are.
    """

    def __init__(self, split: Split, sampler: Sampler, form: Form) -> None:
        if split.holds_images:
            check_augment(form.augment, split)
        elif form.augment != _PLAIN:
            raise ValueError(
                f"augment is for uint8 images, {split.name} holds {split.images.dtype} "
                f"{split.image_shape}: leave augment out"
            )
        super().__init__(split, sampler, form)
        channels = split.image_shape[-1] if split.holds_images else 1
        self._to_range = range_function(form.normalize, channels)

    def make(self, positions: np.ndarray, sizes: list[int]) -> list[Batch]:
        indices, form = self.sampler.at(positions), self.form
        x = torch.from_numpy(self.split.gather(indices))  # (B, ...)
        if self.split.holds_images:
            drawn = *self.sampler.crops, torch.from_numpy(positions)
            x = augment_batch(x, form.augment, *drawn, form.dtype, form.channels_last)
        elif x.is_floating_point():
            x = x.to(form.dtype)
        if self._to_range is not None:
            x = self._to_range(x)
        return batches(x, torch.from_numpy(self.split.labels[indices]), sizes)


class _ItemPipeline(Pipeline):
    """Items made one by one, in the trainer's thread, since their code may draw from torch's global
    generator: that is seeded for each sample from its address, and put back as it was.
    """

    block_samples = 1
    background = False

    def _items(
        self, make: Callable[[Any], Any], sources: Iterable[Any], positions: np.ndarray
    ) -> list[Any]:
        # Each item sees torch's generator as its own address leaves it, whatever came before.
        seeds = transform_seeds(self.sampler, positions)
        items = []
        with torch.random.fork_rng(devices=[]):
            for source, seed in zip(sources, seeds, strict=True):
                torch.default_generator.manual_seed(seed)
                items.append(make(source))
        return items


class TransformPipeline(_ItemPipeline):
    """`transform` on each uint8 image (3, height, width), for what the compiled pass cannot do: of
    photographs, on the whole of each.
    """

    def __init__(self, split: Split, sampler: Sampler, form: Form, transform: Transform) -> None:
        super().__init__(split, sampler, form)
        self.transform = transform

    def make(self, positions: np.ndarray, sizes: list[int]) -> list[Batch]:
        indices = self.sampler.at(positions)
        # Images of bytes are normalized as the compiled pass does; floats are taken as they are.
        batch = _stacked(self._items(self.transform, _each(self.split, indices), positions))
        if batch.dtype == torch.uint8:
            batch = normalize(batch)
        layout = torch.channels_last if self.form.channels_last else torch.contiguous_format
        batch = batch.to(dtype=self.form.dtype, memory_format=layout)
        return batches(batch, torch.from_numpy(self.split.labels[indices]), sizes)


class SamplePipeline(_ItemPipeline):
    """Items of a map-style dataset."""

    def make(self, positions: np.ndarray, sizes: list[int]) -> list[Batch]:
        indices = self.sampler.at(positions).tolist()
        items = iter(self._items(self.split.__getitem__, indices, positions))
        return [collate(list(islice(items, size)), self.split) for size in sizes]


def collate(items: list[Any], split: SampleSplit) -> Batch:
    """Return the batch (x, y) of some items. Raises ValueError if they do not fit together."""
    # Pairs of values that torch can join: said of the first item that is none.
    kind = type(split.dataset).__name__
    if not all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
        found = next(type(item).__name__ for item in items)
        raise ValueError(f"items of {kind} must be pairs (x, y), got {found}")
    for column in zip(*items, strict=True):
        types = {value.dtype for value in column if isinstance(value, torch.Tensor | np.ndarray)}
        if len(types) > 1:
            raise ValueError(f"{kind} mixes {' and '.join(sorted(map(str, types)))} in one batch")
    # Join them by torch's own rule.
    try:
        x, y = default_collate(items)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{kind} gives samples that make no batch: {first_line(error)}") from error
    if not (isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)):
        raise ValueError(f"items of {kind} must be tensors, arrays or numbers, got {type(x)}")
    return x, y.float() if y.dtype == torch.float64 else y
