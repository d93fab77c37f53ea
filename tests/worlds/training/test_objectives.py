"""Learning without labels: losses against their formulas, the probe against scikit-learn."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import nn

from tests.worlds.small_runs import numbers, small, small_data
from worlds.training.build import make_model
from worlds.training.config import TrainConfig
from worlds.training.objectives import (
    Headed,
    description_bits,
    fit_logistic,
    fit_neighbors,
    nt_xent,
    rotation,
    simclr,
)
from worlds.training.train import train

DATA = small_data()
NET = {"arch": "myrtle5", "options": {"width": 2}, "steps": 6, "log": 3, "augment": None}


def test_the_contrastive_loss_is_its_formula():
    torch.manual_seed(0)
    rows = torch.randn(10, 4)
    total = 0.0
    for i in range(10):
        scores = [
            math.exp(float(torch.cosine_similarity(rows[i], rows[k], dim=0)) / 0.5)
            for k in range(10)
        ]
        total -= math.log(scores[(i + 5) % 10] / (sum(scores) - scores[i]))
    assert float(nt_xent(rows, 0.5)) == pytest.approx(total / 10, rel=1e-5)


def test_equal_views_and_no_other_image_leave_nothing_to_find():
    assert float(nt_xent(torch.tensor([[1.0, 2.0], [2.0, 4.0]]))) == pytest.approx(0, abs=1e-6)
    alike = torch.ones(6, 3)  # nobody can be told apart: 1 of 5
    assert float(nt_xent(alike)) == pytest.approx(math.log(5), rel=1e-6)


def test_a_network_that_knows_the_turn_has_no_rotation_loss():
    x = torch.zeros(3, 3, 8, 8)
    x[:, :, 0] = 1.0  # a bright upper edge, and where each quarter turn takes it

    def knows(turned):
        edges = (turned[:, 0, 0], turned[:, 0, :, 0], turned[:, 0, -1], turned[:, 0, :, -1])
        return 50 * torch.stack([edge.mean(1) for edge in edges], 1)

    assert float(rotation(knows, x)) == pytest.approx(0, abs=1e-6)
    assert float(rotation(lambda t: torch.zeros(len(t), 4), x)) == pytest.approx(math.log(4))


def test_two_views_are_drawn_of_each_image_in_the_range_of_pixels():
    seen = []

    def network(views):
        seen.append(views)
        return views.flatten(1)

    torch.manual_seed(0)
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    simclr(network, x)
    (views,) = seen
    assert views.shape == (8, 3, 32, 32)
    assert float(views.min()) >= -1 - 1e-6
    assert float(views.max()) <= 1 + 1e-6
    assert not torch.equal(views[:4], views[4:])
    torch.manual_seed(0)
    torch.rand(4, 3, 32, 32)
    simclr(network, x)
    assert torch.equal(seen[0], seen[1])  # the generator's state is all there is to it


@pytest.mark.parametrize("decay", [1e-1, 1e-3])
def test_the_probe_is_scikit_learns(decay):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 7)) * rng.uniform(0.1, 5, 7) + 3
    y = (x @ rng.normal(size=(7, 4)) + rng.normal(size=(400, 4)) * 3).argmax(1)
    head = fit_logistic(torch.tensor(x), torch.tensor(y), 4, decay)
    scaler = StandardScaler().fit(x)
    own = LogisticRegression(C=1 / (400 * decay), tol=1e-8, max_iter=2_000)
    own.fit(scaler.transform(x), y)
    theirs = own.predict_proba(scaler.transform(x))
    with torch.no_grad():
        ours = head(torch.tensor(x, dtype=torch.float32)).softmax(1).numpy()
    assert np.abs(ours - theirs).max() < 1e-4


def test_the_k_nn_classifier_is_scikit_learns():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 6)) + 1, rng.integers(0, 4, 300)
    other = rng.normal(size=(50, 6)) + 1
    own = KNeighborsClassifier(n_neighbors=20, metric="cosine").fit(x, y)
    head = fit_neighbors(torch.tensor(x, dtype=torch.float32), torch.tensor(y), 4)
    with torch.no_grad():
        ours = head(torch.tensor(other, dtype=torch.float32)).softmax(1).numpy()
    assert np.abs(ours - own.predict_proba(other)).max() < 1e-4


def test_a_feature_that_never_changes_is_harmless():
    x = torch.randn(50, 3)
    x[:, 1] = 4.0
    head = fit_logistic(x, torch.arange(50) % 2, 2)
    assert all(bool(torch.isfinite(p).all()) for p in head.parameters())


def test_a_classifier_of_few_levels_takes_fewer_bits_than_a_random_one():
    torch.manual_seed(0)
    features = torch.randn(300, 64)
    plain, random = nn.Linear(64, 10), nn.Linear(64, 10)
    with torch.no_grad():
        for p in plain.parameters():
            p.zero_()
        plain.bias[3] = 1.0  # a constant
    assert description_bits(plain, features) < 64 + 8 * 40
    assert 64 + 650 <= description_bits(random, features) <= 64 + 650 * 16 + 8 * 40


@pytest.mark.parametrize("objective", ["simclr", "rotation"])
@pytest.mark.parametrize("world", ["real", "ideal"])
def test_a_run_without_labels_is_measured_by_a_probe_in_both_worlds(objective, world, tmp_path):
    config = small(objective=objective, world=world, **NET)
    run = train(config, DATA, tmp_path / "run")
    assert run.final["test_error"] < 0.85  # chance is 0.9; brightness is easily read
    assert ("train_error" in run.final) == (world == "real")
    model = make_model(config, DATA)
    assert isinstance(model, Headed)


def test_stopped_and_resumed_it_draws_the_same_views(tmp_path):
    config = small(objective="simclr", **NET)
    whole = train(config, DATA, tmp_path / "whole")

    def leave(updates):
        if updates == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, DATA, tmp_path / "cut", on_step=leave)
    assert numbers(train(config, DATA, tmp_path / "cut")) == numbers(whole)


def test_noise_on_labels_changes_the_probe_and_not_the_representation(tmp_path):
    config = small(objective="simclr", **NET)
    train(config, DATA, tmp_path / "clean")
    noisy = replace(config, label_noise="symmetric:0.4")
    run = train(noisy, DATA, tmp_path / "noisy")
    assert run.final["train_corrupted_error"] is not None
    weights = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["stepper"]["model"]
        for name in ("clean", "noisy")
    ]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_stage_two_alone_is_the_probe_of_stage_one(tmp_path):
    first = small(objective="simclr", **NET)
    one = train(first, DATA, tmp_path / "runs" / f"simclr-{first.fingerprint()[:12]}")
    second = replace(
        first, objective="labels", initial=f"run:{first.fingerprint()}", frozen=True,
        optimizer="logistic", momentum=0.0, weight_decay=1e-3, steps=1, batch_size=first.n,
    )  # fmt: skip
    two = train(second, DATA, tmp_path / "runs" / "probe")
    for name in ("test_error", "test_soft_error", "train_error"):
        assert two.final[name] == pytest.approx(one.final[name], abs=0.011), name
    assert two.final["probe_bits"] > 64
    votes = replace(second, optimizer="knn")
    three = train(votes, DATA, tmp_path / "runs" / "votes")
    assert three.final["test_error"] < 0.85
    state = torch.load(tmp_path / "runs" / "votes" / "checkpoint.pt", weights_only=True)
    assert state["stepper"]["model"]["head.weight"].shape[0] == first.n


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"objective": "jigsaw"}, "objective must be one of labels, simclr, rotation"),
        ({"objective": "simclr", "mixup": 0.2}, "simclr takes no frozen, mixup"),
        ({"objective": "simclr", "normalize": "unit"}, "simclr takes normalize"),
        ({"optimizer": "logistic", "steps": 1}, "fits the head of frozen=True in steps=1"),
        ({"optimizer": "knn"}, "knn fits the head of frozen=True in steps=1"),
        ({"compared": -1}, "compared must be an integer of 0 or more, got -1"),
    ],
)
def test_what_cannot_be_is_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        TrainConfig("myrtle5", **fields)
