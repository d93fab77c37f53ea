"""Seeds apart: what one of them names changes with it, and nothing else does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.worlds.small_stores import write_shards
from worlds import (
    ArrayStore,
    BootstrapLoader,
    BootstrapSampler,
    Data,
    FixedReuseLoader,
    FixedReuseSampler,
    IdealLoader,
    IdealSampler,
    RealLoader,
    RealSampler,
    StreamLoader,
    TrainConfig,
    compare,
)
from worlds.training.build import batch_format, make_loader, make_model, training_seed
from worlds.training.config import SEEDS

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
STORE = ArrayStore(IMAGES, RANDOM.integers(0, 10, 200), IMAGES[:50], RANDOM.integers(0, 10, 50))
DATA = Data.of(STORE)
CONFIG = TrainConfig("mlp_3x512", n=40, steps=6, batch_size=16, label_noise="symmetric:0.5")
PARTS = {"init": "init_seed", "data": "data_seed", "order": "order_seed", "crops": "augment_seed"}


def parts_of(config):
    """What each seed names: weights; subset and labels; order within the subset; crops."""
    noisy = STORE.train.with_label_noise(config.noise)
    loader = make_loader(config, noisy, batch_format(config, torch.device("cpu")))
    torch.manual_seed(training_seed(config))
    weights = torch.nn.utils.parameters_to_vector(make_model(config, DATA).parameters())
    samples = loader.sampler.samples
    order = [loader.sampler.places(loader.positions(step)).tolist() for step in range(6)]
    return {
        "init": weights.detach().numpy().tobytes(),
        "data": None if samples is None else (samples.tolist(), noisy.labels.tolist()),
        "order": order,
        "crops": loader.sampler.crops,
    }


def changed(config, other):
    before, after = parts_of(config), parts_of(other)
    return {part for part in before if before[part] != after[part]}


@pytest.mark.parametrize("world", ["real", "reuse:4", "bootstrap"])
@pytest.mark.parametrize("part", PARTS)
def test_a_seed_changes_its_part_and_no_other(part, world):
    config = replace(CONFIG, world=world)
    assert changed(config, replace(config, **{PARTS[part]: 7})) == {part}
    assert changed(config, replace(config, **{PARTS[part]: 0})) == set()  # as the seed itself


@pytest.mark.parametrize("part", PARTS)
def test_trials_differ_in_the_one_part_that_has_no_seed_of_its_own(part):
    """Ensembles over one source of chance: `--trials 10` with three of the four seeds given."""
    fixed = {seed: 0 for name, seed in PARTS.items() if name != part}
    config = replace(CONFIG, **fixed)
    assert changed(config, replace(config, trial=1)) == {part}
    assert config.group_key() == replace(config, trial=1).group_key()
    assert changed(CONFIG, replace(CONFIG, trial=1)) == set(PARTS)


def test_seeds_that_are_not_given_leave_a_run_its_name():
    plain = TrainConfig("preresnet18")
    assert all(getattr(plain, name) is None for name in SEEDS)
    names = [replace(plain, **{name: 0}).fingerprint() for name in SEEDS]
    assert len({plain.fingerprint(), *names}) == 5
    for name in SEEDS:
        with pytest.raises(ValueError, match=r"seed must be in \[0, 2\^64\), got -1"):
            replace(plain, **{name: -1})
        with pytest.raises(ValueError, match=f"{name} must be an integer, got '3'"):
            replace(plain, **{name: "3"})


@pytest.mark.parametrize(
    ("loader", "sampler", "options"),
    [
        (RealLoader, RealSampler, {"n": 64}),
        (FixedReuseLoader, FixedReuseSampler, {"n": 64, "reuse": 3}),
        (BootstrapLoader, BootstrapSampler, {"n": 64}),
        (IdealLoader, IdealSampler, {}),
    ],
)
def test_samplers_follow_the_loaders_in_every_seed(loader, sampler, options):
    seeds = {"seed": 1, "trial": 2, "order_seed": 4}
    seeds |= {"data_seed": 5} if options else {}
    size = {"batch_size": 16, "steps": 9, **options}
    for given in ({}, *({name: value} for name, value in seeds.items()), seeds):
        made, lists = loader(STORE.train, **size, **given), sampler(200, **size, **given)
        assert [made.indices(step).tolist() for step in range(9)] == list(lists)


def test_crops_keep_the_seed_when_the_order_gets_its_own():
    options = {"n": 200, "batch_size": 200, "steps": 1, "augment": "crop+flip", "threads": 0}
    (plain,), (ordered,), (cropped,) = (
        list(RealLoader(STORE.train, **options, **seeds))
        for seeds in ({}, {"order_seed": 9}, {"augment_seed": 9})
    )
    assert plain[1].tolist() == cropped[1].tolist() != ordered[1].tolist()
    assert not torch.equal(plain[0], cropped[0])
    same = RealLoader(STORE.train, **options, seed=9, augment_seed=0)
    assert torch.equal(next(iter(same))[0], ordered[0])


def test_a_state_says_which_crops_it_had():
    options = {"n": 64, "batch_size": 16, "steps": 9, "augment": "flip"}
    plain, other = (RealLoader(STORE.train, **options, augment_seed=k) for k in (0, 3))
    assert "crops" not in plain.state_dict()["config"]
    with pytest.raises(ValueError, match=r"crops = None, this one has \[3, 0\]"):
        other.load_state_dict(plain.state_dict())
    other.load_state_dict(other.state_dict())


def test_a_stream_has_its_seeds_apart(tmp_path):
    write_shards(tmp_path, IMAGES[:100], np.arange(100) % 10)

    def read(**seeds):
        made = StreamLoader(str(tmp_path), 100, steps=1, workers=0, augment="crop+flip", **seeds)
        return next(iter(made))

    plain, ordered, cropped = read(), read(order_seed=9), read(augment_seed=9)
    assert plain[1].tolist() == cropped[1].tolist() != ordered[1].tolist()
    assert not torch.equal(plain[0], cropped[0])
    assert torch.equal(read(seed=9, augment_seed=0)[0], ordered[0])


def test_an_ensemble_over_weights_is_compared_on_one_training_set(tmp_path):
    fixed = {"data_seed": 0, "order_seed": 0, "augment_seed": 0}
    made = compare(
        "mlp_3x512",
        STORE,
        n=40,
        batch_size=16,
        steps=3,
        trials=2,
        out=tmp_path,
        quiet=True,
        **fixed,
    )
    real = [run for run in made.runs if run.config.world == "real"]
    assert [run.config.trial for run in real] == [0, 1]
    assert changed(*(replace(run.config, label_noise="symmetric:0.5") for run in real)) == {"init"}
    assert real[0].final["test_loss"] != real[1].final["test_loss"]
