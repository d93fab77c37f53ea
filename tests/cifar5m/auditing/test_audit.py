"""The audit finds what was planted, says why a figure is missing, and goes on where it stopped."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cifar5m.auditing.labels import (
    NotMeasured,
    Opinion,
    class_table,
    histogram,
    suspected_errors,
)
from cifar5m.auditing.page import group_by_reference
from cifar5m.commands.audit import main
from cifar5m.commands.label import main as label
from cifar5m.labels.calibration import calibration
from cifar5m.shards.verify import verify
from tests.cifar5m.small_set import images_of, make_set, rewrite, shards_of
from tests.cifar5m.tiny_networks import LABELER_CONFIG
from worlds.data.pack import write_pack
from worlds.data.stores import ArrayStore
from worlds.formats.layout import CIFAR10_CLASSES
from worlds.runtime.signals import Stopped, StopSignal

REPO = Path(__file__).resolve().parents[3]
# Image of the set: the photograph that it copies. The set is cut into shards of five.
COPIES = {2: ("train", 7), 11: ("train", 59), 16: ("test", 4)}
DUPLICATES = {8: 3, 17: 0}  # image: an earlier one that it equals


@pytest.fixture(scope="module")
def photographs():
    rng = np.random.default_rng(5)
    return {
        "train": rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8),
        "test": rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8),
    }


@pytest.fixture(scope="module")
def cifar10(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs") / "cifar10.pack"
    labels = {name: np.arange(len(images)) % 10 for name, images in photographs.items()}
    store = ArrayStore(
        *(photographs["train"], labels["train"], photographs["test"], labels["test"]),
        class_names=CIFAR10_CLASSES,
    )
    write_pack(list(store.splits.values()), folder)
    return folder


@pytest.fixture
def folder(tmp_path, photographs):
    folder = make_set(tmp_path / "small")
    shards = shards_of(folder)
    images = np.concatenate([images_of(shard) for shard in shards])
    for image, (split, photograph) in COPIES.items():
        images[image] = photographs[split][photograph]
    for image, earlier in DUPLICATES.items():
        images[image] = images[earlier]
    for shard in shards:
        rewrite(folder, shard, images=images[shard.start : shard.stop])
    return folder


def audit(folder, cifar10, *options) -> tuple[int, dict]:
    code = main([str(folder), "--cifar10", str(cifar10), "--device", "cpu", "--quiet", *options])
    path = folder / "audit/audit.json"
    return code, json.loads(path.read_text()) if path.exists() else {}


def test_planted_copies_and_duplicates_are_all_found(folder, cifar10):
    code, report = audit(folder, cifar10, "--labeler", "none")
    assert code == 0
    summary, details = report["summary"], report["details"]
    assert (summary["images"], summary["duplicates"]) == (19, 2)
    assert (summary["copies_of_train"], summary["copies_of_test"]) == (2, 1)
    pairs = {each["index"]: each["equal_to"] for each in details["duplicates"]}
    assert pairs == DUPLICATES
    for split in ("train", "test"):
        closest = details["neighbors"][f"pixel_{split}"]["closest"]
        copies = {each["index"]: each["photograph"] for each in closest if each["distance"] == 0}
        assert copies == {i: k for i, (where, k) in COPIES.items() if where == split}
        assert summary[f"near_{split}_pixel"] == len(copies)


def test_every_missing_figure_has_its_reason(folder, cifar10, capsys):
    report = audit(folder, cifar10, "--labeler", "none")[1]
    missing = {name for name, value in report["summary"].items() if value is None}
    assert set(report["not_measured"]) == missing
    assert {"fid", "kid", "fd_dinov2", "frechet_labeler", "near_train_feature"} <= missing
    assert report["not_measured"]["frechet_labeler"] == "left out by --labeler none"
    assert "on a CPU" in report["not_measured"]["fid"]
    lines = capsys.readouterr().out.splitlines()
    assert sum("not measured: " in line for line in lines) == len(missing)
    assert lines[-2:] == [str(folder / "audit" / name) for name in ("audit.json", "index.html")]


def test_a_labeler_adds_features_calibration_and_distances(folder, cifar10, labeler_folder):
    code, report = audit(folder, cifar10, "--labeler", str(labeler_folder), "--batch", "8")
    assert code == 0
    summary, neighbors = report["summary"], report["details"]["neighbors"]
    for split in ("train", "test"):
        closest = neighbors[f"feature_{split}"]["closest"]
        copies = {e["index"]: e["photograph"] for e in closest if e["distance"] < 1e-3}
        assert copies == {i: k for i, (where, k) in COPIES.items() if where == split}
    assert summary["frechet_labeler"] > 0
    assert 0 <= summary["labeler_cifar10_accuracy"] <= 1
    assert report["details"]["labels"]["calibration"]["images"] == 20
    assert report["labeler"]["source"] == str(labeler_folder)


def test_an_imported_set_without_a_labeler_says_so(folder, cifar10, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no labeler was fine-tuned here
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, report = audit(folder, cifar10)
    assert code == 0
    assert "the labeler could not be loaded" in report["not_measured"]["frechet_labeler"]


def test_second_labelings_are_compared(folder, cifar10, labeler_folder):
    arguments = ["--labeler", str(labeler_folder), "--device", "cpu", "--batch", "8", "--quiet"]
    assert label([str(folder), *arguments, "--name", "second"]) == 0
    report = audit(folder, cifar10, "--labeler", "none")[1]
    summary = json.loads((folder / "labels/second/summary.json").read_text())
    assert report["details"]["labels"]["agreement"] == {"second": summary}
    assert report["summary"]["labeler_agreement"] == summary["agreement"]


def test_a_second_run_changes_nothing_and_makes_new_only_what_changed(folder, cifar10):
    first = audit(folder, cifar10, "--labeler", "none")[1]
    facts = {path: path.stat().st_mtime_ns for path in (folder / "audit/images").iterdir()}
    assert audit(folder, cifar10, "--labeler", "none")[1] == first
    assert facts == {path: path.stat().st_mtime_ns for path in facts}
    shard = shards_of(folder)[1]
    rewrite(folder, shard)  # now without its duplicate
    again = audit(folder, cifar10, "--labeler", "none")[1]
    assert again["summary"]["duplicates"] == 1
    changed = [path.stem for path, time in facts.items() if path.stat().st_mtime_ns != time]
    assert changed == [shard.name]


def test_a_stopped_audit_goes_on_to_the_same_report(folder, cifar10, monkeypatch, capsys):
    whole = audit(folder, cifar10, "--labeler", "none")[1]
    (folder / "audit").rename(folder.parent / "whole")
    calls = iter([None, None, Stopped(15)])  # the phase begins, a shard, another

    def stop_after_a_shard(signal):
        if error := next(calls):
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "raise_if_set", stop_after_a_shard)
        assert audit(folder, cifar10, "--labeler", "none") == (128 + 15, {})
    assert "run the same command to resume" in capsys.readouterr().err
    [first] = (folder / "audit/images").iterdir()
    kept = first.stat().st_mtime_ns
    assert audit(folder, cifar10, "--labeler", "none") == (0, whole)
    assert first.stat().st_mtime_ns == kept


@pytest.mark.slow
def test_a_killed_audit_goes_on_to_the_same_report(folder, cifar10, labeler_folder):
    options = ["--labeler", str(labeler_folder), "--batch", "2", "--device", "cpu", "--quiet"]
    command = [sys.executable, "-m", "cifar5m.commands.audit", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--cifar10", str(cifar10), *options], env=environment, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    first = folder / "audit/images" / f"{shards_of(folder)[0].name}.npz"
    while not first.exists() and process.poll() is None:
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = first.stat().st_mtime_ns
    killed = audit(folder, cifar10, *options[:4])[1]
    assert first.stat().st_mtime_ns == kept
    (folder / "audit").rename(folder.parent / "killed")
    assert killed == audit(folder, cifar10, *options[:4])[1]


def test_the_work_folder_only_saves_time(folder, cifar10, labeler_folder):
    options = ["--labeler", str(labeler_folder), "--batch", "8"]
    first = audit(folder, cifar10, *options)[1]
    shutil.rmtree(folder / "audit/work")
    (folder / "audit/images/train-00000.npz").write_bytes(b"damaged")
    assert audit(folder, cifar10, *options) == (0, first)


def test_unfinished_shards_are_left_out_and_said(folder, cifar10):
    (folder / shards_of(folder)[1].record).unlink()
    report = audit(folder, cifar10, "--labeler", "none")[1]
    assert report["summary"]["images"] == 14
    about = report["dataset"]
    assert (about["shards_audited"], about["shards_planned"]) == (3, 4)
    page = (folder / "audit/index.html").read_text()
    assert "3 of 4 shards so far" in page
    # Images after the gap are found in their own shards.
    assert "image 16" in page


def test_a_damaged_shard_is_left_out_named_and_ends_with_one(folder, cifar10, capsys):
    path = folder / shards_of(folder)[2].tar
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(bytes(data))
    code, report = audit(folder, cifar10, "--labeler", "none")
    assert code == 1
    assert report["summary"]["images"] == 15
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("cifar5m-audit: data/train-00002-of-00003.tar: sha256")
    assert "cifar5m-verify" in last


def test_the_audit_is_no_foreign_folder(folder, cifar10):
    audit(folder, cifar10, "--labeler", "none")
    kinds = {problem.kind for problem in verify(folder, workers=1).problems}
    assert kinds == {"duplicate"}


def test_a_dry_run_says_the_cost_and_writes_nothing(folder, cifar10, labeler_folder, capsys):
    assert audit(folder, cifar10, "--labeler", str(labeler_folder), "--dry-run") == (0, {})
    out = capsys.readouterr().out
    assert "19 in 4 finished shards" in out
    assert "80, 80 not labeled yet" in out
    assert not (folder / "audit").exists()


def test_wide_tables_scroll_on_their_own(folder, cifar10, labeler_folder):
    audit(folder, cifar10, "--labeler", str(labeler_folder))
    source = (folder / "audit/index.html").read_text()
    summary, *wide = source.split("<table")[:-1]
    assert not summary.endswith('<div class="wide">')
    assert len(wide) == 3  # neighbors in pixels and in features, classes
    assert all(part.endswith('<div class="wide">') for part in wide)


class Page(HTMLParser):
    """Tags that were opened and not closed, all tags, addresses, and the text."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.addresses, self.text = [], set(), [], ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        self.handle_startendtag(tag, attributes)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += " ".join(data.split(" "))


def test_the_page_stands_alone_and_shows_what_was_found(folder, cifar10, labeler_folder):
    audit(folder, cifar10, "--labeler", str(labeler_folder), "--cifar10-name", "A <copy>")
    source = (folder / "audit/index.html").read_text()
    page = Page(source)
    text = " ".join(page.text.split())
    assert page.open == []
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)
    assert "http" not in source
    assert "script" not in page.tags
    assert "copy" not in page.tags
    assert "Closest to A <copy> train" in text
    for image, earlier in DUPLICATES.items():
        assert f"image {image}equal to image {earlier}" in text
    for image, (split, reference) in COPIES.items():
        name = CIFAR10_CLASSES[reference % 10]
        assert f"{split} {reference}: {name}" in text
        assert f"image {image}: {CIFAR10_CLASSES[image % 10]}ratio" in text.replace(
            " ratio", "ratio"
        )


def test_the_page_shows_each_reference_image_once(folder, cifar10):
    audit(folder, cifar10, "--labeler", "none")
    source = (folder / "audit/index.html").read_text()
    shown = re.findall(r'alt="((?:train|test) \d+)"', source)
    assert len(shown) == len(set(shown)) > 10


def test_images_of_one_reference_stand_beside_it():
    rows = [{"photograph": k, "index": index} for index, k in enumerate([7, 7, 4, 7, 7, 7, 9])]
    groups = group_by_reference(rows, 2)
    assert [[row["index"] for row in group] for group, _ in groups] == [[0, 1, 3], [2]]
    assert [more for _, more in groups] == [2, 0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere"], "nowhere is not a dataset directory"),
        (["small", "--cifar10", "nowhere"], "--cifar10: nowhere does not exist"),
        (["small", "--cifar10", "large.pack"], "large.pack holds images (64, 64, 3) of 10 classes"),
        (["small", "--cifar10", "one.pack"], "--cifar10: one.pack has no test split"),
        (
            ["small", "--labeler", "gone"],
            "--labeler: 'gone' is not a directory, a file or a Hub id",
        ),
        (["small", "--labeler", "tiny", "--batch", "0"], "--batch must be at least 1, got 0"),
        (["small", "--device", "tpu"], "got 'tpu'"),
        (["small", "--inception", "no.pth"], "--inception: there is no file no.pth"),
    ],
)
def test_bad_usage_ends_with_two_and_one_line(
    folder, cifar10, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(folder.parent)
    large, labels = np.zeros((10, 64, 64, 3), np.uint8), np.arange(10)
    write_pack(list(ArrayStore(large, labels, large, labels).splits.values()), Path("large.pack"))
    write_pack(list(ArrayStore(large[:, :32, :32], labels).splits.values()), Path("one.pack"))
    assert main(["--cifar10", str(cifar10), "--quiet", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert message in line
    assert not (folder / "audit").exists()


def test_a_set_of_other_classes_is_refused(tmp_path, cifar10, capsys):
    folder = make_set(tmp_path / "dogs", class_names=[f"dog {k}" for k in range(10)])
    assert audit(folder, cifar10) == (2, {})
    assert "has other classes than CIFAR-10" in capsys.readouterr().err


def test_calibration_of_a_known_case():
    confident = np.array([[0.9, 0.1]] * 4)
    doubtful = np.array([[0.4, 0.6]] * 2)
    found = calibration(np.concatenate([confident, doubtful]), np.array([0, 0, 0, 1, 1, 1]))
    assert found["accuracy"] == pytest.approx(5 / 6)
    assert found["mean_confidence"] == pytest.approx((4 * 0.9 + 2 * 0.6) / 6)
    gaps = (4 * abs(0.75 - 0.9) + 2 * abs(1 - 0.6)) / 6
    assert found["expected_calibration_error"] == pytest.approx(gaps)
    assert [each["count"] for each in found["bins"]] == [2, 4]


def test_a_class_without_images_has_no_confidence():
    table = class_table(np.array([1, 1]), np.array([0.5, 0.7]), ["cat", "dog"])
    assert [row["count"] for row in table] == [0, 2]
    assert [row["mean_confidence"] for row in table] == [None, pytest.approx(0.6)]


def test_the_confidence_histogram_has_every_image():
    counts = histogram(np.array([0.0, 0.52, 0.99, 1.0, 1.0004]), 20)  # a float16 above 1
    assert sum(counts) == 5
    assert (counts[0], counts[10], counts[19]) == (1, 1, 3)


def test_without_cleanlab_the_reason_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(NotMeasured, match=r"deep-bootstrap\[audit\]"):
        suspected_errors(np.array([0, 1]), Opinion(np.eye(2), "nobody"))


@pytest.mark.filterwarnings("ignore")  # cleanlab's own dependencies are not pinned here
def test_cleanlab_finds_flipped_labels():
    pytest.importorskip("cleanlab")
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1, 3], 100)  # class 2 does not occur
    probabilities = 0.9 * np.eye(4)[labels] + 0.1 * rng.dirichlet(np.ones(4), len(labels))
    flipped = rng.choice(len(labels), 12, replace=False)
    labels[flipped] = np.array([1, 3, 0, 0])[labels[flipped]]
    found = suspected_errors(labels, Opinion(probabilities, "the truth"))
    # A class's noise is estimated, and as many of its images are taken: one may be left over.
    assert set(found) <= set(flipped)
    assert len(found) >= len(flipped) - 3


def test_an_absent_torch_fidelity_is_a_reason(folder, cifar10, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    code, report = audit(folder, cifar10, "--labeler", "none", "--inception", "download")
    assert code == 0
    assert "torch-fidelity is not installed" in report["not_measured"]["kid"]


def save_vit(folder):
    import timm
    from safetensors.torch import save_file

    options = {"img_size": 28, "patch_size": 14, "embed_dim": 16, "depth": 1, "num_heads": 2}
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options)
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "model_args": options,
        "pretrained_cfg": LABELER_CONFIG["pretrained_cfg"] | {"input_size": [3, 28, 28]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_local_network_gives_the_distance_of_dinov2(folder, cifar10, tmp_path):
    vit = save_vit(tmp_path / "vit")
    report = audit(folder, cifar10, "--labeler", "none", "--dinov2", str(vit))[1]
    assert report["summary"]["fd_dinov2"] > 0
    report = audit(folder, cifar10, "--labeler", "none", "--dinov2", str(tmp_path / "no"))[1]
    assert "could not be loaded" in report["not_measured"]["fd_dinov2"]
