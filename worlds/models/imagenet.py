"""torchvision's own networks for 224 px, untrained: figures 3a and 3b of the paper (DogBird).

torchvision is imported when a network is made, not with this module.
"""

from typing import Any

from torch import nn

from worlds.models.registry import Architecture
from worlds.models.resnet import photograph_resnet18

NAMES = (
    "resnet34",
    "resnet50",
    "resnext50_32x4d",
    "densenet121",
    "mobilenet_v2",
    "vgg11",
    "vgg16",
    "alexnet",
)


def torchvision_model(num_classes: int, name: str) -> nn.Module:
    import worlds.runtime.torchvision_ops  # noqa: F401, I001  (must come before torchvision)
    import torchvision

    # No pretrained weights: the paper trains from scratch.
    builder: Any = torchvision.models.get_model_builder(name)
    model: nn.Module = builder(weights=None, num_classes=num_classes)
    return model


def resnet18(num_classes: int, width: int = 64) -> nn.Module:
    """Build torchvision's at width 64, else the same net of another width (figure 3b: 8 to 96)."""
    if width == 64:
        return torchvision_model(num_classes, "resnet18")
    return photograph_resnet18(num_classes, width)


ARCHITECTURES = (
    Architecture("resnet18", "torchvision", 224, resnet18, figure="3a 3b"),
    *(
        Architecture(name, "torchvision", 224, torchvision_model, {"name": name}, "3a")
        for name in NAMES
    ),
)
