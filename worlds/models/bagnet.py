"""BagNets (Brendel and Bethge 2019): ResNet-50s that see 9, 17 or 33 pixels; figure 3a.

The 3x3 convolutions are valid ones and stand only in the first block of some stages, so a unit of
the last map knows only its window; the shortcut is cut at the bottom and right to fit.
"""

import torch
import torch.nn.functional as F
from torch import nn

from worlds.models.layers import conv, global_average, init_fan_out
from worlds.models.registry import Architecture

STAGES = ((64, 3, 2), (128, 4, 2), (256, 6, 2), (512, 3, 1))  # width, blocks, stride
WINDOWED_STAGES = {9: 2, 17: 3, 33: 4}  # window: how many stages begin with a 3x3 block
EXPANSION = 4


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, kernel: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, kernel, stride, padding=0)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        height, width = out.shape[2:]
        return F.relu(out + shortcut[:, :, :height, :width])


class BagNet(nn.Module):
    """Features by window, their mean over the map, the linear head."""

    def __init__(self, features: nn.Sequential, fc: nn.Linear) -> None:
        super().__init__()
        self.features = features
        self.fc = fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(global_average(self.features(x)))


def bagnet(num_classes: int, window: int) -> BagNet:
    layers: list[nn.Module] = [
        conv(3, 64, 1),
        conv(64, 64, 3, padding=0),
        nn.BatchNorm2d(64, momentum=0.001),
        nn.ReLU(inplace=True),
    ]
    channels = 64
    for stage, (width, blocks, stride) in enumerate(STAGES):
        for i in range(blocks):
            windowed = i == 0 and stage < WINDOWED_STAGES[window]
            kernel = 3 if windowed else 1
            layers.append(Bottleneck(channels, width, stride if i == 0 else 1, kernel))
            channels = width * EXPANSION
    model = BagNet(nn.Sequential(*layers), nn.Linear(channels, num_classes))
    init_fan_out(model)
    return model


ARCHITECTURES = tuple(
    Architecture(f"bagnet{window}", "bagnet", 224, bagnet, {"window": window}, "3a")
    for window in WINDOWED_STAGES
)
