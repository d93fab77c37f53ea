"""Blocks of batches on a device, and their definition in PyTorch's operations."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from worlds.loaders.augment import Augment, augment_batch, normalize
from worlds.rng.streams import AUGMENT, key_of


@dataclass(frozen=True)
class Block:
    """Some samples of a training stream, on the device: those of a row of positions from `first`,
    which begins at `start` in its pass and ends in the next one at the latest, or listed ones.
    """

    count: int
    order: torch.Tensor  # int32 (n,), of the pass; of a list int32 (count,)
    next_order: torch.Tensor
    positions: torch.Tensor | None = None  # int64 (count,), of a list
    first: int = 0
    start: int = 0
    pass_size: int = 0

    def places(self) -> torch.Tensor:
        """Return which samples of the pool, int64 (count,)."""
        if self.positions is not None:
            return self.order.long()
        # The block may run over the end of its pass into the next one.
        stop = self.start + self.count
        parts = self.order[self.start : self.pass_size], self.next_order[: stop - self.pass_size]
        return torch.cat(parts if stop > self.pass_size else [self.order[self.start : stop]]).long()

    def all_positions(self) -> torch.Tensor:
        if self.positions is not None:
            return self.positions
        return torch.arange(self.first, self.first + self.count, device=self.order.device)


def name_of(seed: int, trial: int, device: torch.device) -> torch.Tensor:
    """Return a stream of augmentations' name: key low, key high, stream, trial; int64 (4,)."""
    return torch.tensor([*key_of(seed), AUGMENT, trial], dtype=torch.int64, device=device)


def fill_plain(
    pool: torch.Tensor,
    labels: torch.Tensor,
    block: Block,
    stream: tuple[int, int],
    augment: Augment,
    to_range: Callable[[torch.Tensor], torch.Tensor] | None,
    dtype: torch.dtype,
    channels_last: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images (B, 3, H, W) and labels (B,) of a block by PyTorch's operations; `stream`
    is (seed, trial), `to_range` takes the images from [-1, 1] to another range.
    """
    places, positions = block.places(), block.all_positions()
    images = augment_batch(pool[places], augment, *stream, positions, dtype, channels_last)
    return images if to_range is None else to_range(images), labels[places]


def value_table(
    to_range: Callable[[torch.Tensor], torch.Tensor] | None, dtype: torch.dtype
) -> torch.Tensor | None:
    """Return what `to_range` makes of each channel's 256 values and of a hole, (3, 257), in its own
    type; None without a range to go to.
    """
    if to_range is None:
        return None
    values = normalize(torch.arange(256, dtype=torch.uint8), dtype)  # (256,)
    values = torch.cat([values, torch.zeros(1, dtype=dtype)])  # 256 is the hole of cutout
    return to_range(values.view(1, 1, 257, 1).repeat(1, 3, 1, 1)).view(3, 257)
