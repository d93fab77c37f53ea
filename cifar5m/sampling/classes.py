"""The class that a conditional generator is asked for: a pure function of (seed, image index).

Images are counted in blocks of as many as there are classes. Every block holds each class once, in
an order of its own, so that any run of whole blocks is balanced exactly.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cifar5m.weights.sources import WeightsError
from worlds.rng.philox import words
from worlds.rng.streams import CLASS

UNGUIDED = 1.0  # the guidance that leaves a conditional prediction as it is


@dataclass(frozen=True)
class Conditioning:
    """The request of classes from a network, as a plan records it."""

    classes: int
    guidance: float = UNGUIDED  # prediction = null + guidance * (conditional - null)
    null_class: int | None = None  # the embedding that means "no class", where there is one

    def __post_init__(self) -> None:
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise ValueError(f"guidance must be a number of at least 0, got {self.guidance}")
        if self.is_guided and self.null_class is None:
            raise ValueError(
                f"guidance={self.guidance:g} needs an embedding for no class after the "
                f"{self.classes} of the classes, this generator has none: leave it at 1"
            )

    @property
    def is_guided(self) -> bool:
        return self.guidance != UNGUIDED

    @property
    def calls_per_step(self) -> int:
        """Network calls of one image in one sampler step."""
        return 2 if self.is_guided else 1


def image_classes(seed: int, index: torch.Tensor, classes: int) -> torch.Tensor:
    """Return the class of each image, int64 (N,), for image indices int64 (N,), on their device.

    The order within a block is that of as many Philox words; of equal words (once in some 10^8
    blocks) the lower class comes first.
    """
    block, position = index // classes, index % classes  # (N,) each
    drawn = words(seed, CLASS, 0, block, -(-classes // 4))[:, :classes]  # (N, classes)
    order = drawn.argsort(dim=1, stable=True)
    return order.gather(1, position.unsqueeze(1)).squeeze(1)


def conditioning_of(
    config: Mapping[str, Any] | None, classes: int, guidance: float, source: str
) -> Conditioning | None:
    """Return how a U-Net with this diffusers config takes classes, None if it takes none.

    Raises ValueError if it has embeddings of other classes, or no use for the guidance.
    """
    # No embeddings at all, embeddings of numbers, or a table of classes.
    config = config or {}
    kind, count = config.get("class_embed_type"), config.get("num_class_embeds")
    if kind is None and count is None:
        if guidance != UNGUIDED:
            raise ValueError(
                f"guidance={guidance:g} needs class embeddings, the generator {source} has none: "
                f"leave it at 1"
            )
        return None
    if kind == "timestep":  # classes are embedded as numbers, as time is; there is no table
        return Conditioning(classes, guidance)
    if kind is not None or count not in (classes, classes + 1):
        found = f"{count} class embeddings" if kind is None else f"class_embed_type {kind!r}"
        raise WeightsError(
            f"the generator {source} has {found}, expected {classes} (one a class) or "
            f"{classes + 1} (the last for no class)"
        )
    return Conditioning(classes, guidance, classes if count > classes else None)
