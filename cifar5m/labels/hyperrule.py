"""BiT-HyperRule: how Kolesnikov et al. (arXiv:1912.11370, section 3.3) fine-tune, on small images.

All of it follows from the size of the training set; the numbers are those of their released code
(google-research/big_transfer: bit_hyperrule.py, bit_pytorch/train.py).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F

# Below this many images: the end of the warm-up, the steps after which the rate falls to a tenth,
# and the end.
_SCHEDULES: Final = (
    (20_000, (100, 200, 300, 400, 500)),
    (500_000, (500, 3_000, 6_000, 9_000, 10_000)),
    (None, (500, 6_000, 12_000, 18_000, 20_000)),
)
_MIXED_FROM: Final = 20_000  # images
MIXUP: Final = 0.1
MOMENTUM: Final = 0.9


def schedule_of(images: int, steps: int | None = None) -> tuple[int, ...]:
    """Return the end of warm-up, three falls, and the end: the rule's, stretched to `steps`.

    >>> schedule_of(50_000)
    (500, 3000, 6000, 9000, 10000)
    """
    rule = next(row for limit, row in _SCHEDULES if limit is None or images < limit)
    if steps is None:
        return rule
    return tuple(round(milestone * steps / rule[-1]) for milestone in rule)


def learning_rate(step: int, base: float, schedule: tuple[int, ...]) -> float:
    """Return a step's rate: linear from 0 in the warm-up, then a tenth after each milestone."""
    # A rate of 0 at the first step, as in the released code.
    warm_up, *falls, _ = schedule
    if step < warm_up:
        return base * step / warm_up
    return base / 10 ** sum(step > fall for fall in falls)


def mixup_of(images: int) -> float:
    """Return the parameter of mixup's Beta distribution, 0 for none."""
    return MIXUP if images >= _MIXED_FROM else 0.0


@dataclass(frozen=True)
class Draws:
    """Random draws of one step, a function of (seed, step)."""

    top: np.ndarray  # int (B,), in [0, room]
    left: np.ndarray  # int (B,)
    flip: np.ndarray  # bool (B,)
    mix: float  # share of the image itself
    other: np.ndarray  # int (B,), a permutation: whose image makes up the rest


def draws(seed: int, step: int, batch: int, room: int, mixup: float) -> Draws:
    """Return the draws of one step; `room` is how far a crop can move."""
    random = np.random.Generator(np.random.Philox(key=[seed, step]))  # addressed by (seed, step)
    return Draws(
        top=random.integers(0, room + 1, batch),
        left=random.integers(0, room + 1, batch),
        flip=random.random(batch) < 0.5,
        mix=float(random.beta(mixup, mixup)) if mixup > 0 else 1.0,
        other=random.permutation(batch),
    )


def augmented(images: torch.Tensor, drawn: Draws, size: int, room: int) -> torch.Tensor:
    """Enlarge, crop and flip uint8 (B, H, W, 3) to float32 (B, 3, size, size) in [0, 1]."""
    x = images.permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
    x = F.interpolate(x, (size + room, size + room), mode="bilinear", antialias=True)
    # A crop at each image's own place, then the flips.
    places = zip(x, drawn.top.tolist(), drawn.left.tolist(), strict=True)
    x = torch.stack([one[:, t : t + size, left : left + size] for one, t, left in places])
    flip = torch.from_numpy(drawn.flip).to(x.device).view(-1, 1, 1, 1)
    return torch.where(flip, x.flip(3), x)


def mixed(x: torch.Tensor, drawn: Draws) -> torch.Tensor:
    """Mix each image with another one of its batch: mixup (arXiv:1710.09412)."""
    if drawn.mix == 1.0:
        return x
    return drawn.mix * x + (1 - drawn.mix) * x[torch.from_numpy(drawn.other).to(x.device)]


def mixed_loss(
    logits: torch.Tensor, labels: torch.Tensor, others: torch.Tensor, mix: float
) -> torch.Tensor:
    """Return the sum over images of the cross-entropies with both labels, by their shares."""
    first = F.cross_entropy(logits, labels, reduction="sum")
    return mix * first + (1 - mix) * F.cross_entropy(logits, others, reduction="sum")
