"""Width parametrizations: how initial weights and learning rates follow a network's width.

    create("mlp_3x1024", parametrization="mup", base_width=128, batch_norm=False)
    create("preresnet18", width=16, parametrization="mean_field", gamma=0.5)

"standard" is torch's: initial variances fall as 1 / fan-in, one learning rate. "mup" is the maximal
update parametrization (Yang et al. 2022, Tensor Programs V, arXiv 2203.03466, table 3; table 8 is
the same by its lemma J.1, and the `mup` package's form). "mean_field" adds the richness gamma
(Bordelon and Pehlevan 2022, arXiv 2205.09653; Atanasov et al. 2024, arXiv 2410.04642): outputs are
divided by gamma and learning rates multiplied by gamma^2, of Adam by gamma, so that outputs move as
fast; `centered` subtracts the outputs at the beginning. With gamma 1, not centered, it is "mup".

At `base_width` all of them are the standard network, and the others count from there: `fan_in` and
`fan_out` below are ratios to that network's. Features move as much at every width, so the learning
rate that is best for a narrow network is near the best of a wide one.
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from worlds.models.layers import check_choice, check_positive

PARAMETRIZATIONS: Final = ("standard", "mup", "mean_field")
OPTIONS: Final = ("parametrization", "base_width", "gamma", "centered")  # of `create`
_LAYERS: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

# Exponents of (fan_in, fan_out) in the learning rate, table 3; biases, norms and embeddings, which
# grow in one direction, are input weights. Adam's column holds for all that normalize each entry,
# and for Muon scaled to Adam's step (Liu et al. 2025, arXiv 2502.16982).
_RATES: Final = {
    "sgd": {"input": (0, 1), "hidden": (-1, 1), "output": (-1, 0), "fixed": (0, 0)},
    "adam": {"input": (0, 0), "hidden": (-1, 0), "output": (-1, 0), "fixed": (0, 0)},
}
_FAMILIES: Final = {"sgd": "sgd", "nesterov": "sgd"}  # the other optimizers are Adam's
_GAMMA: Final = {"sgd": 2, "adam": 1}  # exponent of gamma below the last layer


@dataclass(frozen=True)
class Growth:
    """Growth of a parameter since the base network; `kind` is a row of the tables."""

    kind: str
    fan_in: float = 1.0
    fan_out: float = 1.0


@dataclass(frozen=True)
class Parametrization:
    """Facts of a network for its optimizer, which it carries as `parametrization`."""

    growth: dict[str, Growth]  # of each parameter
    gamma: float = 1.0

    def rates(self, optimizer: str) -> dict[str, float]:
        """Return the factor of the learning rate of each parameter, by name."""
        # Width enters by the table's exponents, richness below the last layer only.
        family = _FAMILIES.get(optimizer, "adam")
        found = {}
        for name, g in self.growth.items():
            a, b = _RATES[family][g.kind]
            below = g.kind in ("input", "hidden")
            found[name] = (
                g.fan_in**a * g.fan_out**b * (self.gamma ** _GAMMA[family] if below else 1.0)
            )
        return found


class Centered(nn.Module):
    """A network less what it was at the beginning: its outputs start from 0."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.initial = deepcopy(network).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x) - self.initial(x)

    def train(self, mode: bool = True) -> "Centered":
        super().train(mode)
        self.initial.eval()
        return self


def check_options(
    parametrization: str = "standard",
    base_width: int | None = None,
    gamma: float = 1.0,
    centered: bool = False,
) -> None:
    """Raises ValueError if these options of `create` cannot be, or not together."""
    # Each option by itself, then together.
    check_choice("parametrization", parametrization, PARAMETRIZATIONS)
    if base_width is not None:
        check_positive(base_width=base_width)
    if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0 < gamma < math.inf:
        raise ValueError(f"gamma must be a number above 0, got {gamma!r}")
    if not isinstance(centered, bool):
        raise ValueError(f"centered must be true or false, got {centered!r}")
    # Options of another parametrization would be ignored without a word.
    if parametrization != "mean_field" and (gamma != 1 or centered):
        raise ValueError(f"gamma and centered are for mean_field, not for {parametrization}")
    if parametrization == "standard" and base_width is not None:
        raise ValueError("base_width is for mup and mean_field, not for standard")


def parametrize(
    model: nn.Module, base: nn.Module, double: nn.Module, gamma: float, centered: bool
) -> nn.Module:
    """Scale a standard network's initial weights and note the growth of its parameters.

    `base` and `double` are the network at the base width and at twice that: what differs between
    them grows with the width.
    """
    growth: dict[str, Growth] = {}
    # Note how each parameter has grown, and scale layers, whose weight says the biases' fan-in.
    pairs = zip(base.named_parameters(), double.parameters(), strict=True)
    shapes = {name: (p.shape, q.shape) for (name, p), q in pairs}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        weight = getattr(module, "weight", None) if isinstance(module, _LAYERS) else None
        for name, p in module.named_parameters(recurse=False):
            growth[prefix + name] = _growth(p.shape, *shapes[prefix + name], p is weight)
        if weight is not None:
            _scale_layer(module, growth[f"{prefix}weight"], gamma, hasattr(model, "fan_out_init"))
    # The network less its own beginning has the same parameters, under a prefix.
    if centered:
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
            raise ValueError("centered=true is for networks without batch norm: batch_norm=false")
        model = Centered(model)
        growth = {f"network.{name}": g for name, g in growth.items()}
    model.parametrization = Parametrization(growth, gamma)  # type: ignore[assignment]
    return model


def _growth(shape: torch.Size, base: torch.Size, double: torch.Size, weight: bool) -> Growth:
    # Which dimensions differ between the two networks, and by how much this one has grown.
    grown = [i for i, (a, b) in enumerate(zip(base, double, strict=True)) if a != b]
    ratios = [shape[i] / base[i] for i in grown]
    if len(grown) == 2:  # (outputs, inputs, ...)
        return Growth("hidden", ratios[1], ratios[0])
    if weight and grown == [1]:
        return Growth("output", ratios[0])
    return Growth("input", 1.0, ratios[0]) if grown else Growth("fixed")


@torch.no_grad()
def _scale_layer(layer: nn.Module, growth: Growth, gamma: float, fan_out: bool) -> None:
    """Scale the initial weights of a layer, of variance 1 / fan-in, or 1 / fan-out if so said."""
    weight, bias, last = layer.weight, layer.bias, growth.kind == "output"
    assert isinstance(weight, nn.Parameter)
    if last:  # variance 1 / fan-in^2
        weight.mul_(growth.fan_in**-0.5 / gamma)
    elif fan_out:
        weight.mul_((growth.fan_out / growth.fan_in) ** 0.5)
    if isinstance(bias, nn.Parameter):  # torch's falls with the fan-in; biases have none
        bias.mul_(growth.fan_in**0.5 / (gamma if last else 1.0))
