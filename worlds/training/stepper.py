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

from worlds.runtime.device import AUTOCAST_DTYPES, capture, fixed_algorithms, float32_by_choice
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
        # The network as it is trained: averaged over replicas, compiled for the graph.
        self._trained: Any = replicas.wrap(model)
        self.graph = bool(graph) and can_capture(config, device, replicas, parts)
        if self.graph and graph == "compiled":
            self._trained = torch.compile(self._trained)
        # A graph reads the learning rate from memory.
        rate = torch.zeros((), device=device) if self.graph else config.learning_rate
        self.optimizer = make_optimizer(config, model, rate, parts)
        # Averaged weights, the scale of fp16, and the first step that went wrong.
        self.ema = deepcopy(model).requires_grad_(False) if config.ema else None
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self._updates = torch.zeros((), dtype=torch.int64, device=device)  # on the device
        self._bad = torch.full((), -1, dtype=torch.int64, device=device)  # none yet
        # The captured step, once it is there.
        self._captured: Callable[[torch.Tensor, torch.Tensor], None] | None = None
        self._eager_left = _EAGER_STEPS
        self._side: Any = torch.cuda.Stream(device) if self.graph else None

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 logits (B, classes)."""
        return self.logits(self.model, x)

    def represent(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 features (B, d) of a network with a `body`."""
        return self.logits(self.model.body, x)  # type: ignore[arg-type]

    def logits(self, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Return float32 outputs of a network in the config's precision."""
        with self._autocast():
            logits: torch.Tensor = model(x)
        return logits.float()

    def step(self, x: torch.Tensor, y: torch.Tensor, rate: float) -> None:
        """Make one update at learning rate `rate`, and move the averaged weights."""
        set_rate(self.optimizer, rate)
        if self.config.optimizer in FITTED:  # to this batch
            self._fit(x, y)
        elif not self.graph:
            self._update(x, y)
        elif self._captured is not None:
            self._captured(x, y)
        elif self._eager_left:
            self._eager_left -= 1
            self._warmup_step(x, y)
        else:
            self._captured = self._capture(x, y) or self._update
            self._captured(x, y)
        if self.ema is not None:
            average(self.ema, self.model, self.config.ema)

    def check(self) -> None:
        """Wait for the device; NotFinite names the first step whose loss was not."""
        if int(self._bad) >= 0:
            raise NotFinite(int(self._bad))

    def sync_replicas(self) -> None:
        """Make the replicas equal; all of them call it at the same step."""
        self._bad.copy_(self.replicas.all_reduce_max(self._bad))
        self.replicas.broadcast_buffers(self.model)

    def state_dict(self) -> dict[str, Any]:
        # A rate in a tensor is a plain number in the file.
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
        keep_layouts(self.optimizer)
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
        # Forward, backward and the step of the optimizer.
        loss = self.replicas.weigh(self._loss_of(x, y), len(x))
        self._scaler.scale(loss).backward()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        # Note on the device whether the loss is finite, without waiting for it.
        first = (self._bad < 0) & ~torch.isfinite(loss.detach())
        self._bad.copy_(torch.where(first, self._updates, self._bad))
        self._updates.add_(1)

    def _fit(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Set the head on a frozen body to the classifier of one batch of all samples."""
        head: nn.Linear = self.model.head  # type: ignore[assignment]
        parts = zip(x.split(_FIT_BATCH), y.split(_FIT_BATCH), strict=True)  # (500, 3, H, W), (500,)
        seen = *represented(self.represent, parts), head.out_features
        knn = self.config.optimizer == "knn"
        fitted = fit_neighbors(*seen) if knn else fit_logistic(*seen, self.config.weight_decay)
        head.load_state_dict(fitted.state_dict())
        self._updates.add_(1)

    def _loss_of(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch; under mixup of each image mixed with that at the other
        end of the batch, against both labels.
        """
        network = partial(self.logits, self._trained)
        if self.config.objective != "labels":
            return OBJECTIVES[self.config.objective](network, x)
        loss, alpha = self._loss or LOSSES[self.config.loss], self.config.mixup
        if not alpha:
            return loss(network(x), y).mean()
        # The share of the other image is a pure function of (seed, trial, updates).
        key, address = self.config.stream("augment"), [0, 0, 0, int(self._updates)]
        generator = np.random.Generator(np.random.Philox(counter=address, key=key))
        share = float(generator.beta(alpha, alpha))  # of the image itself
        outputs = network(share * x + (1 - share) * x.flip(0))
        return (share * loss(outputs, y) + (1 - share) * loss(outputs, y.flip(0))).mean()

    def _warmup_step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Make an eager step on the stream of the capture, as it needs before it."""
        current = torch.cuda.current_stream(self.device)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side), float32_by_choice():
            self._update(x, y)  # compiles, if it does
        current.wait_stream(self._side)

    def _capture(
        self, x: torch.Tensor, y: torch.Tensor
    ) -> Callable[[torch.Tensor, torch.Tensor], None] | None:
        """Return the captured step; None, with a warning, where the capture fails."""
        kept_x, kept_y = x.clone(), y.clone()  # where the graph reads
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
def keep_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Store an optimizer's state in the memory layout of its parameters.

    Fused optimizers walk through the memory of both: a momentum that was saved channels_last, on a
    GPU, would be added on a CPU to other weights than its own, without an error.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


@torch.no_grad()
def average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Move averaged weights and buffers toward a model's; counts are copied."""
    # Counts, such as those of batch norm, are not averaged.
    pairs = zip(averaged.state_dict().values(), model.state_dict().values(), strict=True)
    floats = []
    for mine, other in pairs:
        if mine.is_floating_point():
            floats.append((mine, other))
        else:
            mine.copy_(other)
    own, new = map(list, zip(*floats, strict=True))  # tensors in pairs
    torch._foreach_lerp_(own, new, 1 - decay)


def can_capture(
    config: TrainConfig, device: torch.device, replicas: Replicas, parts: Parts
) -> bool:
    """Return whether a step asks nothing of the host, as an own optimizer or loss may."""
    # Adagrad counts its steps on the host, Muon is two optimizers.
    on_host = config.optimizer in ("adagrad", "lars", "muon", *FITTED)
    outside = parts.optimizer is not None or parts.loss is not None or is_outside(config.optimizer)
    # Shares of a mixup and views of simclr are drawn there, fp16 decides there how it scales.
    drawn = config.mixup > 0 or config.objective != "labels" or config.precision == "fp16"
    one_shape = config.remainder != "short"  # of all batches
    alone = device.type == "cuda" and replicas.world_size == 1
    return alone and one_shape and not (on_host or outside or drawn)


def choose_graph(
    wanted: Graph, config: TrainConfig, device: torch.device, replicas: Replicas, parts: Parts
) -> Graph:
    """Return how steps on a device may be captured: at first use a small network is trained for a
    few steps by graph and eagerly, and compared. Where that of a compiled network fails, the graph
    of the network as it is follows.
    """
    if not (wanted and can_capture(config, device, replicas, parts)):
        return False
    # The faster way first, then the graph of plain steps.
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
    # As many steps again as are eager, so that some are replayed.
    steps = 2 * _EAGER_STEPS
    ways: tuple[tuple[int, Graph], ...] = (0, False), (steps, False), (steps, graph)
    with fixed_algorithms():
        start, eager, captured = (_trained(config, device, *way) for way in ways)
    tolerance = 0.05 if graph == "compiled" else 0.01
    return bool((captured - eager).norm() <= tolerance * (eager - start).norm())


def _trained(config: TrainConfig, device: torch.device, steps: int, graph: Graph) -> torch.Tensor:
    """Return all weights of a small network after some steps on one batch."""
    torch.manual_seed(0)
    # A network with what goes wrong most: a convolution and a batch norm.
    head = [nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 10)]
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), *head).to(device)
    x = torch.randn(16, 3, 8, 8).to(device, AUTOCAST_DTYPES.get(config.precision, torch.float32))
    y = torch.arange(16, device=device) % 10
    stepper = Stepper(config, network, device, graph)
    for _ in range(steps):
        stepper.step(x, y, config.learning_rate)
    stepper.check()
    return nn.utils.parameters_to_vector(network.parameters()).detach()  # (P,)
