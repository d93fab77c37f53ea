"""What an audit finds damaged, in the set or in its own folder, never ends in a traceback nor in
other figures.
"""

import json
import pickle
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from cifar5m.commands.audit import main
from cifar5m.commands.label import main as label
from tests.cifar5m.small_set import make_set, rewrite, shards_of
from worlds.data.pack import write_pack
from worlds.data.stores import ArrayStore
from worlds.formats.layout import CIFAR10_CLASSES


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    rng = np.random.default_rng(5)
    images = [rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for n in (60, 20)]
    labels = [np.arange(len(part)) % 10 for part in images]
    store = ArrayStore(*(images[0], labels[0], images[1], labels[1]), class_names=CIFAR10_CLASSES)
    folder = tmp_path_factory.mktemp("photographs") / "cifar10.pack"
    write_pack(list(store.splits.values()), folder)
    return folder


@pytest.fixture(scope="module")
def audited(cifar10, labeler_folder, tmp_path_factory):
    """A set with its audit."""
    folder = make_set(tmp_path_factory.mktemp("audited") / "set")
    assert audit(folder, cifar10, labeler_folder) == 0
    return folder


@pytest.fixture
def folder(audited, tmp_path) -> Path:
    return Path(shutil.copytree(audited, tmp_path / "set"))


def audit(folder, cifar10, labeler, *options) -> int:
    options = ["--batch", "8", "--device", "cpu", "--quiet", *options]
    return main([str(folder), "--cifar10", str(cifar10), "--labeler", str(labeler), *options])


def report(folder) -> dict:
    return json.loads((folder / "audit/audit.json").read_text())["summary"]


def other_arrays(path) -> None:
    np.savez(path, something=np.arange(3))


def one_array(path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.arange(3))


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:300]),
    "flipped": flip,
    "text": lambda path: path.write_text("nothing"),
    "other arrays": other_arrays,
    "one array": one_array,
}
KEPT = ["images/*train-00001*", "work/features-train-00001*", "work/baseline*", "work/cifar10-tr*"]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kept", KEPT)
def test_what_is_kept_between_runs_may_be_damaged(kept, damage, folder, cifar10, labeler_folder):
    before = report(folder)
    [path] = (folder / "audit").glob(kept)
    DAMAGE[damage](path)
    assert audit(folder, cifar10, labeler_folder) == 0
    assert report(folder) == before


def test_features_of_another_labeler_are_not_taken_for_this_ones(folder, cifar10, labeler_folder):
    """As a run with another labeler leaves them, that was killed after writing them."""
    before = report(folder)
    [path] = (folder / "audit").glob("work/features-train-00001*")
    with np.load(path) as arrays:
        features = arrays["features"]
    np.savez(path, key=np.array("another's"), features=features + 1)
    assert audit(folder, cifar10, labeler_folder) == 0
    assert report(folder) == before


def test_a_damaged_second_labeling_is_not_called_absent(folder, cifar10, labeler_folder):
    command = [str(folder), "--labeler", str(labeler_folder), "--name", "second", "--quiet"]
    assert label([*command, "--device", "cpu"]) == 0
    (folder / "labels/second/meta/train-00001.npz").write_bytes(b"nothing")
    assert audit(folder, cifar10, labeler_folder) == 0
    found = json.loads((folder / "audit/audit.json").read_text())["not_measured"]
    assert "labels/second is damaged or not complete" in found["labeler_agreement"]
    plan = folder / "labels/second/plan.json"
    plan.write_text('{"format": 1}')
    assert audit(folder, cifar10, labeler_folder) == 0


@pytest.mark.parametrize("damage", [b"", b"nothing", b"\x80\x02"])
def test_a_damaged_network_is_a_reason_and_no_traceback(
    damage, folder, cifar10, labeler_folder, tmp_path
):
    network = Path(shutil.copytree(labeler_folder, tmp_path / "dino"))
    (network / "model.safetensors").write_bytes(damage)
    assert audit(folder, cifar10, labeler_folder, "--dinov2", str(network)) == 0
    found = json.loads((folder / "audit/audit.json").read_text())["not_measured"]
    assert "could not be loaded" in found["fd_dinov2"]


def test_a_network_that_torch_fidelity_cannot_read_is_a_reason(
    folder, cifar10, labeler_folder, tmp_path, monkeypatch
):
    def calculate_metrics(**options):
        raise pickle.UnpicklingError(f"{options['feature_extractor_weights_path']} is none")

    module = types.SimpleNamespace(calculate_metrics=calculate_metrics)
    monkeypatch.setitem(sys.modules, "torch_fidelity", module)
    (tmp_path / "inception.pth").write_bytes(b"nothing")
    given = ["--inception", str(tmp_path / "inception.pth")]
    assert audit(folder, cifar10, labeler_folder, *given) == 0
    found = json.loads((folder / "audit/audit.json").read_text())["not_measured"]
    assert found["fid"].endswith("inception.pth is none")


def test_labels_without_probabilities_have_no_confidence(cifar10, labeler_folder, tmp_path):
    folder = make_set(tmp_path / "set", probabilities="one-hot")
    assert audit(folder, cifar10, labeler_folder) == 0
    found = json.loads((folder / "audit/audit.json").read_text())
    for name in ("mean_confidence", "share_below_half"):
        assert found["summary"][name] is None
        assert found["not_measured"][name] == "the labels came without probabilities"
    assert found["details"]["classes"]["confidence_histogram"] is None
    assert {row["mean_confidence"] for row in found["details"]["classes"]["table"]} == {None}


def short_side_file(folder) -> None:
    path = folder / "meta/train-00001.npz"
    with np.load(path) as arrays:
        np.savez(path, **{name: arrays[name][:2] for name in arrays.files})


def edited_side_file(folder) -> None:
    path = folder / "meta/train-00001.npz"
    with np.load(path) as arrays:
        changed = {"probabilities": np.roll(arrays["probabilities"], 1, axis=0)}
        np.savez(path, **{name: arrays[name] for name in arrays.files} | changed)


def cut_tar(folder) -> None:
    path = folder / "data/train-00001-of-00003.tar"
    path.write_bytes(path.read_bytes()[:1000])


def record_without_a_hash(folder) -> None:
    path = folder / "meta/train-00001.json"
    record = json.loads(path.read_text())
    del record["sha256"]
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "damage",
    [
        short_side_file,
        edited_side_file,
        cut_tar,
        record_without_a_hash,
        lambda folder: (folder / "data/train-00001-of-00003.tar").unlink(),
        lambda folder: (folder / "meta/train-00001.npz").write_bytes(b"nothing"),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_a_damaged_shard_is_left_out_and_named_also_on_a_second_run(
    again, damage, folder, cifar10, labeler_folder, capsys
):
    if not again:
        shutil.rmtree(folder / "audit")
    damage(folder)
    assert audit(folder, cifar10, labeler_folder) == 1
    out, err = capsys.readouterr()
    first, last = err.splitlines()
    assert "train-00001" in first
    assert "1 damaged shards were left out" in last
    assert out.splitlines()[0] == "3 of 4 shards are audited"
    assert report(folder)["images"] == 14


def test_where_all_shards_are_damaged_the_first_is_told_in_words(
    folder, cifar10, labeler_folder, capsys
):
    for path in (folder / "data").iterdir():
        path.write_bytes(b"")
    assert audit(folder, cifar10, labeler_folder) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "every finished shard is damaged: data/train-00000-of-00003.tar is missing, or" in line
    assert "cifar5m-verify" in line


def test_images_damaged_since_they_were_examined_end_in_what_to_do(
    folder, cifar10, labeler_folder, capsys
):
    for path in (folder / "data").iterdir():
        path.write_bytes(path.read_bytes().replace(b"PNG", b"GNP"))
    assert audit(folder, cifar10, labeler_folder) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "cannot be read" in line
    assert "--repair, then this again" in line


def test_a_dry_run_counts_what_is_left_and_all_that_will_lie_on_the_disk(
    folder, cifar10, labeler_folder, capsys
):
    shard = shards_of(folder)[0]
    rewrite(folder, shard, images=np.zeros((len(shard), 32, 32, 3), np.uint8))
    assert audit(folder, cifar10, labeler_folder, "--dry-run") == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["images"] == "19 in 4 finished shards, 5 not examined yet"
    assert rows["reference"] == "80, 0 not labeled yet"


@pytest.mark.parametrize("labeler", ["given", "none"])
def test_the_disk_that_is_foreseen_is_the_disk_that_is_used(
    labeler, cifar10, labeler_folder, tmp_path, capsys
):
    folder = make_set(tmp_path / "set", shard_size=1000, splits={"train": 3000})
    source = labeler_folder if labeler == "given" else "none"
    assert audit(folder, cifar10, source, "--dry-run") == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert audit(folder, cifar10, source) == 0
    used = sum(path.stat().st_size for path in (folder / "audit").rglob("*.npz"))
    assert float(line.split()[1]) == pytest.approx(used / 1e6, rel=0.1, abs=0.06)
