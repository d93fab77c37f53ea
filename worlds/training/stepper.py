"""One update of the weights: precision, optimizer, and on a GPU the step as one CUDA graph."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import nn

from worlds.runtime.device import AUTOCAST_DTYPES, capture, fixed_algorithms
from worlds.runtime.errors import first_line
from worlds.runtime.selfcheck import passes
from worlds.training.config import FITTED, TrainConfig, is_outside
from worlds.training.distributed import ALONE, Replicas
from worlds.training.metrics import LOSSES
from worlds.training.objectives import OBJECTIVES, fit_logistic, fit_neighbors, represented
from worlds.training.optimizers import make_optimizer, set_rate
from worlds.training.parts import OWN_NOTHING, Parts

# What a parameter group holds for the device alone; a checkpoint goes from one to another.
_DEVICE_FLAGS: Final = ("lr", "capturable", "fused", "foreach")
_FIT_BATCH: Final = 500  # images through a frozen body at once
_EAGER_STEPS: Final = 3  # before the capture: libraries choose their algorithms and memory in them


Graph = bool | Literal["compiled"]


class NotFinite(RuntimeError):
    """The training loss became NaN or infinite at `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the training loss is not finite at step {step:,}")
        self.step = step


class Stepper:
    """Updates `model` batch by batch and never waits for the device; `check` does.

    `graph` captures the step after a few eager ones (CUDA only): 39,000 launches instead of
    millions. It needs batches of one shape, and no loss scaling, whose decisions the host makes.
    "compiled" compiles the network before, so that the graph holds fewer and larger kernels.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        device: torch.device,
        graph: Graph = False,
        replicas: Replicas = ALONE,
        parts: Parts = OWN_NOTHING,
    ) -> None:
        self.config, self.model, self.device = config, model, device
        self._loss = parts.loss
        self.replicas = replicas
        self._trained: Any = replicas.wrap(model)
        self.graph = bool(graph) and can_capture(config, device, replicas, parts)
        if self.graph and graph == "compiled":
            self._trained = torch.compile(self._trained)
        rate = torch.zeros((), device=device) if self.graph else config.learning_rate
        self.optimizer = make_optimizer(config, model, rate, parts)
        self.ema = deepcopy(model).requires_grad_(False) if config.ema else None
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self._updates = torch.zeros((), dtype=torch.int64, device=device)
        self._bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._captured: Callable[[torch.Tensor, torch.Tensor], None] | None = None
        self._eager_left = _EAGER_STEPS
        self._side: Any = torch.cuda.Stream(device) if self.graph else None

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """float32 logits (B, classes)."""
        return self._logits(self.model, x)

    def represent(self, x: torch.Tensor) -> torch.Tensor:
        """float32 features (B, d), of a network with a `body`."""
        return self._logits(self.model.body, x)  # type: ignore[arg-type]

    def _logits(self, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with self._autocast():
            logits: torch.Tensor = model(x)
        return logits.float()

    def predict_averaged(self, x: torch.Tensor) -> torch.Tensor:
        """The same of the averaged weights."""
        assert self.ema is not None
        return self._logits(self.ema, x)

    def step(self, x: torch.Tensor, y: torch.Tensor, rate: float) -> None:
        """One update at learning rate `rate`, and of the average."""
        self._step(x, y, rate)
        if self.ema is not None:
            average(self.ema, self.model, self.config.ema)

    def _step(self, x: torch.Tensor, y: torch.Tensor, rate: float) -> None:
        if self.config.optimizer in FITTED:  # to this batch
            self._fit(x, y)
            return
        set_rate(self.optimizer, rate)
        if not self.graph:
            self._update(x, y)
        elif self._captured is not None:
            self._captured(x, y)
        elif self._eager_left:
            self._eager_left -= 1
            self._warmup_step(x, y)
        else:
            self._captured = self._capture(x, y) or self._update
            self._captured(x, y)

    def check(self) -> None:
        """Wait for the device; NotFinite names the first step whose loss was not."""
        if int(self._bad) >= 0:
            raise NotFinite(int(self._bad))

    def agree(self) -> None:
        """Make the replicas equal; all of them call it at the same step."""
        self._bad.copy_(self.replicas.highest(self._bad))
        self.replicas.equalize(self.model)

    def state_dict(self) -> dict[str, Any]:
        optimizer = self.optimizer.state_dict()
        groups = [{**group, "lr": float(group["lr"])} for group in optimizer["param_groups"]]
        return {
            "model": self.model.state_dict(),
            "optimizer": optimizer | {"param_groups": groups},
            "scaler": self._scaler.state_dict(),
            "updates": int(self._updates),
        } | ({} if self.ema is None else {"ema": self.ema.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        # How this device runs the optimizer is not the checkpoint's to say; torch moves the state
        # to where these flags want it.
        saved = state["optimizer"]
        groups = [
            {**group, **{flag: own[flag] for flag in _DEVICE_FLAGS if flag in own}}
            for group, own in zip(saved["param_groups"], self.optimizer.param_groups, strict=True)
        ]
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(saved | {"param_groups": groups})
        self._scaler.load_state_dict(state["scaler"])
        self._updates.fill_(state["updates"])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(rate, torch.Tensor):  # the graph reads this one
                group["lr"] = rate

    def _autocast(self) -> AbstractContextManager[Any]:
        half = AUTOCAST_DTYPES.get(self.config.precision)
        if half is None:
            return nullcontext()
        # A captured step must not read casts that an earlier step left in the cache.
        return torch.autocast(self.device.type, half, cache_enabled=not self.graph)

    def _update(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._mixed_loss(x, y) if self.config.mixup else self._loss_of(x, y)
        loss = self.replicas.weigh(loss, len(x))
        self._scaler.scale(loss).backward()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        first = (self._bad < 0) & ~torch.isfinite(loss.detach())
        self._bad.copy_(torch.where(first, self._updates, self._bad))
        self._updates.add_(1)

    def _fit(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Set the head on a frozen body to the classifier of one batch of all samples."""
        head: nn.Linear = self.model.head  # type: ignore[assignment]
        parts = zip(x.split(_FIT_BATCH), y.split(_FIT_BATCH), strict=True)
        seen = *represented(self.represent, parts), head.out_features
        knn = self.config.optimizer == "knn"
        fitted = fit_neighbors(*seen) if knn else fit_logistic(*seen, self.config.weight_decay)
        head.load_state_dict(fitted.state_dict())
        self._updates.add_(1)

    def _loss_of(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.config.objective != "labels":
            return OBJECTIVES[self.config.objective](partial(self._logits, self._trained), x)
        outputs = self._logits(self._trained, x)
        if self._loss is not None:
            return self._loss(outputs, y)
        return LOSSES[self.config.loss](outputs, y).mean()

    def _mixed_loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss of each image mixed with that at the other end of the batch, against both
        labels; the share is a pure function of (seed, trial, updates).
        """
        alpha, key = self.config.mixup, self.config.stream("augment")
        address = [0, 0, 0, int(self._updates)]
        share = float(
            np.random.Generator(np.random.Philox(counter=address, key=key)).beta(alpha, alpha)
        )
        outputs = self._logits(self._trained, share * x + (1 - share) * x.flip(0))
        loss = self._loss or LOSSES[self.config.loss]
        mixed = share * loss(outputs, y) + (1 - share) * loss(outputs, y.flip(0))
        return mixed.mean()

    def _warmup_step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Make an eager step on the stream of the capture, as it needs before it."""
        current = torch.cuda.current_stream(self.device)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            self._update(x, y)
        current.wait_stream(self._side)

    def _capture(
        self, x: torch.Tensor, y: torch.Tensor
    ) -> Callable[[torch.Tensor, torch.Tensor], None] | None:
        """Return the captured step; None, with a warning, where the capture fails."""
        kept_x, kept_y = x.clone(), y.clone()
        self.optimizer.zero_grad(set_to_none=True)
        try:
            graph, _ = capture(lambda: self._update(kept_x, kept_y), self.device, self._side)
        except RuntimeError as error:
            torch.cuda.synchronize(self.device)
            self.optimizer.zero_grad(set_to_none=True)
            text = f"the step could not be captured on {self.device}: {first_line(error)}"
            warnings.warn(f"{text}; training goes on without a graph", RuntimeWarning, stacklevel=2)
            return None

        def replay(x: torch.Tensor, y: torch.Tensor) -> None:
            if x.shape != kept_x.shape:  # the last batch of all
                self._update(x, y)
                return
            kept_x.copy_(x)
            kept_y.copy_(y)
            graph.replay()

        return replay


@torch.no_grad()
def average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Move averaged weights and buffers toward a model's; counts are copied."""
    pairs = zip(averaged.state_dict().values(), model.state_dict().values(), strict=True)
    floats = []
    for mine, other in pairs:
        if mine.is_floating_point():
            floats.append((mine, other))
        else:
            mine.copy_(other)
    own, new = map(list, zip(*floats, strict=True))
    torch._foreach_lerp_(own, new, 1 - decay)


def can_capture(
    config: TrainConfig, device: torch.device, replicas: Replicas, parts: Parts
) -> bool:
    """Return whether a step asks nothing of the host, as an own optimizer or loss may."""
    own = parts.optimizer is not None or parts.loss is not None
    # Adagrad counts its steps on the host, Muon is two optimizers, a mixup draws its share there;
    # batches have one shape unless an epoch ends with a smaller one.
    own = own or config.optimizer in ("adagrad", "lars", "muon", *FITTED)
    own = own or is_outside(config.optimizer) or config.mixup > 0 or config.remainder == "short"
    own = own or config.objective != "labels"  # simclr's views are drawn there, too
    alone = device.type == "cuda" and replicas.world_size == 1
    return alone and config.precision != "fp16" and not own


def choose_graph(
    wanted: Graph, config: TrainConfig, device: torch.device, replicas: Replicas, parts: Parts
) -> Graph:
    """Return how steps on a device may be captured: at first use a small network is trained for a
    few steps by graph and eagerly, and compared. Where that of a compiled network fails, the graph
    of the network as it is follows.
    """
    if not (wanted and can_capture(config, device, replicas, parts)):
        return False
    what = f"CUDA graph of the training step, {config.optimizer}, {config.loss}, {config.precision}"
    ways: dict[Graph, str] = {"compiled": "the graph of plain steps", True: "an eager step"}
    for way, instead in ways.items():
        path = f"compiled {what}" if way == "compiled" else what
        trial = partial(graph_trains, config, device, way)
        if way in (wanted, True) and passes(path, device, trial, instead):
            return way
    return False


def graph_trains(config: TrainConfig, device: torch.device, graph: Graph = True) -> bool:
    """Return whether a captured step moves a small network's weights as an eager one does, within
    1 % of the way that they go, or 5 % if it is compiled, which rounds otherwise.
    """
    steps = 2 * _EAGER_STEPS
    ways: tuple[tuple[int, Graph], ...] = (0, False), (steps, False), (steps, graph)
    with fixed_algorithms():
        start, eager, captured = (_trained(config, device, *way) for way in ways)
    tolerance = 0.05 if graph == "compiled" else 0.01
    return bool((captured - eager).norm() <= tolerance * (eager - start).norm())


def _trained(config: TrainConfig, device: torch.device, steps: int, graph: Graph) -> torch.Tensor:
    """Return all weights of a small network after some steps on one batch."""
    torch.manual_seed(0)
    head = [nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 10)]
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), *head).to(device)
    x = torch.randn(16, 3, 8, 8).to(device, AUTOCAST_DTYPES.get(config.precision, torch.float32))
    y = torch.arange(16, device=device) % 10
    stepper = Stepper(config, network, device, graph)
    for _ in range(steps):
        stepper.step(x, y, config.learning_rate)
    stepper.check()
    return nn.utils.parameters_to_vector(network.parameters()).detach()
