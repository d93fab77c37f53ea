"""The paper's architectures by name. `worlds-models` lists them."""

from worlds.models import (
    bagnet,
    darts,
    densenet,
    igpt,
    imagenet,
    mlp,
    neyshabur,
    preresnet,
    resnet,
    vgg,
    vit,
)
from worlds.models.measure import Row, describe, multiply_adds, parameter_count
from worlds.models.registry import (
    Architecture,
    Pattern,
    architectures,
    create,
    find,
    list_models,
    register,
)

__all__ = [
    "Architecture",
    "Pattern",
    "Row",
    "architectures",
    "create",
    "describe",
    "find",
    "list_models",
    "multiply_adds",
    "parameter_count",
    "register",
]

for _family in (
    preresnet,
    resnet,
    vgg,
    densenet,
    mlp,
    vit,
    neyshabur,
    darts,
    igpt,
    imagenet,
    bagnet,
):
    for _architecture in _family.ARCHITECTURES:
        register(_architecture)
for _pattern in mlp.PATTERNS:
    register(_pattern)
