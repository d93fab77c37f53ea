"""Parts that several families share: convolution without bias, pooling, initialization, checks."""

import torch
from torch import nn


def conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int | None = None
) -> nn.Conv2d:
    """Return a convolution without bias, by default padded so that stride 1 keeps the size."""
    padding = kernel // 2 if padding is None else padding
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)


def conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [
        conv(inputs, outputs, kernel, stride),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def global_average(x: torch.Tensor) -> torch.Tensor:
    """Return (B, C) of (B, C, H, W). A mean: adaptive pooling is not deterministic on CUDA."""
    return x.mean((2, 3))


def init_fan_out(model: nn.Module) -> None:
    """Draw convolutions from N(0, sqrt(2 / (k * k * outputs))), He's backward rule; biases 0."""
    model.fan_out_init = True  # type: ignore[assignment]  # parametrization.py reads it
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_positive(**values: object) -> None:
    """Refuse options that are not integers of at least 1, by name."""
    for name, value in values.items():
        # True is an integer to Python, not to a user.
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def check_choice(option: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{option} must be one of {', '.join(choices)}, got {value!r}")
