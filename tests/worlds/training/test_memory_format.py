"""In which memory a network is trained and measured."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.worlds.small_runs import SMALL, numbers, small_data
from worlds.training.build import in_layout, make_model, takes_channels_last
from worlds.training.config import TrainConfig
from worlds.training.parts import Parts
from worlds.training.train import train

CPU = torch.device("cpu")
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


class Viewing(nn.Module):
    """As many networks of tutorials: `view` needs contiguous memory."""

    def __init__(self):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 4, 5), nn.Linear(4 * 14 * 14, 10)

    def forward(self, x):
        x = torch.max_pool2d(self.convolution(x).relu(), 2)
        return self.head(x.view(-1, 4 * 14 * 14))


def is_channels_last(arch, **options):
    config = TrainConfig(arch, options, steps=10)
    model = in_layout(make_model(config, small_data()), config, CPU)
    weights = [p for p in model.parameters() if p.ndim == 4 and not p.is_contiguous()]
    return bool(weights)


def test_convolutions_are_trained_channels_last_where_their_gradients_are_right():
    assert is_channels_last("myrtle5", width=8)
    assert is_channels_last("preresnet18", width=16)
    # Strided convolutions of 8 channels: oneDNN's gradient reads beyond its memory.
    assert not is_channels_last("preresnet18", width=8)
    assert not is_channels_last("mlp_3x128")


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_network_that_calls_view_is_trained(device, tmp_path):
    config = replace(SMALL, steps=3)
    run = train(config, small_data(), tmp_path, device=device, parts=Parts(model=Viewing))
    assert run.summary is not None
    assert run.summary.updates == 3


def test_networks_of_users_and_of_their_optimizers_stay_contiguous():
    config = replace(SMALL, arch="myrtle5")
    model = make_model(config, small_data())
    assert takes_channels_last(model, config)
    assert takes_channels_last(model, replace(config, arch="timm:resnet18"))
    assert not takes_channels_last(model, replace(config, arch="my_models:network"))
    assert not takes_channels_last(model, config, Parts(optimizer=torch.optim.SGD))


def test_a_channels_last_run_ends_equal_after_a_stop(tmp_path):
    config = replace(SMALL, arch="myrtle5", options={"width": 4}, steps=6, batch_size=16)
    whole = train(config, small_data(), tmp_path / "whole")
    train(config, small_data(), tmp_path / "halves", last_step=2)
    resumed = train(config, small_data(), tmp_path / "halves")
    assert numbers(resumed)[-1] == numbers(whole)[-1]
