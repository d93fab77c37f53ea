"""Generated images as an endless pool: those of cifar5m-generate, by an address alone."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import cifar5m
from tests.processes import fork_workers
from worlds import open_store
from worlds.commands.train import main as worlds_train

REPO = Path(__file__).resolve().parents[3]
FEW = {"seed": 3, "steps": 2, "micro_batch": 5}
pytestmark = pytest.mark.filterwarnings("ignore:waiting for the generator")


@pytest.fixture(autouse=True)
def _forked(monkeypatch):
    """Its process has imported torch already."""
    fork_workers(monkeypatch)


@pytest.fixture(autouse=True)
def _installed(tmp_path_factory, monkeypatch):
    """The entry points as pyproject.toml has them, also where an older version is installed."""
    folder = tmp_path_factory.mktemp("installed")
    info = folder / "endless_test-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: endless-test\nVersion: 1\n")
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    stores = project["entry-points"]["deep_bootstrap.stores"]
    lines = ["[deep_bootstrap.stores]", *(f"{name} = {value}" for name, value in stores.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(folder)


@pytest.fixture
def few(unet_folder, labeler_folder):
    return FEW | {"generator": str(unet_folder), "labeler": str(labeler_folder)}


def test_images_are_those_that_generate_makes_to_the_byte(few, tmp_path):
    whole = tmp_path / "whole"
    cifar5m.generate(whole, recipe="tiny", n=20, split={"train": 20}, shard_size=10, **few)
    made = open_store(whole).train
    store = open_store("generate:tiny", n=10**9, cache=tmp_path / "cache", window=1, **few)
    indices = [13, 2, 19, 4]
    assert np.array_equal(store.train.gather(indices), made.gather(indices))
    assert store.train.labels[indices].tolist() == made.labels[indices].tolist()
    image, label = store.train[13]  # alone
    assert torch.equal(image, made[13][0])
    assert label == made[13][1]


def test_worlds_train_takes_it_by_its_address(few, tmp_path, capsys):
    options = "&".join(f"{name}={value}" for name, value in few.items()) + "&n=20&test=5&window=2"
    data = f"generate:tiny?{options}&cache={tmp_path}/cache"
    command = f"--arch mlp_1x8 --data {data} --n 10 --steps 4 --batch-size 5 --augment none"
    assert worlds_train([*command.split(), "--out", str(tmp_path / "runs"), "--quiet"]) == 0
    assert "pool of 20, 5 test images" in capsys.readouterr().out
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 5  # four of train and one of test


@pytest.mark.parametrize(
    "address, said",
    [
        ("generate:tiny?steps=0", "steps must be"),
        ("generate:tiny?colour=red", "no option 'colour'"),
        ("generate:huge", "unknown recipe 'huge'"),
        ("generate:tiny?n=0", "n must be"),
        ("generate:tiny?cache_bytes=5", "cache_bytes must be at least"),
    ],
)
def test_bad_addresses_are_refused(address, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        open_store(address, cache=tmp_path)


def test_options_of_generated_pools_are_refused_elsewhere(tmp_path):
    with pytest.raises(ValueError, match="takes no option 'n'"):
        open_store(tmp_path, n=5)
