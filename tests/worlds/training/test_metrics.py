"""Metrics against their definitions written out."""

import math

import pytest
import torch

from worlds.training.metrics import (
    LOSSES,
    calibration_error,
    cross_entropy,
    error,
    mean_metrics,
    soft_error,
    squared_error,
    stopping_point,
)

LOGITS = torch.tensor([[0.0, math.log(3.0)], [2.0, 2.0], [0.0, 200.0]])
LABELS = torch.tensor([1, 1, 0])


@pytest.mark.parametrize(
    "metric, expected",
    [
        (soft_error, [0.25, 0.5, 1.0]),
        (error, [0.0, 1.0, 1.0]),  # of equal outputs the first is the prediction
        (cross_entropy, [math.log(4 / 3), math.log(2), 200.0]),
        (squared_error, [(math.log(3) - 1) ** 2, 4.0 + 1.0, 1.0 + 200.0**2]),
    ],
)
def test_metrics_are_their_definitions(metric, expected):
    torch.testing.assert_close(metric(LOGITS, LABELS), torch.tensor(expected))


def test_soft_error_of_a_certain_network_is_its_error():
    logits = 1000 * torch.eye(10)[torch.randint(10, (64,))]
    labels = torch.randint(10, (64,))
    torch.testing.assert_close(soft_error(logits, labels), error(logits, labels))


def test_soft_error_keeps_its_digits_near_zero():
    logits = torch.tensor([[0.0, 20.0]])
    expected = 1 / (1 + math.exp(20))  # 2.06e-9: 1 - p in float32 would be 0
    assert soft_error(logits, torch.tensor([1])).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_means_do_not_depend_on_the_batches(loss):
    logits, labels = torch.randn(100, 10), torch.randint(10, (100,))
    values = mean_metrics(zip(logits.split(7), labels.split(7), strict=True), loss)
    assert values == pytest.approx(mean_metrics([(logits, labels)], loss), rel=1e-12)
    assert values["error"] == error(logits, labels).mean(dtype=torch.float64).item()
    assert values["loss"] == pytest.approx(LOSSES[loss](logits, labels).mean().item(), rel=1e-6)


def test_half_precision_logits_are_measured_in_single():
    logits, labels = torch.randn(50, 10), torch.randint(10, (50,))
    half = logits.bfloat16()
    assert mean_metrics([(half, labels)]) == mean_metrics([(half.float(), labels)])


def test_sequences_are_measured_step_by_step():
    logits, labels = torch.randn(6, 5, 10), torch.randint(10, (6, 5))
    rows = mean_metrics([(logits.flatten(0, 1), labels.flatten())])
    assert mean_metrics([(logits, labels)]) == pytest.approx(rows, rel=1e-6)


def test_targets_that_are_no_labels_have_a_loss_alone():
    outputs, targets = torch.randn(8, 3), torch.randn(8, 3)
    values = mean_metrics([(outputs, targets)], "mse", {"mae": torch.nn.functional.l1_loss})
    assert values["loss"] == pytest.approx(((outputs - targets) ** 2).sum(1).mean().item())
    assert values["mae"] == pytest.approx((outputs - targets).abs().mean().item())
    assert set(values) == {"loss", "mae"}


def test_losses_have_the_gradient_of_the_mean():
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0])
    (gradient,) = torch.autograd.grad(squared_error(logits, labels).mean(), logits)
    expected = 2 * (logits - torch.eye(3)[labels]) / 4  # no 1/2 and no division by the classes
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    "errors, point",
    [([0.9, 0.02, 0.01, 0.5], 2), ([0.5, math.nan, 0.0], 2), ([0.5, 0.011], None), ([], None)],
)
def test_stopping_point_is_the_first_at_most_one_percent(errors, point):
    assert stopping_point(errors) == point


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: mean_metrics([(LOGITS, LABELS)], "hinge"), "unknown loss 'hinge'; known: cross"),
        (lambda: error(LOGITS, LABELS[:2]), r"got \(3, 2\) and \(2,\)"),
        (lambda: soft_error(LOGITS[0], LABELS), "expected logits"),
        (lambda: error(LOGITS, LABELS + 5), r"labels must be in \[0, 2\), the model's outputs"),
        (lambda: squared_error(LOGITS, torch.zeros(3)), "as many outputs as targets"),
        (
            lambda: mean_metrics([(LOGITS, LABELS)], lambda x, y: x),
            r"loss must be one number.*3, 2",
        ),
        (
            lambda: mean_metrics([(LOGITS, LABELS)], metrics={"top": lambda x, y: "high"}),
            "metric top must be one number for a batch, got str",
        ),
        (lambda: mean_metrics([]), "at least one example"),
        (lambda: stopping_point([0.1], 1.0), "threshold must be"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_calibration_error_is_the_mean_distance_of_accuracy_and_confidence_in_bins():
    torch.manual_seed(0)
    logits, labels = 2 * torch.randn(500, 4), torch.arange(500) % 4
    confidence, called = logits.softmax(1).max(1)
    total = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            right = (called == labels)[inside].double().mean()
            total += float(inside.sum() * abs(right - confidence[inside].double().mean()))
    assert calibration_error(logits, labels) == pytest.approx(total / 500)
    sure = 100 * torch.eye(4)[labels]
    assert calibration_error(sure, labels) == pytest.approx(0)
    assert calibration_error(sure, (labels + 1) % 4) == pytest.approx(1)
    assert calibration_error(torch.zeros(500, 4), labels) == pytest.approx(0)  # 1 of 4 is right
