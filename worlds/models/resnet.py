"""Post-activation ResNets (He et al. 2016a): 32 px, the width-varying 224 px one, ResNeXt-29.

`resnet18` and `resnet34` are what the paper's code calls by these names at 32 px, although its text
says pre-activation (preresnet.py). At 224 px the code uses torchvision's nets; torchvision fixes
the width at 64, so figure 3b's ResNet-18 of widths 8 to 96 is ours. Modules are named as
torchvision's, and weights of width 64 load both ways.
"""

import torch
import torch.nn.functional as F
from torch import nn

from worlds.models.layers import check_positive, conv, conv_bn_relu, global_average, init_fan_out
from worlds.models.preresnet import DEPTHS
from worlds.models.registry import Architecture


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + shortcut)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(
        self, inputs: int, width: int, stride: int, kernel: int = 3, padding: int | None = None
    ) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, kernel, stride, padding)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _downsample(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        height, width = out.shape[2:]
        # Without padding (bagnet.py) the map shrinks: the shortcut is cut at the bottom and right.
        return F.relu(out + shortcut[:, :, :height, :width])


class ResNet(nn.Module):
    """Stages of 1, 2, 4 and 8 times `width`; for photographs the stem is 7x7 and a pool."""

    def __init__(self, num_classes: int, depth: int, width: int, photographs: bool) -> None:
        super().__init__()
        # Stem: 3 x 3 at 32 px, 7 x 7 and a pool for photographs.
        bottleneck, blocks = DEPTHS[depth]
        block = Bottleneck if bottleneck else BasicBlock
        self.conv1 = conv(3, width, 7, 2) if photographs else conv(3, width, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if photographs else nn.Identity()
        channels = width  # inputs of the next block
        # Four stages; each but the first begins by halving the map.
        stages: list[nn.Sequential] = []
        for stage, count in enumerate(blocks):
            layers: list[nn.Module] = []
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                layers.append(block(channels, width << stage, stride))
                channels = (width << stage) * block.expansion
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(global_average(x))


def resnet(num_classes: int, depth: int, width: int = 64) -> ResNet:
    check_positive(width=width)
    return ResNet(num_classes, depth, width, photographs=False)


def photograph_resnet18(num_classes: int, width: int) -> ResNet:
    """Build figure 3b's net for 224 px: torchvision's ResNet-18 with another width."""
    check_positive(width=width)
    model = ResNet(num_classes, 18, width, photographs=True)
    init_fan_out(model)
    return model


class ResNeXtBlock(nn.Module):
    """A bottleneck whose 3x3 convolution is in groups; half as many channels out as inside."""

    def __init__(self, inputs: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *conv_bn_relu(inputs, width, 1),
            nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            conv(width, width // 2, 1),
            nn.BatchNorm2d(width // 2),
        )
        self.downsample = _downsample(inputs, width // 2, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.residual(x) + shortcut)


def resnext29(num_classes: int) -> nn.Sequential:
    """Build ResNeXt-29 8x64d (Xie et al. 2017): eight groups of 64, 128 and 256 channels."""
    layers = conv_bn_relu(3, 64, 3)
    channels = 64  # inputs of the next block
    for stage in range(3):
        for i in range(3):
            stride = 2 if stage > 0 and i == 0 else 1
            layers.append(ResNeXtBlock(channels, 512 << stage, stride, groups=8))
            channels = 256 << stage
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    return nn.Sequential(*layers, *head)


ARCHITECTURES = (
    *(Architecture(f"resnet{d}", "resnet", 32, resnet, {"depth": d}) for d in (18, 34, 50)),
    Architecture("resnext29_8x64d", "resnet", 32, resnext29),
)
