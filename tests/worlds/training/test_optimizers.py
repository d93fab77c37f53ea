"""Optimizers by name and by MODULE:NAME, at each parameter's own rate."""

import pytest
import torch
from torch import nn

from tests.worlds.small_runs import small
from worlds.models import create
from worlds.training.config import TrainConfig
from worlds.training.optimizers import Muon, make_optimizer, set_rate
from worlds.training.stepper import Stepper

CPU = torch.device("cpu")
X = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
Y = torch.arange(8) % 10
MUON = {"optimizer": "muon", "momentum": 0.95, "learning_rate": 0.01}


def network(seed=0, **options):
    torch.manual_seed(seed)
    return create("myrtle5", width=2, **options)


def test_muon_takes_hidden_weights_and_adamw_the_others():
    model = network()
    made = make_optimizer(TrainConfig("net", **MUON), model, 0.01)
    hidden = {id(p) for g in made.param_groups if "hidden" in g for p in g["params"]}
    convolutions = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert hidden == {id(p) for p in convolutions[1:]}
    assert {id(p) for g in made.param_groups for p in g["params"]} == set(
        map(id, model.parameters())
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_updates_kernels_as_torch_does_matrices(layout):
    model = network().to(memory_format=layout)
    made = make_optimizer(TrainConfig("net", **MUON), model, 0.01)
    kernel = next(p for p in made.param_groups[0]["params"])
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    torchs = torch.optim.Muon(
        [matrix], lr=0.01, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        made.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        matrix.grad = kernel.grad.flatten(1).clone()
        made.step()
        torchs.step()
    assert torch.equal(kernel.flatten(1), matrix)


@pytest.mark.parametrize(
    "fields",
    [
        MUON,
        {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        {"optimizer": "torch.optim:NAdam", "learning_rate": 0.01},
        {"optimizer": "pytorch_optimizer:SOAP", "learning_rate": 0.01},
    ],
    ids=lambda fields: fields["optimizer"],
)
def test_a_run_goes_on_from_its_state(fields):
    if fields["optimizer"].startswith("pytorch_optimizer"):
        pytest.importorskip("pytorch_optimizer", reason="the package with SOAP is not installed")
    options = {} if ":" in fields["optimizer"] else {"parametrization": "mup", "base_width": 1}
    config = small(**({"momentum": 0.0} | fields))
    whole, first, second = (Stepper(config, network(seed, **options), CPU) for seed in (0, 0, 1))
    for step in range(4):
        whole.step(X, Y, 0.01 / (step + 1))
    for step in range(2):
        first.step(X, Y, 0.01 / (step + 1))
    second.load_state_dict(first.state_dict())
    for step in range(2, 4):
        second.step(X, Y, 0.01 / (step + 1))
    for p, q in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_each_group_keeps_its_factor_and_the_product_with_weight_decay():
    model = network(parametrization="mup", base_width=1)
    config = TrainConfig("net", optimizer="sgd", weight_decay=0.1)
    made = make_optimizer(config, model, torch.tensor(0.5))
    tensors = [g["lr"] for g in made.param_groups]
    set_rate(made, 0.25)
    factors = {g["lr_scale"] for g in made.param_groups}
    assert factors == {0.5, 1.0, 2.0}  # output; hidden and fixed; input, biases and norms
    for group, tensor in zip(made.param_groups, tensors, strict=True):
        assert group["lr"] is tensor  # which a captured step reads
        assert float(group["lr"]) == 0.25 * group["lr_scale"]
        assert group["weight_decay"] * group["lr_scale"] == pytest.approx(0.1)


def test_a_class_by_its_name_gets_what_the_config_sets():
    config = TrainConfig("net", optimizer="torch.optim:SGD", momentum=0.9, weight_decay=0.01)
    group = make_optimizer(config, network(), 0.1).param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 0.01)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"optimizer": "no.module:Class"}, "no.module:Class"),
        ({"optimizer": "torch.optim:Missing"}, "Missing"),
        ({"optimizer": "torch.optim:Adam", "momentum": 0.9}, "momentum"),
        ({"optimizer": "torch.nn:Module"}, "Module"),
        ({"optimizer": "math:sqrt"}, "sqrt"),
    ],
)
def test_what_makes_no_optimizer_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(TrainConfig("net", **fields), network(), 0.1)


def test_own_optimizers_have_no_table_of_rates():
    config = TrainConfig("net", optimizer="torch.optim:SGD")
    with pytest.raises(ValueError, match="standard"):
        make_optimizer(config, network(parametrization="mup", base_width=1), 0.1)


def test_muon_asks_for_a_momentum_and_for_hidden_weights():
    with pytest.raises(ValueError, match="momentum"):
        TrainConfig("net", optimizer="muon")
    with pytest.raises(ValueError, match="first and the last"):
        make_optimizer(TrainConfig("net", **MUON), nn.Linear(3, 2), 0.1)
    assert isinstance(make_optimizer(TrainConfig("net", **MUON), network(), 0.1), Muon)
