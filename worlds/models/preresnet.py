"""Pre-activation ResNets and Wide ResNet for 32 px (He et al. 2016b; Zagoruyko and Komodakis 2016).

The paper says that its ResNets are pre-activation, and `preresnet18` is the net of figures 1, 4-6,
8, 10, 11, 15 and of its published sweep (there "resnet18k", width 64). As in its code no norm
follows the last stage; `final_norm=True` adds the usual one (1,024 more parameters at width 64).
The code's own names "resnet18" and "resnet34" are the post-activation nets, which are in resnet.py.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from worlds.models.layers import check_positive, conv, global_average, init_fan_out
from worlds.models.registry import Architecture

# depth: (bottleneck blocks, blocks a stage)
DEPTHS = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}


class BasicBlock(nn.Module):
    """Twice norm, ReLU, 3x3 convolution; a shortcut that changes shape reads the first ReLU."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        changes = stride != 1 or inputs != width
        self.shortcut = conv(inputs, width, 1, stride) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + shortcut


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each after norm and ReLU; 4 * `width` channels out."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, width, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, outputs, 1)
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv(inputs, outputs, 1, stride) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return self.conv3(F.relu(self.bn3(out))) + shortcut


class PreActResNet(nn.Module):
    """Stem without norm, stages at strides 1, 2, 2, ..., mean over the map, linear head."""

    def __init__(
        self,
        num_classes: int,
        block: type[BasicBlock] | type[Bottleneck],
        stem: int,
        stages: Sequence[tuple[int, int]],  # (width, blocks)
        final_norm: bool,
    ) -> None:
        super().__init__()
        self.stem = conv(3, stem, 3)
        channels = stem  # inputs of the next block
        layers: list[nn.Module] = []
        for stage, (width, blocks) in enumerate(stages):
            for i in range(blocks):
                # Each stage but the first begins by halving the map.
                layers.append(block(channels, width, stride=2 if stage > 0 and i == 0 else 1))
                channels = width * block.expansion
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(channels) if final_norm else None
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The paper's code has no norm at the end, the literature has one.
        x = self.blocks(self.stem(x))
        if self.norm is not None:
            x = F.relu(self.norm(x))
        return self.fc(global_average(x))


def preresnet(
    num_classes: int, depth: int, width: int = 64, final_norm: bool = False
) -> PreActResNet:
    check_positive(width=width)
    # Widths double from stage to stage.
    bottleneck, blocks = DEPTHS[depth]
    stages = [(width << stage, count) for stage, count in enumerate(blocks)]
    block = Bottleneck if bottleneck else BasicBlock
    return PreActResNet(num_classes, block, width, stages, final_norm)


def wide_resnet(num_classes: int, depth: int, widen: int) -> PreActResNet:
    """Build three groups of (depth - 4) / 6 blocks of 16, 32 and 64 times `widen` channels."""
    blocks = (depth - 4) // 6
    stages = [(width * widen, blocks) for width in (16, 32, 64)]
    model = PreActResNet(num_classes, BasicBlock, 16, stages, final_norm=True)
    init_fan_out(model)
    nn.init.zeros_(model.fc.bias)
    return model


_FIGURES = {18: "1 2a 4a 4b 5a 6 8 10 11 12 15 17 18 T1", 34: "2a 4b 11a 12 17 18"}
ARCHITECTURES = (
    *(
        Architecture(
            f"preresnet{depth}",
            "preresnet",
            32,
            preresnet,
            {"depth": depth},
            _FIGURES.get(depth, ""),
        )
        for depth in DEPTHS
    ),
    Architecture("wrn28_10", "wrn", 32, wide_resnet, {"depth": 28, "widen": 10}, "T2"),
    Architecture("wrn28_4", "wrn", 32, wide_resnet, {"depth": 28, "widen": 4}),
)
