"""Myrtle5 ("mCNN" in the paper's code), five layers: figures 2a, 4b, 11a, 12 and 17."""

from torch import nn

from worlds.models.layers import check_positive
from worlds.models.registry import Architecture


def myrtle5(num_classes: int, width: int = 64, batch_norm: bool = True) -> nn.Sequential:
    """Biased 3x3 convolutions on maps of 32, 32, 16 and 8 pixels, a global max, the head."""
    check_positive(width=width)
    layers: list[nn.Module] = []
    channels = 3
    for doublings in range(4):
        layers.append(nn.Conv2d(channels, width << doublings, 3, padding=1))
        channels = width << doublings
        if batch_norm:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.ReLU(inplace=True))
        if doublings in (1, 2):
            layers.append(nn.MaxPool2d(2))
    head = [nn.MaxPool2d(8), nn.Flatten(), nn.Linear(channels, num_classes)]
    return nn.Sequential(*layers, *head)


ARCHITECTURES = (Architecture("myrtle5", "myrtle", 32, myrtle5, figure="2a 4b 11a 12 17"),)
