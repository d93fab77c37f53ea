"""The tools are scripts in one directory, and a CIFAR-10 of 80 random images for them."""

from pathlib import Path

import numpy as np
import pytest

from tests.cifar5m.conftest import labeler_folder, small_run, unet_folder  # noqa: F401
from worlds.data.pack import write_pack
from worlds.data.stores import ArrayStore

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / "tools"))


@pytest.fixture(scope="session")
def small_cifar10(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("cifar10")
    images = rng.integers(0, 256, (80, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(80) % 10
    store = ArrayStore(images, labels, images[:20], labels[:20])
    write_pack([store.train, store.test], folder)
    return folder
