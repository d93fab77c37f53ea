"""Soft-error, error and loss of a classifier: pure functions on logits, summed in float64.

Soft-error is the chance that a label drawn from the network's softmax is wrong: the mean over
examples of 1 - p(true class). The paper compares the two worlds in it for what lies between the
other two measures. The error sees only which output is largest, so it jumps where the network
wavers. The cross-entropy has no upper end: a Real World network that grows confident in its
mistakes makes the test loss rise without limit, while its decisions hardly change (the paper's
figure 6). Soft-error is smooth in the outputs and yet counts no example for more than 1; for a
network that is certain it is the error.

    sums = torch.zeros(3, dtype=torch.float64, device=device)
    for x, y in batches:
        sums += metric_sums(model(x), y, "cross_entropy")   # stays on the device
    metrics = means(sums, count)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Metrics:
    """Means over examples."""

    loss: float
    error: float
    soft_error: float


def _check(logits: torch.Tensor, labels: torch.Tensor) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected logits (B, classes) and labels (B,), got {shapes}")


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(B,) float32, each example's own."""
    _check(logits, labels)
    return F.cross_entropy(logits.float(), labels, reduction="none")


def squared_error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(B,) float32: squared distance of outputs and one-hot label, a sum over classes."""
    _check(logits, labels)
    target = F.one_hot(labels, logits.shape[1]).to(torch.float32)
    return (logits.float() - target).square().sum(1)


# The losses by name; the training loss is the mean of the batch.
LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "mse": squared_error,
}


def error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(B,) float32: 1 where the largest output (of equal ones the first) is not the label's."""
    _check(logits, labels)
    return (logits.argmax(1) != labels).to(torch.float32)


def soft_error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(B,) float32: 1 - softmax probability of the label, whatever the training loss."""
    _check(logits, labels)
    probabilities = F.softmax(logits.float(), dim=1)
    # The sum over the wrong classes keeps the digits that 1 - p loses where p is close to 1.
    return probabilities.scatter(1, labels.unsqueeze(1), 0.0).sum(1)


def metric_sums(
    logits: torch.Tensor, labels: torch.Tensor, loss: str = "cross_entropy"
) -> torch.Tensor:
    """Sums over the batch of loss, error and soft-error: float64 (3,) on the logits' device."""
    if loss not in LOSSES:
        raise ValueError(f"unknown loss {loss!r}; known: {', '.join(LOSSES)}")
    parts = (LOSSES[loss], error, soft_error)
    return torch.stack([part(logits, labels).sum(dtype=torch.float64) for part in parts])


def means(sums: torch.Tensor, count: int) -> Metrics:
    """Metrics of `count` examples from their sums; this is where the device is waited for."""
    if count < 1:
        raise ValueError(f"metrics need at least one example, got a count of {count}")
    return Metrics(*(total / count for total in sums.tolist()))


def stopping_point(train_errors: Sequence[float], threshold: float = 0.01) -> int | None:
    """The index of the first log point with a train error of at most `threshold`, or None.

    T0 of the paper is the step of that point, with the threshold at 1 %. A NaN stops nothing.
    """
    if not 0 <= threshold < 1 or math.isnan(threshold):
        raise ValueError(f"threshold must be in [0, 1), got {threshold}")
    return next((i for i, value in enumerate(train_errors) if value <= threshold), None)


def patience_point(values: Sequence[float], patience: int) -> tuple[int | None, int]:
    """Return where early stopping ends a curve, and the best value before: the index of the first
    log point that is `patience` points past the least value so far, or None; the index of that
    least value (of the first of equal ones).
    """
    if patience < 1:
        raise ValueError(f"patience must be 1 or more log points, got {patience}")
    best = 0
    for index, value in enumerate(values):
        if value < values[best]:
            best = index
        elif index - best >= patience:
            return index, best
    return None, best
