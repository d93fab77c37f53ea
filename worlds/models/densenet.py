"""DenseNet for 32 px (Huang et al. 2017) without bottleneck and compression.

Figures 2a, 4b, 11a, 12, 17 and 18.
"""

import torch
import torch.nn.functional as F
from torch import nn

from worlds.models.layers import conv, init_fan_out
from worlds.models.registry import Architecture


class DenseLayer(nn.Module):
    """Norm, ReLU, 3x3 convolution to `growth` channels, set beside the input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = conv(inputs, growth, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], dim=1)


def densenet(num_classes: int, depth: int, growth: int) -> nn.Sequential:
    """Build a stem of 2 * growth and three blocks of (depth - 4) / 3 layers; transitions halve."""
    channels = 2 * growth  # grows by `growth` with every layer
    layers: list[nn.Module] = [conv(3, channels, 3)]
    for block in range(3):
        # A transition between blocks: mix the channels, halve the map.
        if block > 0:
            layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            layers += [conv(channels, channels, 1), nn.AvgPool2d(2)]
        for _ in range((depth - 4) // 3):
            layers.append(DenseLayer(channels, growth))
            channels += growth
    layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AvgPool2d(8), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(channels, num_classes))
    init_fan_out(model)
    return model


_FIGURES = {40: "2a 4b 11a 12 17 18"}
ARCHITECTURES = tuple(
    Architecture(
        f"densenet{depth}_{growth}",
        "densenet",
        32,
        densenet,
        {"depth": depth, "growth": growth},
        _FIGURES.get(depth, ""),
    )
    for depth, growth in ((40, 12), (40, 32), (100, 12), (100, 24))
)
