"""A run's optimizer: torch's by name, any by MODULE:NAME; and the learning rate of each parameter
where the network has a width parametrization.
"""

from typing import Any

import torch
from torch import nn

from worlds.training.config import TrainConfig, is_outside
from worlds.training.parts import OWN_NOTHING, Parts, name_of


def make_optimizer(
    config: TrainConfig, model: nn.Module, rate: Any, parts: Parts = OWN_NOTHING
) -> torch.optim.Optimizer:
    """Return the config's optimizer with torch's other defaults; `rate` is a float, or a tensor
    that a CUDA graph reads.

    Raises ValueError if the config's MODULE:NAME, or the part, makes none.
    """
    if parts.optimizer is not None or is_outside(config.optimizer):
        return _make_own(config, model, rate, parts)
    # Torch's optimizers; those that can be captured read the rate from the device.
    groups = _groups(config, model, rate)
    common: dict[str, Any] = {"lr": rate, "weight_decay": config.weight_decay}
    captured = isinstance(rate, torch.Tensor)
    if config.optimizer in ("sgd", "nesterov"):
        common |= {"momentum": config.momentum, "nesterov": config.optimizer == "nesterov"}
        return torch.optim.SGD(groups, fused=True, **common)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, momentum=config.momentum, capturable=captured, **common)
    if config.optimizer == "adagrad":
        return torch.optim.Adagrad(groups, **common)
    if config.optimizer == "lars":
        import worlds.runtime.torchvision_ops  # noqa: F401, I001  (must come before timm)
        from timm.optim.lars import Lars

        return Lars(groups, momentum=config.momentum, **common)
    if config.optimizer == "muon":
        return Muon(groups, common, config.momentum, config.betas)
    made = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return made(groups, betas=config.betas, fused=True, capturable=captured, **common)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, of each group times its own factor; tensors are filled in place."""
    for group in optimizer.param_groups:
        own = rate * group.get("lr_scale", 1.0)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def _make_own(
    config: TrainConfig, model: nn.Module, rate: Any, parts: Parts
) -> torch.optim.Optimizer:
    """Return the optimizer of a function or class, given what the config sets off its defaults."""
    from worlds.models.registry import load_function

    part = parts.optimizer or load_function(config.optimizer)
    if hasattr(model, "parametrization"):
        raise ValueError(f"{name_of(part)} has no table of rates: take parametrization=standard")
    # Defaults are the class's own: only what was set goes to it.
    plain = TrainConfig(config.arch)
    settings = {
        name: getattr(config, name)
        for name in ("momentum", "weight_decay", "betas")
        if getattr(config, name) != getattr(plain, name)
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        made = part(trained, lr=rate, **settings)
    except TypeError as error:
        raise ValueError(f"{name_of(part)} cannot be made: {error}") from error
    if not isinstance(made, torch.optim.Optimizer):
        raise ValueError(f"{name_of(part)} must give a torch optimizer, got {type(made).__name__}")
    return made


def _groups(config: TrainConfig, model: nn.Module, rate: Any) -> list[dict[str, Any]]:
    """Return the trained parameters, those of one factor of the learning rate together. Weight
    decay is divided by the factor, so that their product keeps (as the mup package does).
    """
    # The parameters by factor, and by whether Muon trains them.
    found: dict[tuple[float | None, bool], list[nn.Parameter]] = {}
    scaling = getattr(model, "parametrization", None)
    rates = {} if scaling is None else scaling.rates(config.optimizer)
    hidden = _hidden_weights(model) if config.optimizer == "muon" else set()
    for name, p in model.named_parameters():
        if p.requires_grad:
            factor = None if scaling is None else rates.get(name, 1.0)
            found.setdefault((factor, p in hidden), []).append(p)
    # One group each; without a parametrization it is the one group of earlier checkpoints.
    groups: list[dict[str, Any]] = []
    for (factor, matrices), parameters in found.items():
        groups.append({"params": parameters} | ({"hidden": True} if matrices else {}))
        if factor is not None:
            own = {"lr": rate * factor, "weight_decay": config.weight_decay / factor}
            groups[-1] |= own | {"lr_scale": factor}
    return groups


def _hidden_weights(model: nn.Module) -> set[torch.Tensor]:
    """Return the weights of linear and convolutional layers but the first and the last."""
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    weights = [m.weight for m in model.modules() if isinstance(m, layers)][1:-1]
    if not weights:
        raise ValueError("muon is for weights between the first and the last layer: here are none")
    return set(weights)


class Muon(torch.optim.Optimizer):
    """torch's Muon for the groups of hidden weights, its AdamW for the others.

    Muon's steps are scaled to the size of Adam's (torch's "match_rms_adamw"), so that one learning
    rate is for both. The kernel of a convolution is a matrix (outputs, inputs x area).
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        common: dict[str, Any],
        momentum: float,
        betas: tuple[float, float],
    ) -> None:
        # Hidden weights first, as the inner optimizers have them.
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"muon needs torch 2.9 or later, this is {torch.__version__}")
        super().__init__(sorted(groups, key=lambda group: "hidden" not in group), common)
        self._matrices: list[tuple[nn.Parameter, nn.Parameter]] = []
        inner: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for group in self.param_groups:
            own, hidden = {key: group[key] for key in ("params", *common)}, "hidden" in group
            if hidden:  # torch's Muon takes matrices alone: copies of the weights
                own["params"] = [nn.Parameter(p.detach().flatten(1).clone()) for p in own["params"]]
                self._matrices += zip(group["params"], own["params"], strict=True)
            inner[hidden].append(own)
        self._parts = (
            torch.optim.Muon(inner[True], momentum=momentum, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(inner[False], betas=betas),
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters; there is no closure."""
        # The rates of the schedule, which it sets in the outer groups.
        inner = [group for part in self._parts for group in part.param_groups]
        for group, own in zip(self.param_groups, inner, strict=True):
            own["lr"] = group["lr"]
        # The weights are copied, not viewed: their memory format may be channels-last.
        for weight, matrix in self._matrices:
            matrix.copy_(weight.flatten(1))  # (outputs, inputs x area)
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        for part in self._parts:
            part.step()  # type: ignore[no-untyped-call]
        for weight, matrix in self._matrices:
            weight.copy_(matrix.view_as(weight))
            matrix.grad = None

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
