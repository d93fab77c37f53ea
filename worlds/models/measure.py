"""Measure a network: parameters, and multiply-adds of one image's forward pass.

Counted on the meta device, so that billion-parameter networks cost nothing to look at.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from worlds.models.registry import TABLE_CLASSES, Architecture, create


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def multiply_adds(model: nn.Module, image_size: int) -> int:
    """Count multiply-adds of convolutions, linear layers and attention on one image; `model` is on
    the meta device.

    Causal attention counts as if it were full.
    """
    from torch.utils.flop_counter import FlopCounterMode

    # torch counts two operations a multiply-add.
    counter = FlopCounterMode(display=False)
    training = model.training
    model.eval()
    with counter, torch.no_grad():
        model(torch.empty(1, 3, image_size, image_size, device="meta"))
    model.train(training)
    return counter.get_total_flops() // 2


@dataclass(frozen=True)
class Row:
    """One line of the suite's table."""

    name: str
    family: str
    image_size: int
    num_classes: int
    parameters: int
    multiply_adds: int
    figure: str


def describe(architecture: Architecture, num_classes: int | None = None, **options: Any) -> Row:
    """Return a network's row; by default with the classes of the paper's data at its image size."""
    # On the meta device nothing is allocated.
    a = architecture
    classes = TABLE_CLASSES.get(a.image_size, 10) if num_classes is None else num_classes
    with torch.device("meta"):
        model = create(a.name, classes, a.image_size, **options)
        macs = multiply_adds(model, a.image_size)
    return Row(a.name, a.family, a.image_size, classes, parameter_count(model), macs, a.figure)
