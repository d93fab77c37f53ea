"""Options of the protocol: train error, order, mixup, noisy test labels, validation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.worlds.small_runs import numbers, small, small_data
from worlds.experiments.costs import count_cost
from worlds.loaders.samplers import subset
from worlds.training.build import noise_of_test, validation_samples
from worlds.training.config import TrainConfig, ideal_key
from worlds.training.metrics import patience_point
from worlds.training.optimizers import make_optimizer
from worlds.training.stepper import Stepper
from worlds.training.train import train

DATA = small_data()


def column(run, name):
    return [row[name] for row in run.rows]


def test_the_whole_reading_of_the_train_error_and_the_cheap_one_are_of_one_training(tmp_path):
    cheap = small(train_eval=100)
    whole = replace(cheap, train_eval=None, fresh_crops=True)
    a, b = (train(c, DATA, tmp_path / str(i)) for i, c in enumerate((cheap, whole)))
    assert column(a, "test_error") == column(b, "test_error")  # what is trained is the same
    assert column(a, "train_error") != column(b, "train_error")
    # 300 samples: shares are multiples of 1/300, of the cheap reading's of 1/100
    assert all(round(300 * e, 6) == round(300 * e) for e in column(b, "train_error"))
    assert any(round(100 * e, 6) != round(100 * e) for e in column(b, "train_error"))


def test_fresh_crops_differ_at_each_log_point_and_a_resumed_run_draws_the_same(tmp_path):
    still = small(learning_rate=1e-12, momentum=0.0, arch="mlp_1x16", steps=17, fresh_crops=True)
    still = replace(still, options={"batch_norm": False})
    fresh = train(still, DATA, tmp_path / "fresh")
    fixed = train(replace(still, fresh_crops=False), DATA, tmp_path / "fixed")
    assert len(set(column(fixed, "train_loss"))) < len(set(column(fresh, "train_loss"))) == 3
    train(still, DATA, tmp_path / "again", last_step=9)
    again = train(still, DATA, tmp_path / "again")
    assert numbers(again)[-1] == numbers(fresh)[-1]


@pytest.mark.parametrize("augment, expected", [("crop+flip", [0, 3, 4]), (None, [0, 1, 2, 3, 4])])
def test_clean_train_metrics_are_taken_at_some_log_points_and_change_nothing_else(
    tmp_path, augment, expected
):
    every = small(augment=augment)
    some = replace(every, clean_every=3)
    one, other = (train(c, DATA, tmp_path / str(c.clean_every)) for c in (every, some))
    assert [i for i, row in enumerate(other.rows) if "train_clean_error" in row] == expected
    for whole, row in zip(numbers(one), numbers(other), strict=True):
        left_out = {name for name in whole if name.startswith("train_clean")} - row.keys()
        assert row == {name: value for name, value in whole.items() if name not in left_out}
    images = len(expected) * 100 + 5 * (150 + (100 if augment else 0))
    assert count_cost(some, [200], 0, 0).evaluation_images == images
    assert ideal_key(some) == ideal_key(every)


@pytest.mark.parametrize("remainder, samples", [("carry", 960), ("drop", 960), ("short", 900)])
def test_the_order_of_the_released_code_can_be_trained(tmp_path, remainder, samples):
    run = train(small(remainder=remainder), DATA, tmp_path)  # n = 300 at 32: 9 batches and 12
    assert run.final["samples"] == samples


def test_validation_samples_are_those_that_a_larger_n_would_take(tmp_path):
    config = small(validation=50, label_noise="symmetric:0.5")
    held = validation_samples(config, 1_200)
    np.testing.assert_array_equal(held, subset(1_200, 350, 0, 0)[300:])
    run = train(config, DATA, tmp_path)
    assert {"validation_error", "validation_loss", "train_kept_error"} <= set(run.final)
    with pytest.raises(ValueError, match="n must be between 1 and the 1,200"):
        train(small(validation=1_000), DATA, tmp_path / "large")


def test_patience_counts_epochs_and_asks_for_an_improvement(tmp_path):
    values, epochs = [0.5, 0.4, 0.395, 0.39, 0.39, 0.39], [0, 1, 2, 3, 4, 5]
    assert patience_point(values, 2, epochs) == (5, 3)
    assert patience_point(values, 2, epochs, min_improvement=0.02) == (3, 1)
    config = small(
        arch="mlp_1x16", learning_rate=1e-12, momentum=0.0, validation=50, stop="patience",
        patience=1, log=4, options={"batch_norm": False},
    )  # fmt: skip
    run = train(config, DATA, tmp_path)  # an epoch is 9.4 updates
    assert (run.summary.ended, run.final["updates"]) == ("patience", 13)


def test_test_labels_carry_the_noise_where_asked_apart_from_the_training_samples(tmp_path):
    config = small(label_noise="symmetric:0.5")
    noise = noise_of_test(config.noise)
    noisy = DATA.test.with_label_noise(noise)
    assert 0.4 < np.mean(noisy.labels != DATA.test.labels) < 0.6
    twin = DATA.test.with_label_noise(config.noise)
    assert np.any(twin.labels != noisy.labels)
    clean, risk = (
        train(replace(config, test_noise=carried), DATA, tmp_path / str(carried)).final[
            "test_error"
        ]
        for carried in (False, True)
    )
    assert risk > clean


def test_mixup_trains_on_both_labels_and_measures_plain_images(tmp_path):
    config = small(mixup=1.0, augment=None)
    mixed = train(config, DATA, tmp_path / "mixed")
    plain = train(replace(config, mixup=0.0), DATA, tmp_path / "plain")
    assert numbers(mixed) != numbers(plain)
    assert numbers(train(config, DATA, tmp_path / "again")) == numbers(mixed)
    # One step against the definition, with a share that is drawn as the stepper draws it.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 3))
    start = [p.detach().clone() for p in model.parameters()]
    x, y = torch.randn(6, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    share = np.random.Generator(np.random.Philox(counter=[0] * 4, key=[0, 0])).beta(1.0, 1.0)
    stepper = Stepper(replace(config, momentum=0.0), model, torch.device("cpu"))
    stepper.step(x, y, 0.5)
    weight, bias = (p.clone().requires_grad_() for p in start)
    logits = (share * x + (1 - share) * x.flip(0)).flatten(1) @ weight.T + bias
    loss = share * nn.functional.cross_entropy(logits, y)
    loss = loss + (1 - share) * nn.functional.cross_entropy(logits, y.flip(0))
    loss.backward()
    for own, begun, moved in zip((weight, bias), start, model.parameters(), strict=True):
        torch.testing.assert_close(moved.detach(), begun - 0.5 * own.grad)


def test_adagrad_and_betas_reach_the_optimizer(tmp_path):
    model = nn.Linear(2, 2)
    adam = make_optimizer(TrainConfig("net", optimizer="adam", betas=(0.9, 0.95)), model, 0.1)
    assert adam.param_groups[0]["betas"] == (0.9, 0.95)
    adagrad = make_optimizer(TrainConfig("net", optimizer="adagrad"), model, 0.1)
    assert isinstance(adagrad, torch.optim.Adagrad)
    run = train(small(optimizer="adagrad", momentum=0.0), DATA, tmp_path)
    assert run.finished


def test_the_confusion_of_every_class_and_the_mass_of_the_partner_are_measured(tmp_path):
    run = train(small(label_noise="pairs:0.5:3>5"), DATA, tmp_path)
    rows = [[run.final[f"test_confusion_{a}_{b}"] for b in range(10)] for a in range(10)]
    np.testing.assert_allclose(np.sum(rows, axis=1), 1)
    assert run.final["test_partner_share"] == rows[3][5]
    assert 0 < run.final["test_partner_mass"] < 1
