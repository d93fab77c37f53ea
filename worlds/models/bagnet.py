"""BagNets (Brendel and Bethge 2019): ResNet-50s that see 9, 17 or 33 pixels; figure 3a.

The 3x3 convolutions are valid ones and stand only in the first block of some stages, so a unit of
the last map knows only its window.
"""

import torch
from torch import nn

from worlds.models.layers import conv, global_average, init_fan_out
from worlds.models.registry import Architecture
from worlds.models.resnet import Bottleneck

STAGES = ((64, 3, 2), (128, 4, 2), (256, 6, 2), (512, 3, 1))  # width, blocks, stride
WINDOWED_STAGES = {9: 2, 17: 3, 33: 4}  # window: how many stages begin with a 3x3 block


class BagNet(nn.Module):
    """Features by window, their mean over the map, the linear head."""

    def __init__(self, features: nn.Sequential, fc: nn.Linear) -> None:
        super().__init__()
        self.features = features
        self.fc = fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(global_average(self.features(x)))


def bagnet(num_classes: int, window: int) -> BagNet:
    # The stem sees 3 x 3 pixels; each windowed block adds to that.
    layers: list[nn.Module] = [
        conv(3, 64, 1),
        conv(64, 64, 3, padding=0),
        nn.BatchNorm2d(64, momentum=0.001),
        nn.ReLU(inplace=True),
    ]
    channels = 64  # outputs of the stem
    for stage, (width, blocks, stride) in enumerate(STAGES):
        for i in range(blocks):
            windowed = i == 0 and stage < WINDOWED_STAGES[window]
            kernel = 3 if windowed else 1
            layers.append(Bottleneck(channels, width, stride if i == 0 else 1, kernel, padding=0))
            channels = width * Bottleneck.expansion
    model = BagNet(nn.Sequential(*layers), nn.Linear(channels, num_classes))
    init_fan_out(model)
    return model


ARCHITECTURES = tuple(
    Architecture(f"bagnet{window}", "bagnet", 224, bagnet, {"window": window}, "3a")
    for window in WINDOWED_STAGES
)
