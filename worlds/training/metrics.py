"""Soft-error, error and loss of a classifier: pure functions on logits, summed in float64.

Soft-error is the chance that a label drawn from the network's softmax is wrong: the mean over
examples of 1 - p(true class). The paper compares the two worlds in it for what lies between the
other two measures. The error sees only which output is largest, so it jumps where the network
wavers. The cross-entropy has no upper end: a Real World network that grows confident in its
mistakes makes the test loss rise without limit, while its decisions hardly change (the paper's
figure 6). Soft-error is smooth in the outputs and yet counts no example for more than 1; for a
network that is certain it is the error.

    mean_metrics((model(x), y) for x, y in batches)   # waits for the device once, at the end
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _flat(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (N, classes) and labels (N,): of sequences (B, T) those of each step."""
    if logits.ndim < 2 or labels.shape != logits.shape[:-1]:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected logits (B, classes) and labels (B,), got {shapes}")
    if labels.device.type == "cpu" and labels.numel():  # on a GPU this would wait for it
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= logits.shape[-1]:
            raise ValueError(
                f"labels must be in [0, {logits.shape[-1]}), the model's outputs, got {low} to "
                f"{high}"
            )
    return logits.flatten(0, -2).float(), labels.flatten()


def _each(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean over an example's steps, (B,) float32."""
    return values.view(labels.shape[0], -1).mean(1)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return each example's own loss, (B,) float32."""
    rows, flat = _flat(logits, labels)
    return _each(F.cross_entropy(rows, flat, reduction="none"), labels)


def squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return each example's squared distance of outputs and target, a sum over outputs, (B,)
    float32. Integer targets are labels and stand for their one-hot vector.
    """
    if targets.is_floating_point():
        outputs = outputs.float().flatten(1)
        if outputs.numel() != targets.numel():
            shapes = f"{tuple(outputs.shape)} and {tuple(targets.shape)}"
            raise ValueError(f"expected as many outputs as targets, got {shapes}")
        return (outputs - targets.float().view_as(outputs)).square().sum(1)
    rows, flat = _flat(outputs, targets)
    target = F.one_hot(flat, rows.shape[1]).to(torch.float32)  # (N, K)
    return _each((rows - target).square().sum(1), targets)


# The losses by name; the training loss is the mean of the batch.
LOSSES: dict[str, Measure] = {"cross_entropy": cross_entropy, "mse": squared_error}


def error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return 1 where the largest output (the first of equals) is not the label's, (B,) float32."""
    rows, flat = _flat(logits, labels)
    return _each((rows.argmax(1) != flat).to(torch.float32), labels)


def soft_error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return 1 - softmax probability of the label, whatever the training loss, (B,) float32."""
    rows, flat = _flat(logits, labels)
    probabilities = F.softmax(rows, dim=1)  # (N, K)
    # The sum over the wrong classes keeps the digits that 1 - p loses where p is close to 1.
    return _each(probabilities.scatter(1, flat.unsqueeze(1), 0.0).sum(1), labels)


def calibration_error(logits: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al., 2017): how far the accuracy of samples of like
    confidence is from their mean confidence, in bins of equal width; the mean over samples.
    """
    confidence, called = logits.float().softmax(1).max(1)  # (N,)
    surplus = confidence.double() - (called == labels).double()
    places = (confidence * bins).ceil().long().clamp(1, bins) - 1
    sums = surplus.new_zeros(bins).index_add_(0, places, surplus)
    return float(sums.abs().sum() / len(labels))


def measure_batch(
    outputs: torch.Tensor,
    targets: torch.Tensor,
    loss: str | Measure = "cross_entropy",
    metrics: Mapping[str, Measure] | None = None,
) -> dict[str, torch.Tensor]:
    """Return sums over the batch, float64 scalars by name: loss; of labels error and soft_error;
    and each of `metrics`, functions of (outputs, targets) that return the batch's mean.
    """
    sums: dict[str, torch.Tensor] = {}
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}; known: {', '.join(LOSSES)}")
        sums["loss"] = LOSSES[loss](outputs, targets).sum(dtype=torch.float64)
    else:
        sums["loss"] = scalar("the loss", loss(outputs, targets)) * len(targets)
    if is_labels(outputs, targets):
        sums["error"] = error(outputs, targets).sum(dtype=torch.float64)
        sums["soft_error"] = soft_error(outputs, targets).sum(dtype=torch.float64)
    for name, metric in (metrics or {}).items():
        sums[name] = scalar(f"metric {name}", metric(outputs, targets)) * len(targets)
    return sums


def is_labels(outputs: torch.Tensor, targets: torch.Tensor) -> bool:
    """Return whether targets are classes of the outputs, as cross-entropy takes them."""
    whole = not (targets.is_floating_point() or targets.dtype == torch.bool)
    return whole and targets.shape == outputs.shape[:-1]


def scalar(name: str, value: Any) -> torch.Tensor:
    """Return `value` as a float64 scalar with its gradient. Raises ValueError if it is none."""
    if isinstance(value, bool | int | float):
        return torch.tensor(float(value), dtype=torch.float64)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        found = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"{name} must be one number for a batch, got {found}")
    return value.double().reshape(())


def mean_metrics(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    loss: str | Measure = "cross_entropy",
    metrics: Mapping[str, Measure] | None = None,
) -> dict[str, float]:
    """Return means over the examples of some batches of (outputs, targets), by name."""
    sums: dict[str, torch.Tensor] = {}
    count = 0
    for outputs, targets in batches:
        for name, value in measure_batch(outputs, targets, loss, metrics).items():
            sums[name] = sums[name] + value if name in sums else value
        count += len(targets)
    if not count:
        raise ValueError("metrics need at least one example, got none")
    # One wait for the device, for all of them.
    totals = torch.stack([value.to(sums["loss"].device) for value in sums.values()]).tolist()
    return {name: total / count for name, total in zip(sums, totals, strict=True)}


def stopping_point(train_errors: Sequence[float], threshold: float = 0.01) -> int | None:
    """Return the index of the first log point with a train error of at most `threshold`, or None.

    T0 of the paper is the step of that point, with the threshold at 1 %. A NaN stops nothing.
    """
    if not 0 <= threshold < 1 or math.isnan(threshold):
        raise ValueError(f"threshold must be in [0, 1), got {threshold}")
    return next((i for i, value in enumerate(train_errors) if value <= threshold), None)


def patience_point(
    values: Sequence[float],
    patience: float,
    times: Sequence[float] | None = None,
    min_improvement: float = 0.0,
) -> tuple[int | None, int]:
    """Return where stopping early ends a curve, and the best value before: the index of the first
    log point that is `patience` past the last improvement, or None; the index of that improvement.

    `times` are those of the log points, such as epochs (default: their numbers). An improvement is
    a value lower than the best so far by more than `min_improvement`.
    """
    if not patience > 0 or (times is None and patience < 1):
        raise ValueError(f"patience must be 1 or more log points, got {patience}")
    # The clock is that of the log points, or their numbers.
    best, clock = 0, range(len(values)) if times is None else times
    for index, value in enumerate(values):
        if value < values[best] - min_improvement:
            best = index
        elif clock[index] - clock[best] >= patience:
            return index, best
    return None, best
