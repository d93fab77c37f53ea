"""A small set; options of a generating run on networks so small that a shard takes milliseconds."""

import shutil
from pathlib import Path

import pytest

from tests.cifar5m.small_set import make_set
from tests.cifar5m.tiny_networks import save_labeler, save_unet
from tests.processes import one_worker_is_a_thread  # noqa: F401


@pytest.fixture(scope="session")
def unet_folder(tmp_path_factory) -> Path:
    return save_unet(tmp_path_factory.mktemp("networks") / "unet")


@pytest.fixture(scope="session")
def labeler_folder(tmp_path_factory) -> Path:
    return save_labeler(tmp_path_factory.mktemp("networks") / "labeler")


@pytest.fixture(scope="session")
def small_run(unet_folder, labeler_folder) -> list[str]:
    """Options of a run that takes milliseconds a shard: 2 network calls, micro-batches of 4."""
    return [
        *("--recipe", "tiny", "--generator", str(unet_folder), "--labeler", str(labeler_folder)),
        *("--steps", "2", "--micro-batch", "4", "--shard-size", "6", "--device", "cpu", "--quiet"),
    ]


@pytest.fixture(scope="session")
def conditional_run(tmp_path_factory, small_run) -> list[str]:
    """`small_run` with a generator of eleven class embeddings, guided, labels as requested."""
    unet = save_unet(tmp_path_factory.mktemp("networks") / "conditional", num_class_embeds=11)
    # With this seed the random labeler finds the requested class in some of the first images.
    options = ["--guidance", "2", "--labels", "requested", "--start", "600", "--seed", "4"]
    return [*small_run, "--generator", str(unet), *options]


@pytest.fixture(scope="session")
def original(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("small") / "set")


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """A small set of the test's own."""
    return Path(shutil.copytree(original, tmp_path / "set"))
