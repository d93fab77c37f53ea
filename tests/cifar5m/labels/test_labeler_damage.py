"""Damaged labelers, plans and side files end every command that meets them in one line."""

import shutil
from pathlib import Path

import pytest

from cifar5m.commands.generate import main as generate
from cifar5m.commands.label import main as label
from tests.cifar5m.small_set import make_set
from worlds.formats.layout import PLAN
from worlds.runtime.files import write_json
from worlds.runtime.json_files import load_json


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_set(tmp_path / "set")


def one_line(capsys) -> str:
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "file, damage",
    [
        ("model.safetensors", b""),
        ("model.safetensors", "cut"),
        ("model.safetensors", b"no weights"),
        ("weights.bin", b"no weights"),
        ("weights.pt", "cut"),
    ],
)
def test_a_damaged_labeler_is_named(file, damage, folder, labeler_folder, tmp_path, capsys):
    copy = Path(shutil.copytree(labeler_folder, tmp_path / "labeler"))
    path = copy / file
    content = (copy / "model.safetensors").read_bytes()[:1000] if damage == "cut" else damage
    path.write_bytes(content)
    source = str(copy if file == "model.safetensors" else path)
    assert label([str(folder), "--labeler", source, "--device", "cpu", "--quiet"]) == 2
    assert f"{path} does not load as a timm model" in one_line(capsys)


def test_an_evaluation_that_is_none_says_nothing_of_a_labeler(labeler_folder, small_run, tmp_path):
    copy = Path(shutil.copytree(labeler_folder, tmp_path / "labeler"))
    (copy / "evaluation.json").write_text("[]")
    options = ["--n", "6", "--out", str(tmp_path / "made"), *small_run, "--labeler", str(copy)]
    assert generate(options) == 0
    assert "labeler_evaluation" not in load_json(tmp_path / "made" / PLAN, dict)["about"]


@pytest.mark.parametrize(
    "changes, wrong",
    [
        ({"class_names": None}, "object missing required field `class_names`"),
        ({"splits": None}, "object missing required field `splits`"),
        ({"splits": ["train"]}, "splits: expected `object`, got `array`"),
        ({"splits": {"train": 10**12}}, "splits: expected `int` <= 10000000000"),
        ({"splits": {"train": 10**9}, "shard_size": 1}, "a set has at most 1,000,000 shards"),
        ({"shard_size": None}, "object missing required field `shard_size`"),
        ({"shard_size": "five"}, "shard_size: expected `int`, got `str`"),
        ({"fingerprint": None}, "object missing required field `fingerprint`"),
        ({"about": []}, "about: expected `object`, got `array`"),
    ],
)
def test_a_plan_that_lacks_what_a_dataset_needs_is_damaged(
    changes, wrong, folder, labeler_folder, capsys
):
    plan = load_json(folder / PLAN, dict) | changes
    write_json(folder / PLAN, {key: value for key, value in plan.items() if value is not None})
    assert label([str(folder), "--labeler", str(labeler_folder), "--device", "cpu"]) == 2
    assert f"{folder / PLAN}: {wrong}" in one_line(capsys)


@pytest.mark.parametrize("damage", [b"", b"no archive", "cut"])
def test_a_damaged_side_file_is_named(damage, folder, labeler_folder, capsys):
    path = folder / "meta/train-00001.npz"
    path.write_bytes(path.read_bytes()[:200] if damage == "cut" else damage)
    options = ["--labeler", str(labeler_folder), "--device", "cpu", "--quiet"]
    assert label([str(folder), *options]) == 2
    assert f"{path} is corrupt, or not an .npz of arrays" in one_line(capsys)


def test_short_memory_is_not_taken_for_a_damaged_labeler(
    folder, labeler_folder, capsys, monkeypatch
):
    def fail(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("timm.create_model", fail)
    assert label([str(folder), "--labeler", str(labeler_folder), "--device", "cpu", "--quiet"]) == 1
    assert "this machine's memory (or ulimit -v) is too small" in one_line(capsys)
