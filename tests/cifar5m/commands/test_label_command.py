"""A second labeling: what it counts, that it resumes, and that it touches nothing else."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cifar5m.commands.label import main
from cifar5m.commands.verify import main as verify
from cifar5m.labels.agreement import compare, table
from cifar5m.labels.labeler import Labeler, load_classifier
from cifar5m.labels.labeling import default_name, labeling_plan, open_labeling, write_labels
from cifar5m.shards import verify as verifying
from cifar5m.weights.sources import find_labeler
from tests.cifar5m.small_set import images_of, labels_of, make_set, rewrite, shards_of
from tests.cifar5m.tiny_networks import LABELER_CONFIG, save_labeler
from tests.processes import Forked
from worlds.formats.plan import load_plan
from worlds.formats.shards import decode_image, find_record, load_record, read_arrays, read_samples

REPO = Path(__file__).resolve().parents[3]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
QUICK = ["--device", "cpu", "--precision", "fp32", "--batch", "4", "--quiet"]


@pytest.fixture(scope="module")
def other_labeler(tmp_path_factory) -> Path:
    arguments = LABELER_CONFIG["model_args"] | {"channels": [8, 8, 16, 32]}
    return save_labeler(tmp_path_factory.mktemp("networks") / "other", model_args=arguments)


@pytest.fixture
def folder(tmp_path):
    return make_set(tmp_path / "set")


@pytest.fixture(scope="module")
def labeled(tmp_path_factory, labeler_folder):
    """A set with a labeling `second`."""
    folder = make_set(tmp_path_factory.mktemp("labeled") / "set")
    assert label(folder, labeler_folder) == 0
    return folder


def label(folder, labeler, *options) -> int:
    return main([str(folder), "--labeler", str(labeler), "--name", "second", *QUICK, *options])


def start(folder, labeler) -> Forked:
    options = ["--labeler", labeler, "--name", "second", *QUICK]
    return Forked("cifar5m.commands.label", folder, *options)


def contents(folder) -> dict[str, bytes]:
    """The bytes of every file of the dataset itself."""
    places = [folder / "plan.json", *(folder / "data").iterdir(), *(folder / "meta").iterdir()]
    return {path.name: path.read_bytes() for path in places}


def labels_in(folder) -> dict[str, str]:
    """The recorded hash of each labeled shard."""
    found = {s.name: find_record(folder / "labels/second", s) for s in shards_of(folder)}
    return {name: record.arrays_sha256 for name, record in found.items() if record}


def test_probabilities_are_the_labelers_own_for_each_image(labeled, labeler_folder):
    classifier, preprocessing = load_classifier(find_labeler(str(labeler_folder)))
    labeler = Labeler(classifier, preprocessing, torch.device("cpu"), "fp32", batch=4)
    for shard in shards_of(labeled):
        found = read_arrays(labeled / "labels/second", shard)
        pixels = [decode_image(data) for _, data, _ in read_samples(labeled / shard.tar)]
        expected = labeler(torch.from_numpy(np.stack(pixels))).numpy()
        np.testing.assert_array_equal(found.probabilities, expected.astype(np.float16))
        np.testing.assert_array_equal(found.label, expected.argmax(1))
        np.testing.assert_array_equal(found.index, np.arange(shard.start, shard.stop))
        record = load_record(labeled / "labels/second", shard)
        assert record.sha256 == load_record(labeled, shard).sha256


def test_the_dataset_itself_keeps_its_bytes(folder, labeler_folder):
    before = contents(folder)
    assert label(folder, labeler_folder) == 0
    assert contents(folder) == before
    assert sorted(p.name for p in folder.iterdir()) == ["data", "labels", "meta", "plan.json"]


def test_agreement_is_counted_as_by_hand(tmp_path):
    folder = make_set(tmp_path / "set", shard_size=4, splits={"train": 6})
    dataset = load_plan(folder)
    plan = labeling_plan(dataset, "by hand", "0" * 64, "fp32", 4)
    labeling = open_labeling(folder, "hand", plan)
    first, second = [0, 0, 1, 2, 2, 9], [0, 1, 1, 2, 3, 0]
    sure = [1.0, 0.5, 0.75, 1.0, 0.5, 0.25]
    for shard in shards_of(folder):
        rows = slice(shard.start, shard.stop)
        rewrite(folder, shard, labels=first[rows])  # each with the probability 0.82
        probabilities = np.zeros((len(shard), 10), np.float32)
        probabilities[np.arange(len(shard)), second[rows]] = sure[rows]
        write_labels(labeling, shard, probabilities, {"sha256": "0" * 64})
    found = compare(folder, labeling.place, shards_of(folder), dataset.class_names)
    expected = np.zeros((10, 10), int)
    expected[0, 0] = expected[0, 1] = expected[1, 1] = expected[2, 2] = expected[2, 3] = 1
    expected[9, 0] = 1
    np.testing.assert_array_equal(found.matrix, expected)
    assert found.rate == 3 / 6
    assert found.confidence.second == 4 / 6
    assert found.confidence.first == float(np.float16(0.82))
    lines = list(table(found))
    assert lines[2].split() == ["airplane", "1", "1", *"00000000"]
    assert lines[-1].startswith("agreement 0.5000 of 6 images; mean confidence 0.8198 (first), 0.6")


def test_it_ends_with_the_agreement_on_screen_and_on_disk(labeled, labeler_folder, capsys):
    assert label(labeled, labeler_folder) == 0
    out = capsys.readouterr().out
    assert "4 of 4 shards are labeled" in out
    summary = json.loads((labeled / "labels/second/summary.json").read_text())
    first = np.concatenate([labels_of(shard) for shard in shards_of(labeled)])
    places = [read_arrays(labeled / "labels/second", shard) for shard in shards_of(labeled)]
    second = np.concatenate([arrays.label for arrays in places])
    assert summary["images"] == 19
    assert summary["agreement"] == (first == second).mean()
    assert np.sum(summary["matrix"], axis=1).tolist() == np.bincount(first).tolist()
    assert np.sum(summary["matrix"], axis=0).tolist() == np.bincount(second, minlength=10).tolist()
    assert f"agreement {summary['agreement']:.4f} of 19 images" in out


def test_the_first_labeler_agrees_with_itself_in_everything(small_run, tmp_path, capsys):
    from cifar5m.commands.generate import main as generate

    folder = tmp_path / "set"
    assert generate(["--n", "20", "--out", str(folder), *small_run]) == 0
    assert main([str(folder), "--labeler", small_run[5], "--device", "cpu", "--quiet"]) == 0
    summary = json.loads((folder / "labels" / "labeler" / "summary.json").read_text())
    assert summary["agreement"] == 1
    for shard in shards_of(folder):
        both = [read_arrays(place, shard) for place in (folder, folder / "labels" / "labeler")]
        np.testing.assert_array_equal(both[0].probabilities, both[1].probabilities)
    assert verify([str(folder), "--workers", "1"]) == 0


def test_another_labeler_under_the_name_is_refused_with_the_difference(
    labeled, other_labeler, labeler_folder, capsys
):
    before = labels_in(labeled)
    assert label(labeled, other_labeler) == 2
    error = capsys.readouterr().err
    assert "labeler_sha256 is" in error
    assert "choose another directory as --name" in error
    assert label(labeled, labeler_folder, "--batch", "5") == 2
    assert "label_batch is 4 there, 5 here" in capsys.readouterr().err
    assert labels_in(labeled) == before


def test_two_labelings_live_side_by_side(labeled, other_labeler, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(labeled, folder)
    assert main([str(folder), "--labeler", str(other_labeler), *QUICK]) == 0
    assert sorted(p.name for p in (folder / "labels").iterdir()) == ["other", "second"]
    assert labels_in(folder) == labels_in(labeled)
    assert verifying.verify(folder, workers=1).ok


@pytest.mark.parametrize("ranks", [2, 5])
def test_any_number_of_ranks_gives_the_same_labels(
    labeled, labeler_folder, tmp_path, monkeypatch, ranks
):
    folder = make_set(tmp_path / "set")
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    for rank in reversed(range(ranks)):
        monkeypatch.setenv("RANK", str(rank))
        assert label(folder, labeler_folder) == 0
    assert labels_in(folder) == labels_in(labeled)
    assert verifying.verify(folder, workers=1).ok


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_killed_labeling_goes_on_to_the_unbroken_ones_labels(number, labeler_folder, tmp_path):
    folder = make_set(tmp_path / "set", shard_size=1, splits={"train": 30})
    unbroken = tmp_path / "unbroken"
    shutil.copytree(folder, unbroken)
    # All in processes of one thread: another count of threads may round a probability otherwise.
    assert start(unbroken, labeler_folder).wait(timeout=60) == 0
    process = start(folder, labeler_folder)
    deadline = time.monotonic() + 60
    while len(labels_in(folder)) < 3 and process.poll() is None:
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.005)
    process.send_signal(number)
    code = process.wait(timeout=60)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    kept = labels_in(folder)
    assert 3 <= len(kept) < 30
    assert kept.items() <= labels_in(unbroken).items()
    assert start(folder, labeler_folder).wait(timeout=60) == 0
    assert labels_in(folder) == labels_in(unbroken)
    assert verifying.verify(folder, workers=1).ok


def test_finished_labels_are_not_made_again(labeled, labeler_folder):
    place = labeled / "labels/second/meta"
    before = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    assert label(labeled, labeler_folder) == 0
    assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == before


def test_shards_that_are_damaged_or_not_made_yet_are_named_and_done_later(
    folder, labeler_folder, labeled, capsys
):
    shards = shards_of(folder)
    whole = (folder / shards[1].tar).read_bytes()
    (folder / shards[1].tar).write_bytes(whole[:-1] + b"\1")
    record = (folder / shards[3].record).read_text()
    (folder / shards[3].record).unlink()
    assert label(folder, labeler_folder) == 1
    captured = capsys.readouterr()
    assert "data/train-00001-of-00003.tar: sha256" in captured.err
    assert "--repair, then this again" in captured.err
    assert "2 of 4 shards are labeled" in captured.out
    assert not (folder / "labels/second/summary.json").exists()
    (folder / shards[1].tar).write_bytes(whole)
    (folder / shards[3].record).write_text(record)
    assert label(folder, labeler_folder) == 0
    assert labels_in(folder) == labels_in(labeled)


SIDE, RECORD = "labels/second/meta/train-00001.npz", "labels/second/meta/train-00001.json"
SUMMARY = "labels/second/summary.json"


def change(name, **fields):
    def damage(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return damage


def swap_two_side_files(folder):
    paths = [folder / f"labels/second/meta/train-0000{k}.npz" for k in (0, 1)]
    first, second = (path.read_bytes() for path in paths)
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)


def make_a_shard_anew(folder):
    shard = shards_of(folder)[1]
    rewrite(folder, shard, images=images_of(shard) ^ 1)


def stray(name):
    def damage(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")

    return damage


# damage -> the problems it must cause, each as (kind, path, part of the message), and no others
LABEL_DAMAGE = {
    "cut side file": (
        lambda folder: (folder / SIDE).write_bytes((folder / SIDE).read_bytes()[:300]),
        [("side file", SIDE, "cannot be read")],
    ),
    "missing side file": (
        lambda folder: (folder / SIDE).unlink(),
        [("missing", SIDE, "the side file is missing")],
    ),
    "missing record": (lambda folder: (folder / RECORD).unlink(), [("missing", RECORD, "")]),
    "swapped": (
        swap_two_side_files,
        [
            ("side file", SIDE.replace("1.npz", "0.npz"), "index does not run from 0 to 4"),
            ("side file", SIDE.replace("1.npz", "0.npz"), "sha256"),
            ("side file", SIDE, "index does not run from 5 to 9"),
            ("side file", SIDE, "sha256"),
        ],
    ),
    "record of another labeling": (
        change(RECORD, fingerprint="0"),
        [("record", RECORD, "fingerprint is 0, expected")],
    ),
    "shard made anew": (make_a_shard_anew, [("record", RECORD, "sha256 is")]),
    "edited plan": (
        change("labels/second/plan.json", precision="bf16"),
        [("plan", "labels/second/plan.json", "was edited")],
    ),
    "missing summary": (
        lambda folder: (folder / SUMMARY).unlink(),
        [("missing", SUMMARY, "the summary is missing")],
    ),
    "edited summary": (change(SUMMARY, agreement=1.0), [("record", SUMMARY, "is not what")]),
    "stray file": (
        stray("labels/second/meta/extra"),
        [("foreign", "labels/second/meta/extra", "a file that the plan does not name")],
    ),
    "no labeling": (
        stray("labels/thesis/chapter1.tex"),
        [("foreign", "labels/thesis", "a folder that the plan does not name")],
    ),
}


@pytest.mark.parametrize("damage, expected", LABEL_DAMAGE.values(), ids=LABEL_DAMAGE.keys())
def test_damage_to_a_labeling_is_found_by_name_and_mended_by_the_same_command(
    damage, expected, labeled, labeler_folder, tmp_path
):
    folder = tmp_path / "set"
    shutil.copytree(labeled, folder)
    damage(folder)
    problems = verifying.verify(folder, workers=1).problems
    assert [(p.kind, p.path) for p in problems] == [(kind, path) for kind, path, _ in expected]
    assert all(part in p.message for p, (_, _, part) in zip(problems, expected, strict=True))
    if expected[0][0] not in ("foreign", "plan"):
        assert label(folder, labeler_folder) == 0
        assert verifying.verify(folder, workers=1).ok


def test_a_labeling_that_is_not_complete_is_said_so(labeled, labeler_folder, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(labeled, folder)
    for path in (SIDE, RECORD):
        (folder / path).unlink()
    problems = verifying.verify(folder, workers=1).problems
    assert [str(p) for p in problems] == [
        "missing: labels/second/meta: 1 of 4 shards are not labeled yet"
    ]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--labeler", "/nowhere"], "is not a directory, a file or a Hub id"),
        (["--precision", "int4"], "--precision must be one of fp32"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--name", "../up"], "--name must be letters"),
        (["--name", ".hidden"], "--name must be letters"),
        (["--device", "tpu"], "got 'tpu'"),
    ],
)
def test_bad_options_end_in_one_line_and_code_2(options, message, folder, labeler_folder, capsys):
    assert label(folder, labeler_folder, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "labels").exists()


def test_other_classes_and_other_folders_are_refused(tmp_path, labeler_folder, capsys):
    folder = make_set(tmp_path / "set", class_names=[f"class {k}" for k in range(10)])
    assert label(folder, labeler_folder) == 2
    assert "cannot be compared" in capsys.readouterr().err
    assert label(tmp_path, labeler_folder) == 2
    assert "is not a dataset directory" in capsys.readouterr().err


def test_the_name_is_taken_from_the_labeler(labeler_folder):
    assert default_name(str(labeler_folder)) == "labeler"
    assert default_name(str(labeler_folder / "model.safetensors")) == "model"
    assert default_name("user/resnet18_cifar10@main") == "user-resnet18_cifar10-main"
    assert default_name("tiny") == "tiny"
