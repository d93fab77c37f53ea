"""One update of the weights: precision, optimizer, and on a GPU the step as one CUDA graph."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from torch import nn

from worlds.runtime.device import AUTOCAST_DTYPES
from worlds.training.config import TrainConfig
from worlds.training.distributed import ALONE, Replicas
from worlds.training.metrics import LOSSES
from worlds.training.parts import OWN_NOTHING, Parts, check_optimizer

_EAGER_STEPS: Final = 3  # before the capture: libraries choose their algorithms and memory in them


class NotFinite(RuntimeError):
    """The training loss became NaN or infinite at `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the training loss is not finite at step {step:,}")
        self.step = step


def make_optimizer(
    config: TrainConfig, model: nn.Module, rate: Any, parts: Parts = OWN_NOTHING
) -> torch.optim.Optimizer:
    """The config's optimizer with torch's other defaults; `rate` is a float, or a tensor that a
    CUDA graph reads.
    """
    if parts.optimizer is not None:
        own = parts.optimizer([p for p in model.parameters() if p.requires_grad], lr=rate)
        return check_optimizer(own, parts.optimizer)
    common = {"lr": rate, "weight_decay": config.weight_decay}
    captured = isinstance(rate, torch.Tensor)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer in ("sgd", "nesterov"):
        nesterov = config.optimizer == "nesterov"
        return torch.optim.SGD(
            parameters, momentum=config.momentum, nesterov=nesterov, fused=True, **common
        )
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            parameters, momentum=config.momentum, capturable=captured, **common
        )
    made = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return made(parameters, fused=True, capturable=captured, **common)


class Stepper:
    """Updates `model` batch by batch and never waits for the device; `check` does.

    `graph` captures the step after a few eager ones (CUDA only): 39,000 launches instead of
    millions. It needs batches of one shape, and no loss scaling, whose decisions the host makes.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        device: torch.device,
        graph: bool = False,
        replicas: Replicas = ALONE,
        parts: Parts = OWN_NOTHING,
    ) -> None:
        self.config, self.model, self.device = config, model, device
        self._loss = parts.loss
        self.replicas, self._trained = replicas, replicas.wrap(model)
        can = device.type == "cuda" and config.precision != "fp16" and replicas.world_size == 1
        own = parts.optimizer is not None or parts.loss is not None  # may ask for the host
        self.graph = graph and can and not own
        self._rate = torch.zeros((), device=device) if self.graph else None
        self.optimizer = make_optimizer(
            config, model, config.learning_rate if self._rate is None else self._rate, parts
        )
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self._updates = torch.zeros((), dtype=torch.int64, device=device)
        self._bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._captured: Callable[[torch.Tensor, torch.Tensor], None] | None = None
        self._eager_left = _EAGER_STEPS

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """float32 logits (B, classes)."""
        return self._logits(self.model, x)

    def _logits(self, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with self._autocast():
            logits: torch.Tensor = model(x)
        return logits.float()

    def step(self, x: torch.Tensor, y: torch.Tensor, rate: float) -> None:
        """One update at learning rate `rate`."""
        if self._rate is None:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self._update(x, y)
            return
        self._rate.fill_(rate)
        if self._captured is not None:
            self._captured(x, y)
        elif self._eager_left:
            self._eager_left -= 1
            self._aside(x, y)
        else:
            self._captured = self._capture(x, y)
            self._captured(x, y)

    def check(self) -> None:
        """Wait for the device; NotFinite names the first step whose loss was not."""
        if int(self._bad) >= 0:
            raise NotFinite(int(self._bad))

    def agree(self) -> None:
        """Make the replicas equal; all of them call it at the same step."""
        self._bad.copy_(self.replicas.highest(self._bad))
        self.replicas.equalise(self.model)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "updates": int(self._updates),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self._updates.fill_(state["updates"])
        if self._rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate

    def _autocast(self) -> AbstractContextManager[Any]:
        half = AUTOCAST_DTYPES.get(self.config.precision)
        if half is None:
            return nullcontext()
        # A captured step must not read casts that an earlier step left in the cache.
        return torch.autocast(self.device.type, half, cache_enabled=not self.graph)

    def _update(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        outputs = self._logits(self._trained, x)
        if self._loss is None:
            loss = LOSSES[self.config.loss](outputs, y).mean()
        else:
            loss = self._loss(outputs, y)
        self._scaler.scale(loss).backward()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        first = (self._bad < 0) & ~torch.isfinite(loss.detach())
        self._bad.copy_(torch.where(first, self._updates, self._bad))
        self._updates.add_(1)

    def _aside(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """An eager step on a stream of its own, as a capture needs before it."""
        current, side = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            self._update(x, y)
        current.wait_stream(side)

    def _capture(
        self, x: torch.Tensor, y: torch.Tensor
    ) -> Callable[[torch.Tensor, torch.Tensor], None]:
        kept_x, kept_y = x.clone(), y.clone()
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._update(kept_x, kept_y)

        def replay(x: torch.Tensor, y: torch.Tensor) -> None:
            kept_x.copy_(x)
            kept_y.copy_(y)
            graph.replay()

        return replay
