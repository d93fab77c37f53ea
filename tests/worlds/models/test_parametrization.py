"""muP and mean field scale initial weights and learning rates as published, at every width."""

import copy
import importlib.util
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from worlds.models import create
from worlds.training.config import TrainConfig
from worlds.training.optimizers import make_optimizer

PATH = Path(__file__).resolve().parents[3] / "tools" / "coordinate_check.py"
spec = importlib.util.spec_from_file_location("coordinate_check", PATH)
assert spec is not None
assert spec.loader is not None
coordinate_check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(coordinate_check)

MUP = {"parametrization": "mup", "base_width": 16}
X = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 10
FAMILIES = [
    ("mlp_2x{}", {"batch_norm": False}, 16),
    ("myrtle5", {}, 4),
    ("preresnet18", {}, 4),
    ("resnet18", {}, 4),
    ("vit_b8", {"layers": 1}, 64),
]


def build(name, width, seed=0, **options):
    torch.manual_seed(seed)
    if "{}" in name:
        return create(name.format(width), **options)
    return create(name, width=width, **options)


def trained(model, optimizer, steps, rate, **fields):
    made = make_optimizer(TrainConfig("net", optimizer=optimizer, **fields), model, rate)
    for _ in range(steps):
        made.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        made.step()
    return model


@pytest.mark.parametrize("name, options, width", FAMILIES)
def test_at_the_base_width_the_network_is_the_standard_one(name, options, width):
    plain, state = build(name, width, **options), torch.get_rng_state()
    scaled = build(name, width, parametrization="mup", base_width=width, **options)
    assert torch.equal(torch.get_rng_state(), state)
    for p, q in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(p, q)
    for optimizer in ("sgd", "adam"):
        assert set(scaled.parametrization.rates(optimizer).values()) == {1.0}


def test_rates_and_initial_weights_are_those_of_table_3():
    plain = build("mlp_2x{}", 64, batch_norm=False)
    model = build("mlp_2x{}", 64, batch_norm=False, **MUP)  # four times as wide
    sgd, adam = (model.parametrization.rates(o) for o in ("nesterov", "adamw"))
    # layers 1 (input), 3 (hidden), 5 (output) of the sequence
    assert [sgd[f"{i}.weight"] for i in (1, 3, 5)] == [4, 1, 1 / 4]
    assert [sgd[f"{i}.bias"] for i in (1, 3, 5)] == [4, 4, 1]
    assert [adam[f"{i}.weight"] for i in (1, 3, 5)] == [1, 1 / 4, 1 / 4]
    assert [adam[f"{i}.bias"] for i in (1, 3, 5)] == [1, 1, 1]
    ratio = {
        name: float((p.norm() / q.norm()).detach())
        for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True)
    }
    expected = dict.fromkeys(("1.weight", "1.bias", "3.weight"), 1.0)
    expected |= {"3.bias": 2.0, "5.weight": 0.5, "5.bias": 2.0}
    assert ratio == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_is_that_of_the_mup_package(optimizer, capsys):
    mup = pytest.importorskip("mup", reason="the package by the authors is not installed")

    def network(width):
        layers = nn.Flatten(), nn.Linear(3072, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        return nn.Sequential(*layers, mup.MuReadout(width, 10))

    torch.manual_seed(0)
    theirs = network(128)
    mup.set_base_shapes(theirs, network(16), delta=network(32))
    ours = build("mlp_2x{}", 128, batch_norm=False, **MUP)
    assert torch.allclose(ours(X), theirs(X), atol=1e-6)
    rate, decay = {"sgd": 0.1, "adam": 0.001}[optimizer], {"weight_decay": 0.01}
    if optimizer == "sgd":
        their = mup.MuSGD(theirs.parameters(), lr=rate, momentum=0.9, **decay)
        trained(ours, "sgd", 6, rate, momentum=0.9, **decay)
    else:
        their = mup.MuAdamW(theirs.parameters(), lr=rate, **decay)
        trained(ours, "adamw", 6, rate, **decay)
    before = theirs(X).detach()
    for _ in range(6):
        their.zero_grad()
        F.cross_entropy(theirs(X), Y).backward()
        their.step()
    moved = (theirs(X) - before).norm()
    assert moved > 0.1
    assert (ours(X) - theirs(X)).norm() < 0.01 * moved


WIDTHS = [64, 128, 256, 512, 1024]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_coordinates_of_an_mlp_move_alike_from_width_64_to_1024(optimizer):
    moved = coordinate_check.check("mlp_3x", WIDTHS, optimizer, MUP | {"base_width": 64}, trials=1)
    slopes = [coordinate_check.slope(WIDTHS, m) for m in moved.values()]
    assert len(slopes) == 4
    assert max(map(abs, slopes)) < 0.2
    plain = coordinate_check.check("mlp_3x", WIDTHS, optimizer, {}, trials=1)
    slopes = [coordinate_check.slope(WIDTHS, m) for m in plain.values()]
    assert max(map(abs, slopes)) > 0.4


@pytest.mark.parametrize(
    "arch, widths, options",
    [
        ("myrtle5", [4, 8, 16, 32], {"batch_norm": False}),
        ("preresnet18", [4, 8, 16], {}),
        ("vit_b8", [64, 128, 256], {"layers": 1, "embedding_std": 0.02}),
    ],
)
def test_coordinates_of_other_networks_move_alike(arch, widths, options):
    base = {"parametrization": "mup", "base_width": widths[0]}
    worst = []
    for given in (options | base, options):
        moved = coordinate_check.check(arch, widths, "adam", given, batch=8, trials=1)
        worst.append(max(abs(coordinate_check.slope(widths, m)) for m in moved.values()))
    assert worst[0] < 0.35 < 0.6 < worst[1]


def test_mean_field_with_gamma_1_is_mup():
    for optimizer in ("sgd", "adam"):
        mup = trained(build("mlp_2x{}", 64, batch_norm=False, **MUP), optimizer, 3, 0.01)
        options = MUP | {"parametrization": "mean_field", "batch_norm": False}
        field = trained(build("mlp_2x{}", 64, **options), optimizer, 3, 0.01)
        assert torch.equal(mup(X), field(X))


@pytest.mark.parametrize("optimizer, rate", [("sgd", 1e-3), ("adam", 1e-5)])
def test_gamma_sets_how_far_features_move_while_outputs_move_alike(optimizer, rate):
    outputs, features = [], []
    for gamma in (0.5, 0.125):
        options = {"parametrization": "mean_field", "base_width": 16, "gamma": gamma}
        model = build("mlp_2x{}", 64, batch_norm=False, centered=True, **options)
        assert torch.equal(model(X), torch.zeros(8, 10))
        below = copy.deepcopy(model.network[:-1])
        trained(model, optimizer, 1, rate)
        with torch.no_grad():
            outputs.append(float(model(X).norm()))
            features.append(float((model.network[:-1](X) - below(X)).norm()))
    assert math.isclose(outputs[0], outputs[1], rel_tol=0.1)
    assert math.isclose(features[0], 4 * features[1], rel_tol=0.1)


def test_a_centered_network_trains_only_itself():
    options = {"parametrization": "mean_field", "base_width": 16, "centered": True}
    model = build("mlp_2x{}", 32, batch_norm=False, dropout=0.5, **options)
    assert not model.train().initial.training
    start = copy.deepcopy(model.initial.state_dict())
    trained(model, "adam", 2, 0.01)
    assert all(torch.equal(v, start[k]) for k, v in model.initial.state_dict().items())


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("mlp_2x16", {"parametrization": "ntk"}, "'ntk'"),
        ("mlp_2x16", {"parametrization": "mup"}, "base_width"),
        ("mlp_2x16", {"base_width": 8}, "standard"),
        ("mlp_2x16", MUP | {"base_width": 0}, "base_width"),
        ("mlp_2x16", MUP | {"gamma": 2.0}, "mean_field"),
        ("mlp_2x16", MUP | {"parametrization": "mean_field", "gamma": 0}, "gamma"),
        ("mlp_2x16", MUP | {"parametrization": "mean_field", "centered": "yes"}, "'yes'"),
        ("mlp_2x16", MUP | {"parametrization": "mean_field", "centered": True}, "batch norm"),
        ("vgg11", MUP, "no width"),
        ("vit_b8", {"width": 100}, "100"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name, options, message):
    with pytest.raises(ValueError, match=message):
        create(name, **options)
