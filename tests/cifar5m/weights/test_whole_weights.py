"""A network whose weights are not exactly those of its config is refused before anything is
written, and one that returns NaN stops the run.
"""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cifar5m.commands.generate import main as generate
from cifar5m.commands.label import main as label
from cifar5m.weights.bounds import bounded_by
from tests.cifar5m.small_set import make_set

FILES = {"unet": "diffusion_pytorch_model.safetensors", "labeler": "model.safetensors"}
OPTION = {"unet": "--generator", "labeler": "--labeler"}
NAME = {"unet": "conv_out.bias", "labeler": "head.fc.bias"}


def without(state, name):
    del state[name]


def with_more(state, name):
    state["extra.weight"] = torch.zeros(3)


def reshaped(state, name):
    state[name] = torch.zeros(len(state[name]) + 1)


def poisoned(state, name):
    state[name][0] = float("nan")


@pytest.fixture
def network(request, unet_folder, labeler_folder, tmp_path):
    """A function that copies a network, `unet` or `labeler`, with its tensors changed."""

    def copy(kind, damage=None, **config) -> Path:
        source = {"unet": unet_folder, "labeler": labeler_folder}[kind]
        folder = Path(shutil.copytree(source, tmp_path / kind))
        if damage is not None:
            state = load_file(folder / FILES[kind])
            damage(state, NAME[kind])
            save_file(state, folder / FILES[kind], metadata={"format": "pt"})
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return folder

    return copy


def refused(options, out, capsys) -> str:
    """The line of a refusal, which leaves nothing behind."""
    assert generate(["--n", "6", "--out", str(out), *options]) == 2
    assert not out.exists()
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("kind", ["unet", "labeler"])
@pytest.mark.parametrize(
    "damage, name", [(without, None), (with_more, "extra.weight"), (reshaped, None)]
)
def test_a_tensor_that_does_not_fit_is_named(
    kind, damage, name, network, small_run, tmp_path, capsys
):
    folder = network(kind, damage)
    line = refused([*small_run, OPTION[kind], str(folder)], tmp_path / "set", capsys)
    assert (name or NAME[kind]) in line
    assert str(folder) in line


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_block_that_the_config_leaves_out_is_named(workers, network, small_run, tmp_path, capsys):
    folder = network("unet", mid_block_type=None)
    options = [*small_run, "--generator", str(folder), "--workers", workers]
    assert "mid_block.attentions.0" in refused(options, tmp_path / "set", capsys)


@pytest.mark.parametrize(
    "kind, config",
    [
        ("unet", {"layers_per_block": 10**9}),
        ("unet", {"block_out_channels": [2**20, 2**20]}),
        (
            "labeler",
            {"model_args": {"channels": [8] * 4, "stem_chs": 8, "layers": [10**6, 1, 1, 1]}},
        ),
        ("labeler", {"model_args": {"channels": [2**20] * 4, "stem_chs": 8, "layers": [1] * 4}}),
    ],
)
def test_a_config_of_a_monster_is_refused_before_it_is_built(
    kind, config, network, small_run, tmp_path, capsys
):
    folder = network(kind, **config)
    start = time.monotonic()
    line = refused([*small_run, OPTION[kind], str(folder)], tmp_path / "set", capsys)
    assert "a far larger network than the weights" in line
    assert time.monotonic() - start < 30  # a second, were this the only process


def test_the_bound_ends_with_its_context():
    with bounded_by({"weight": torch.zeros(3)}):
        pass
    torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(200)))
    with (
        pytest.raises(ValueError, match="which hold 1 tensors"),
        bounded_by({"weight": torch.zeros(3)}),
    ):
        torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(200)))


def test_a_labeler_whose_config_counts_classes_twice_keeps_its_head(
    network, small_run, tmp_path, capsys
):
    folder = network("labeler")
    config = json.loads((folder / "config.json").read_text())
    del config["num_classes"]
    config["model_args"]["num_classes"] = 10
    config["pretrained_cfg"] |= {"num_classes": 1000, "classifier": "head.fc"}
    (folder / "config.json").write_text(json.dumps(config))
    same, moved = tmp_path / "same", tmp_path / "moved"
    assert generate(["--n", "6", "--out", str(same), *small_run]) == 0
    assert generate(["--n", "6", "--out", str(moved), *small_run, "--labeler", str(folder)]) == 0
    for tar in (same / "data").iterdir():
        assert (moved / "data" / tar.name).read_bytes() == tar.read_bytes()


def test_a_labeler_that_returns_nan_stops_generation(network, small_run, tmp_path, capsys):
    folder, out = network("labeler", poisoned), tmp_path / "set"
    options = [*small_run, "--labeler", str(folder)]
    assert generate(["--n", "6", "--out", str(out), *options]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "shard train-00000: the labeler returned NaN or infinity" in line
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["plan.json"]


def test_a_labeler_that_returns_nan_stops_labeling(network, tmp_path, capsys):
    folder, out = network("labeler", poisoned), make_set(tmp_path / "set")
    assert label([str(out), "--labeler", str(folder), "--device", "cpu", "--quiet"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "shard train-00000: the labeler returned NaN or infinity" in line
    assert not list((out / "labels").rglob("*.npz"))


def test_a_damaged_labeler_starts_no_labeling(network, tmp_path, capsys):
    folder, out = network("labeler", without), make_set(tmp_path / "set")
    assert label([str(out), "--labeler", str(folder), "--device", "cpu", "--quiet"]) == 2
    assert "head.fc.bias" in capsys.readouterr().err
    assert not (out / "labels").exists()
