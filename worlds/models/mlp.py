"""Fully connected nets, MLP[depth x width] of figures 1, 2a, 3a, 4b, 8, 10-12, 14 and 16-18.

Any mlp_{depth}x{width} is a name, at any image size; "linear" has no hidden layer.
"""

import re

from torch import nn

from worlds.models.layers import check_positive
from worlds.models.registry import Architecture, Pattern


def mlp(
    num_classes: int,
    image_size: int,
    depth: int,
    width: int,
    batch_norm: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Build `depth` times linear, norm, ReLU and, where it is above 0, dropout, over the image
    flattened in CHW order, and the linear head.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    layers: list[nn.Module] = [nn.Flatten()]
    features = 3 * image_size * image_size  # inputs of the next layer
    for _ in range(depth):
        layers.append(nn.Linear(features, width))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU(inplace=True))
        if dropout:
            layers.append(nn.Dropout(dropout))
        features = width
    return nn.Sequential(*layers, nn.Linear(features, num_classes))


def _architecture(depth: int, width: int, image_size: int, figure: str = "") -> Architecture:
    fixed = {"image_size": image_size, "depth": depth, "width": width}
    return Architecture(f"mlp_{depth}x{width}", "mlp", image_size, mlp, fixed, figure)


def _match(name: str, image_size: int) -> Architecture | None:
    found = re.fullmatch(r"mlp_(\d+)x(\d+)", name)
    if found is None:
        return None
    depth, width = int(found[1]), int(found[2])
    check_positive(depth=depth, width=width, image_size=image_size)
    return _architecture(depth, width, image_size)


def _match_linear(name: str, image_size: int) -> Architecture | None:
    fixed = {"image_size": image_size, "depth": 0, "width": 1}
    return Architecture(name, "mlp", image_size, mlp, fixed) if name == "linear" else None


ARCHITECTURES = (
    _architecture(3, 128, 32, "2a 4b 11a 12 17 18"),
    _architecture(3, 2048, 32, "2a 4b 10 11a 12 14 17 18"),
    _architecture(5, 2048, 32, "1 8 16"),
    _architecture(3, 2048, 224, "3a 14"),
)
PATTERNS = (Pattern("mlp_{depth}x{width}", _match), Pattern("linear", _match_linear))
