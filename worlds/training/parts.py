"""Functions of one's own in place of a config's names: model, optimizer, schedule, loss, metrics.

A config holds names, so that a run can be found again and read on another machine. A function goes
beside it, and the config holds where it is defined: "package.module:function".
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import nn

from worlds.training.metrics import Measure


@dataclass(frozen=True)
class Parts:
    """Functions that replace the config's own parts; None keeps them.

    model       builds a new network, called under the run's seed
    optimizer   (parameters, lr=...) gives a torch optimizer: torch.optim.AdamW, or a partial
    schedule    (step, steps) gives the factor of the learning rate
    loss        (outputs, targets) gives the batch's mean
    metrics     by name, (outputs, targets) gives the batch's mean
    """

    model: Callable[[], nn.Module] | None = None
    optimizer: Callable[..., torch.optim.Optimizer] | None = None
    schedule: Callable[[int, int], float] | None = None
    loss: Measure | None = None
    metrics: Mapping[str, Measure] = field(default_factory=dict)


OWN_NOTHING: Final = Parts()


def name_of(part: Any) -> str:
    """Return where a function or class is defined, "package.module:name"; a partial has its
    function's.
    """
    part = getattr(part, "func", part)
    name = getattr(part, "__qualname__", None) or type(part).__qualname__
    return f"{getattr(part, '__module__', None) or '__main__'}:{name}"


def build_model(build: Callable[[], Any]) -> nn.Module:
    """Return the network that a function builds. Raises ValueError if it builds none."""
    if isinstance(build, nn.Module):
        raise ValueError(
            f"model is a {type(build).__name__}, already built: give a function without arguments "
            "that builds one, so that each run begins anew"
        )
    first = build()
    if not isinstance(first, nn.Module):
        raise ValueError(f"{name_of(build)} must build a torch.nn.Module, got {type(first)}")
    return first


def check_parts(
    parts: Parts, classes: int, batch: tuple[torch.Tensor, torch.Tensor], loss: str
) -> None:
    """Raises ValueError if the parts do not fit each other or the first batch of the data."""
    assert parts.model is not None
    from worlds.training.metrics import is_labels, measure_batch

    # Two networks, without a trace in torch's generator.
    with torch.random.fork_rng(devices=[]):
        first, second = build_model(parts.model), parts.model()
    name = name_of(parts.model)
    if first is second:
        raise ValueError(f"{name} returns the same module twice: it must build a new one each time")
    x, y = batch
    try:
        with torch.no_grad():
            outputs = first.eval()(x)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        line = str(error).strip().splitlines()[0]
        raise ValueError(f"{name} does not take a batch {tuple(x.shape)}: {line}") from error
    # What it gives must be outputs for the targets, and for the loss and metrics.
    if not isinstance(outputs, torch.Tensor):
        raise ValueError(f"{name} must return a tensor of outputs, got {type(outputs).__name__}")
    if classes and outputs.shape[-1] != classes:
        raise ValueError(
            f"{name} gives {outputs.shape[-1]} outputs, the data has {classes} classes"
        )
    if loss == "cross_entropy" and parts.loss is None and not is_labels(outputs, y):
        shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(y.shape)} {y.dtype}"
        raise ValueError(f"cross_entropy takes labels of the outputs, got {shapes}")
    measure_batch(outputs, y, parts.loss or loss, parts.metrics)


def checked_parts(**given: Any) -> tuple[Parts, dict[str, str]]:
    """Return the functions among `given` as Parts, and for each field of the config its name."""
    named = {key: part if isinstance(part, str) else name_of(part) for key, part in given.items()}
    own = {key: part for key, part in given.items() if not isinstance(part, str)}
    for key, part in own.items():
        if not callable(part):
            raise ValueError(f"{key} must be a name or a function, got {part!r}")
    return Parts(**own), named


def named_metrics(
    metrics: Mapping[str, Measure] | Iterable[Measure] | None,
) -> dict[str, Measure]:
    """Return metrics by name; in a list each has its function's."""
    if metrics is None:
        return {}
    if isinstance(metrics, Mapping):
        found = dict(metrics)
    else:
        found = {name_of(metric).rpartition(":")[2]: metric for metric in metrics}
    for name, metric in found.items():
        if not callable(metric):
            raise ValueError(f"metric {name} must be a function of (outputs, targets)")
    return found
