"""D-CONV, D-FC and S-CONV of "Towards learning convolutions from scratch" (Neyshabur 2020).

D-CONV and D-FC, its dense twin with the same number of hidden units, are figure 5c (base 32).
S-CONV, one convolution and a wide layer, is in figure 3a at 224 px with windows of 9 and 33 pixels.
D-FC has 1.17 billion parameters, S-CONV at 224 px 0.69: make them under `torch.device("meta")` to
look at them.
"""

import torch
from torch import nn

from worlds.models.layers import check_positive, conv, conv_bn_relu
from worlds.models.registry import Architecture

# The eight convolutions at 32 px: channels in units of the base, stride.
LAYERS = ((1, 1), (2, 2), (2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2))


def _dense(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Linear(inputs, outputs, bias=False),
        nn.BatchNorm1d(outputs),
        nn.ReLU(inplace=True),
    ]


def _head(features: int, hidden: int, num_classes: int) -> list[nn.Module]:
    return [*_dense(features, hidden), nn.Dropout(0.5), nn.Linear(hidden, num_classes)]


class FlattenHWC(nn.Module):
    """(B, C, H, W) to (B, H * W * C): D-FC reads its pixels channel-last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def dconv(num_classes: int, base: int = 32) -> nn.Sequential:
    check_positive(base=base)
    layers: list[nn.Module] = []
    channels = 3
    for multiple, stride in LAYERS:
        layers += conv_bn_relu(channels, multiple * base, 3, stride)
        channels = multiple * base
    features = channels * 2 * 2  # a map of 2 x 2 is left
    return nn.Sequential(*layers, nn.Flatten(), *_head(features, 64 * base, num_classes))


def dfc(num_classes: int, base: int = 32) -> nn.Sequential:
    """Build D-CONV with a dense layer between the same flattened maps for every convolution."""
    check_positive(base=base)
    layers: list[nn.Module] = [FlattenHWC()]
    features, side = 3 * 32 * 32, 32  # inputs of the next layer, side of its map
    for multiple, stride in LAYERS:
        side //= stride
        outputs = multiple * base * side * side
        layers += _dense(features, outputs)
        features = outputs
    return nn.Sequential(*layers, *_head(features, 64 * base, num_classes))


def sconv(num_classes: int, image_size: int, kernel: int, base: int) -> nn.Sequential:
    """Build one convolution of stride 2 to `base` channels, and a hidden layer of 24 * base."""
    check_positive(base=base)
    side = image_size // 2  # of the map after the stride
    return nn.Sequential(
        conv(3, base, kernel, stride=2),
        nn.BatchNorm2d(base),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        *_head(base * side * side, 24 * base, num_classes),
    )


def sconv_32(num_classes: int, kernel: int, base: int = 256) -> nn.Sequential:
    return sconv(num_classes, 32, kernel, base)


def sconv_224(num_classes: int, kernel: int, base: int = 48) -> nn.Sequential:
    return sconv(num_classes, 224, kernel, base)


ARCHITECTURES = (
    Architecture("dconv", "dconv", 32, dconv, figure="5c"),
    Architecture("dfc", "dconv", 32, dfc, figure="5c"),
    Architecture("sconv9", "sconv", 32, sconv_32, {"kernel": 9}),
    Architecture("sconv9", "sconv", 224, sconv_224, {"kernel": 9}, "3a"),
    Architecture("sconv33", "sconv", 224, sconv_224, {"kernel": 33}, "3a"),
)
