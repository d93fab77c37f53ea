"""The trainer at 224 px: both worlds on photographs in shards, left and taken up again."""

from dataclasses import replace

import pytest
import torch

from tests.worlds.data.test_photographs import make_store
from tests.worlds.small_runs import numbers
from worlds.training.build import Data
from worlds.training.config import TrainConfig
from worlds.training.train import train

CONFIG = TrainConfig(
    "resnet18",
    options={"width": 8},
    n=20,
    steps=4,
    batch_size=8,
    learning_rate=0.01,
    momentum=0.9,
    unit=1,
    normalize="unit",
    passes=2,
    log=2,
    train_eval=8,
    test_eval=8,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return Data.of(make_store(tmp_path_factory.mktemp("photographs")))


def test_both_worlds_train_on_photographs_and_resume_to_the_bit(data, tmp_path):
    for world in ("real", "ideal"):
        config = replace(CONFIG, world=world)
        whole = train(config, data, tmp_path / f"{world}-whole")

        def leave(updates):
            if updates == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(config, data, tmp_path / world, on_step=leave)
        assert numbers(train(config, data, tmp_path / world)) == numbers(whole)
        one, other = (
            torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["stepper"]["model"]
            for name in (world, f"{world}-whole")
        )
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_ideal_world_of_one_pass_does_not_feed_what_needs_more(data, tmp_path):
    longer = replace(CONFIG, world="ideal", passes=1)
    with pytest.raises(ValueError, match="the largest possible is 3 steps"):
        train(longer, data, tmp_path / "run")
