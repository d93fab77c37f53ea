import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from worlds import Augment, LabelNoise
from worlds.training.config import TrainConfig, differing_fields, parse_label_noise

CONFIG = TrainConfig("preresnet18", options={"width": 8}, schedule="steps", drops=(2, 4), unit=10)


def test_a_config_survives_json():
    assert TrainConfig.from_json(json.loads(json.dumps(CONFIG.to_json()))) == CONFIG


def test_the_defaults_are_the_papers_main_protocol():
    c = TrainConfig("preresnet18")
    assert (c.n, c.steps, c.batch_size, c.unit) == (50_000, 39_000, 128, 390)
    assert (c.optimizer, c.learning_rate, c.momentum, c.weight_decay) == ("sgd", 0.1, 0.0, 0.0)
    assert (c.schedule, c.loss, c.augment, c.threshold) == (
        "cosine",
        "cross_entropy",
        "crop+flip",
        0.01,
    )


@pytest.mark.parametrize(
    ("log", "count"),
    [
        ("paper", 963),  # the paper's 962, and the last step
        ("fast", 611),
        ("spaced", 55),
        (1000, 40),
    ],
)
def test_the_log_points_of_39_000_steps_are_counted(log, count):
    points = TrainConfig("preresnet18", log=log).points
    assert len(points) == count
    assert points[0] == 0
    assert points[-1] == 38_999


def test_the_papers_first_log_points():
    assert TrainConfig("preresnet18").points[:5] == [0, 4, 8, 12, 16]
    assert TrainConfig("preresnet18").points[-4:] == [38_848, 38_912, 38_976, 38_999]


def test_the_twins_of_a_trial_share_a_pair_key_and_trials_a_group_key():
    real, ideal = CONFIG, replace(CONFIG, world="ideal")
    other = replace(CONFIG, trial=1)
    assert real.fingerprint() != ideal.fingerprint()
    assert real.pair_key() == ideal.pair_key() != other.pair_key()
    assert real.group_key() == other.group_key() != replace(CONFIG, n=7).group_key()


def test_a_config_of_an_earlier_version_is_read_and_keeps_its_name():
    """Run directories hold these names: the field was `normalise` when they were made."""
    earlier = TrainConfig.from_json({"arch": "mlp", "n": 100, "normalise": "unit"})
    assert earlier == TrainConfig("mlp", n=100, normalize="unit")
    assert earlier.fingerprint().startswith("314fcf280d11d36ec56fe132153177a44efeacaa3c192ea3")
    assert earlier.pair_key().startswith("0939a4e7e2f42561a0a4b70d1e96a92e1ff88fd4a02e153d")
    assert earlier.group_key().startswith("2eaa7cfd3e930d94959ab13af5827d6c70e985acb45f3b0a")


def test_every_field_decides_the_fingerprint():
    changes = {
        "arch": "mlp_3x16", "options": {"width": 9}, "world": "ideal", "n": 7,
        "initial": "runs/real-0", "frozen": True, "disjoint": True, "passes": 2,
        "steps": 70, "batch_size": 7, "optimizer": "rmsprop", "learning_rate": 0.2,
        "momentum": 0.5, "weight_decay": 0.1, "schedule": "cosine", "unit": 7, "drops": (3,),
        "factor": 0.5, "warmup": 7, "loss": "mse", "augment": None,
        "normalize": "unit", "label_noise": "uniform:0.1",
        "precision": "bf16", "seed": 7, "trial": 7, "log": "fast", "test_eval": None,
        "train_eval": None, "stop": "train_error", "threshold": 0.5, "patience": 3,
        "min_improvement": 0.1, "validation": 7, "remainder": "drop", "betas": (0.5, 0.9),
        "mixup": 0.5, "test_noise": True, "fresh_crops": True, "clean_every": 8,
        "init_seed": 0, "data_seed": 0, "order_seed": 0, "augment_seed": 0,
        "objective": "simclr", "sync_batch_norm": False,
        "ema": 0.99, "compared": 7,
    }  # fmt: skip
    assert set(changes) == {f.name for f in fields(TrainConfig)}
    prints = {CONFIG.fingerprint()}
    for name, value in changes.items():
        also = {"drops": ()} if name == "schedule" else {}
        also |= {"initial": "runs/real-0"} if name == "frozen" else {}
        also |= {"stop": "patience"} if name == "patience" else {}
        also |= {"label_noise": "uniform:0.2"} if name == "test_noise" else {}
        prints.add(replace(CONFIG, **{name: value}, **also).fingerprint())
    assert len(prints) == len(changes) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world": "dream"}, "world must be one of real, ideal, bootstrap, reuse:K, got 'dream'"),
        ({"n": 0}, "n must be an integer from 1 to 10,000,000,000, got 0"),
        ({"batch_size": 0}, "batch_size must be an integer from 1"),
        ({"momentum": 1.0}, r"momentum must be a number in \[0, 1\), got 1.0"),
        ({"optimizer": "adam", "momentum": 0.9}, "adam takes no momentum"),
        ({"optimizer": "nesterov"}, "needs a momentum above 0"),
        ({"schedule": "linear"}, "schedule must be one of cosine"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"warmup": 40_000}, "warmup must be in"),
        ({"log": "often"}, "log must be one of paper, fast, spaced or an integer from 1"),
        ({"stop": "patience"}, "patience of 1 or more go together"),
        ({"label_noise": "salt:0.1"}, "label noise is symmetric:RATE"),
        ({"label_noise": "pairs:0.3"}, "label noise is symmetric:RATE"),
        ({"frozen": True}, "give initial"),
        ({"seed": -1}, "seed must be in"),
        ({"seed": 1.5}, "seed must be an integer, got 1.5"),
        ({"n": 500.0}, "n must be an integer from 1 to 10,000,000,000, got 500.0"),
        (
            {"patience": 2.5, "stop": "patience"},
            "patience must be an integer of 0 or more, got 2.5",
        ),
        ({"test_eval": 100.0}, "test_eval must be an integer"),
        ({"learning_rate": "0.1"}, "learning_rate must be a number, got '0.1'"),
        ({"threshold": None}, r"threshold must be a number in .0, 1\), got None"),
        ({"augment": Augment(flip=True)}, "augment must be text, got Augment"),
        ({"label_noise": LabelNoise("symmetric", 0.2)}, "label_noise must be text, got LabelN"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig("preresnet18", **changes)


def test_numpys_numbers_and_paths_become_what_json_knows():
    given = TrainConfig(
        "preresnet18",
        n=np.int64(7),
        schedule="steps",
        drops=np.array([2, 4]),
        log=np.int64(9),
        learning_rate=np.float64(0.1),
        weight_decay=np.float32(0.5),
        options={"width": np.int64(8), "batch_norm": np.bool_(True)},
        initial=Path("runs") / "real-0",
    )
    plain = TrainConfig(
        "preresnet18",
        n=7,
        schedule="steps",
        drops=(2, 4),
        log=9,
        weight_decay=0.5,
        options={"width": 8, "batch_norm": True},
        initial="runs/real-0",
    )
    assert json.dumps(given.to_json()) == json.dumps(plain.to_json())
    assert given == plain


def test_an_unknown_field_of_a_saved_config_is_named():
    with pytest.raises(ValueError, match="no field 'color'"):
        TrainConfig.from_json(CONFIG.to_json() | {"color": "red"})


def test_differences_are_told_field_by_field():
    other = replace(CONFIG, n=7).to_json()
    assert differing_fields(CONFIG.to_json(), other) == ["n = 50000 there, 7 here"]


def test_label_noise_is_read_with_its_pairs():
    noise = parse_label_noise("pairs:0.3:3>5,5>3", seed=1, trial=2)
    assert (noise.kind, noise.rate, noise.pairs) == ("pairs", 0.3, {3: 5, 5: 3})
    assert (noise.seed, noise.trial) == (1, 2)


def test_configs_of_earlier_versions_keep_their_names_and_new_fields_make_new_ones():
    # Literals of version 0.1: saved runs and experiments are found by them.
    plain = TrainConfig("preresnet18")
    assert plain.fingerprint()[:16] == "87bdc071c5c03669"
    assert plain.pair_key()[:16] == "66c04f8dac93c7d7"
    assert plain.group_key()[:16] == "87c8e4bb1cbd8833"
    saved = plain.to_json()
    new = ("remainder", "betas", "mixup", "test_noise", "fresh_crops", "validation")
    for name in (*new, "min_improvement", "clean_every"):
        del saved[name]
    assert TrainConfig.from_json(saved) == plain
    changed = [
        replace(plain, remainder="drop"),
        replace(plain, optimizer="adam", betas=(0.9, 0.95)),
        replace(plain, optimizer="adam"),
        replace(plain, mixup=0.2),
        replace(plain, fresh_crops=True),
        replace(plain, clean_every=8),
        replace(plain, validation=100),
        replace(plain, validation=100, min_improvement=0.01),
        replace(plain, label_noise="symmetric:0.2", test_noise=True),
        replace(plain, label_noise="symmetric:0.2"),
    ]
    assert len({config.fingerprint() for config in (plain, *changed)}) == len(changed) + 1
    for config in changed:
        assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"betas": (0.9,)}, "betas must be two numbers"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers"),
        ({"mixup": -1.0}, "mixup must be a number of 0 or more"),
        ({"remainder": "skip"}, "remainder must be one of carry, drop, short, got 'skip'"),
        ({"test_noise": True}, "give label_noise"),
        ({"validation": -1}, "validation must be an integer of 0 or more"),
        ({"min_improvement": 1.0}, "min_improvement must be a number in"),
    ],
)
def test_new_fields_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig("net", **fields)


def test_log_points_that_would_fill_the_memory_are_refused():
    assert len(TrainConfig("net", steps=10**9, log=10**4).points) == 10**5 + 1
    with pytest.raises(ValueError, match="with a log point each 64 steps are over 1,000,000"):
        TrainConfig("net", steps=10**9, log="paper")
