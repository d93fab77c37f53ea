"""dogbird-build: the same shards from every form and after kills, and nothing lost in silence."""

import io
import json
import os
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path

import nltk
import numpy as np
import pytest
import torch
from PIL import Image

from cifar5m.commands.verify import main as verify
from dogbird.commands.build import main
from dogbird.tasks import dogbird_task
from tests.dogbird.small_imagenet import (
    jpeg,
    photographs,
    write_folder,
    write_tables,
    write_tars,
    write_webdataset,
)
from tests.dogbird.small_wordnet import write_wordnet
from tests.processes import Forked
from worlds import RealLoader, SequentialLoader, open_store
from worlds.formats.plan import load_plan
from worlds.formats.shards import read_samples
from worlds.runtime.files import locked

REPO = Path(__file__).resolve().parents[2]
OPTIONS = ["--any-counts", "--quiet", "--shard-size", "50", "--size", "40"]


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("source") / "imagenet")


@pytest.fixture(scope="module")
def built(imagenet, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("built") / "dogbird"
    assert main(["--imagenet", str(imagenet), "--out", str(out), *OPTIONS]) == 0
    return out


def write_parquet(root: Path) -> Path:
    pytest.importorskip("pyarrow")
    return write_tables(root, "parquet")


def files_of(folder: Path) -> dict[str, bytes]:
    """The shards, and what is recorded of them."""
    found = [*folder.glob("data/*"), *folder.glob("meta/*.json")]
    return {path.name: path.read_bytes() for path in sorted(found)}


def test_a_build_is_verified_by_the_code_of_cifar5m(built, capsys):
    assert verify([str(built), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["images"], report["shards"]) == (366, 8)
    assert report["class_names"] == ["hunting_dog", "bird"]
    assert report["classes"] == [3 * 63, 3 * 59]


def test_images_labels_and_names_belong_together(built):
    plan, labels = load_plan(built), dogbird_task().labels
    rows = [line.split("\t") for line in (built / "photographs.tsv").read_text().splitlines()[1:]]
    sources = {name: data for part in photographs().values() for _, name, data in part}
    seen = 0
    for shard in plan.shards:
        for index, data, label in read_samples(built / shard.tar):
            number, split, wnid, name, _ = rows[index]
            assert (int(number), split, labels[wnid]) == (index, shard.split, label)
            with Image.open(io.BytesIO(data)) as made, Image.open(io.BytesIO(sources[name])) as raw:
                assert made.size == (53, 40)
                expected = np.asarray(raw.resize(made.size, Image.Resampling.BILINEAR)).astype(int)
                assert np.abs(np.asarray(made) - expected).mean() < 8
            seen += 1
    assert seen == len(rows) == 366
    assert len({label for *_, label in read_samples(built / "data/val-00000-of-00003.tar")}) == 2


@pytest.mark.parametrize(
    "write, options",
    [
        (write_tars, ["--workers", "1"]),
        (write_webdataset, ["--workers", "3"]),
        (write_parquet, []),
    ],
)
def test_every_form_and_worker_count_gives_equal_bytes(write, options, built, tmp_path):
    source = write(tmp_path / "imagenet")
    out = tmp_path / "out"
    assert main(["--imagenet", str(source), "--out", str(out), *OPTIONS, *options]) == 0
    assert files_of(out) == files_of(built)
    assert load_plan(out).fingerprint == load_plan(built).fingerprint
    assert not (tmp_path / "out.staging").exists()


def test_the_same_command_again_does_nothing_and_says_the_same(imagenet, built, capsys):
    command = ["--imagenet", str(imagenet), "--out", str(built), *OPTIONS]
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before
    assert capsys.readouterr().out.splitlines()[0].startswith("train: 244 images in 5 shards, ")


def test_killed_builds_end_in_the_unbroken_ones_bytes(imagenet, built, tmp_path):
    out, source = tmp_path / "out", tmp_path / "imagenet"
    shutil.copytree(imagenet, source)
    command = ["--imagenet", source, "--out", out, *OPTIONS]
    # The moments: while the first piece is converted, after it, and after the first shard.
    for appears in ("out.staging", "out.staging/*.json", "out/meta/*.json"):
        process = Forked("dogbird.commands.build", *command, group=True)
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(appears)) and process.poll() is None:
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert Forked("dogbird.commands.build", *command).wait() == 0
    assert files_of(out) == files_of(built)
    assert not list(tmp_path.rglob("*.tmp"))
    assert verify([str(out)]) == 0


def test_two_processes_do_not_build_one_folder(imagenet, built, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["--imagenet", str(imagenet), "--out", str(out), *OPTIONS]
    with locked(tmp_path / "out.staging", "building"):
        assert main(command) == 2
        error = f"dogbird-build: another process is building in {tmp_path}/out.staging\n"
        assert capsys.readouterr().err == error
        assert not out.exists()
    assert main(command) == 0
    assert files_of(out) == files_of(built)
    assert not (tmp_path / "out.staging").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--out", "{}/file"], "{}/file is a file: choose another --out"),
        (
            ["--val-labels", "{}/list"],
            "{}/list is not a file: give the list of",
        ),
    ],
)
def test_a_wrong_path_is_told_in_one_line(imagenet, tmp_path, capsys, options, says):
    (tmp_path / "file").touch()
    given = [option.format(tmp_path) for option in options]
    assert main(["--imagenet", str(imagenet), "--out", str(tmp_path / "o"), *OPTIONS, *given]) == 2
    error = capsys.readouterr().err
    assert says.format(tmp_path) in error
    assert error.count("\n") == 1


@pytest.fixture
def traps(tmp_path) -> Path:
    """A copy where one train photograph is cut short, one is no image, and one is CMYK."""
    content = {split: list(rows) for split, rows in photographs().items()}
    for number, data in ((4, jpeg(1)[:-400]), (9, b"<html>"), (12, jpeg(1, mode="CMYK"))):
        wnid, name, _ = content["train"][number]
        content["train"][number] = wnid, name, data
    return write_folder(tmp_path / "imagenet", content)


@pytest.mark.parametrize("keep", [[], ["--keep-bytes"]])
def test_broken_photographs_are_left_out_told_of_and_listed(keep, traps, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["--imagenet", str(traps), "--out", str(out), *OPTIONS, *keep]
    for _ in range(2):  # the second time nothing is made, and the same is said
        assert main(command) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("train: 242 images")
        assert lines[2] == f"left out, since they cannot be decoded: 2 ({out / 'broken.tsv'})"
        told = sorted(lines[3:])
    listed = sorted((out / "broken.tsv").read_text().splitlines()[1:])
    for number, line, row in zip((4, 9), told, listed, strict=True):
        assert photographs()["train"][number][1] in line
        assert photographs()["train"][number][1] in row
    assert "truncated" in told[0]
    assert verify([str(out)]) == 0


def test_a_source_is_only_read(traps, tmp_path):
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in traps.rglob("*")}
    for path in traps.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert main(["--imagenet", str(traps), "--out", str(tmp_path / "out"), *OPTIONS]) == 0
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in traps.rglob("*")} == before


def without_a_class(root):
    shutil.rmtree(root / "val" / "n02087394")


def two_in_val(root):
    (root / "val" / "n02087394" / "again.JPEG").write_bytes(jpeg(1))


@pytest.mark.parametrize(
    "change, options, message",
    [
        (without_a_class, OPTIONS, "val lacks 1 of the 122 classes: n02087394"),
        (two_in_val, [], "122 classes of train do not have 732 to 1,300 photographs"),
        (two_in_val, ["--splits", "val"], "122 classes of val do not have 50 photographs"),
        (None, ["--splits", "test"], "--splits must be train, val or train,val, got 'test'"),
        (None, [*OPTIONS, "--size", "8"], "--size must be 32 to 4096 pixels, got 8"),
        (None, [*OPTIONS, "--workers", "0"], "--workers must be at least 1, got 0"),
        (None, [*OPTIONS, "--shard-size", "0"], "--shard-size must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    change, options, message, imagenet, tmp_path, capsys
):
    root = tmp_path / "imagenet"
    shutil.copytree(imagenet, root)
    if change is not None:
        change(root)
    command = ["--imagenet", str(root), "--out", str(tmp_path / "out"), "--quiet", *options]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["imagenet"]


def test_a_folder_of_something_else_is_refused_before_any_work(imagenet, built, tmp_path, capsys):
    source = ["--imagenet", str(imagenet)]
    other = [*OPTIONS, "--quality", "80"]
    assert main([*source, "--out", str(built), *other]) == 2
    assert "plan.photographs.quality is 90 there, 80 here" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("mine")
    assert main([*source, "--out", str(tmp_path), *OPTIONS]) == 2
    assert "holds other files: choose another --out" in capsys.readouterr().err


def test_a_disk_too_small_is_told_before_any_work(imagenet, tmp_path, capsys, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(100_000))
    out = tmp_path / "out"
    assert main(["--imagenet", str(imagenet), "--out", str(out), *OPTIONS]) == 2
    assert "more bytes and its disk has 100,000 free" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_dry_run_counts_by_class_and_writes_nothing(imagenet, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--imagenet", str(imagenet), "--out", str(out), *OPTIONS, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 122 + 2 + 5
    assert lines[1].split() == ["hunting_dog", "n02087394", "Rhodesian_ridgeback", "2", "1"]
    assert lines[124].split() == ["bird", "59", "classes", "118", "59"]
    assert not out.exists()


def test_another_task_of_two_synsets_is_built_from_wordnet(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", list(nltk.data.path))
    wordnet, root = write_wordnet(tmp_path / "wordnet"), tmp_path / "imagenet"
    content = {
        split: [("n02110063", "a", jpeg(1)), ("n01514668", "b", jpeg(2)), ("n01530575", "c", b"")]
        for split in ("train", "val")
    }
    write_folder(root, content)
    synsets = ["--labels", "dog.n.01,bird.n.01", "--wordnet", str(wordnet)]
    command = ["--imagenet", str(root), "--out", str(tmp_path / "out"), *OPTIONS, *synsets]
    assert main(command) == 2
    assert "train lacks 2 of the 4 classes: n02087394, n02088094" in capsys.readouterr().err
    for split in content:
        content[split] += [("n02087394", "d", jpeg(3)), ("n02088094", "e", jpeg(4))]
    write_folder(root, content)
    assert main(command) == 0
    assert load_plan(tmp_path / "out").class_names == ("dog", "bird")
    assert "hunting_dog" not in capsys.readouterr().out


def test_a_label_a_class_at_32_px(tmp_path):
    root, wnids = tmp_path / "imagenet", ("n01443537", "n02012849", "n03126707")
    content = {
        split: [
            (wnid, f"{k}-{n}", jpeg(10 * k + n)) for k, wnid in enumerate(wnids) for n in (1, 2)
        ]
        for split in ("train", "val")
    }
    write_folder(root, content)
    options = ["--labels", ",".join(wnids), "--size", "40", "--crop", "32", *OPTIONS]
    assert main(["--imagenet", str(root), "--out", str(tmp_path / "out"), *options]) == 0
    store = open_store(tmp_path / "out")
    assert store.train.class_names == ("goldfish", *wnids[1:])
    assert sorted(store.train.labels) == [0, 0, 1, 1, 2, 2]
    assert store.train.probabilities.shape == (6, 3)
    center = next(iter(SequentialLoader(store.train, 6)))[0]
    cropped = next(iter(RealLoader(store.train, 6, 6, 1, augment="crop+flip")))[0]
    assert center.shape == cropped.shape == (6, 3, 32, 32)
    assert not torch.equal(center.sum((1, 2, 3)).sort()[0], cropped.sum((1, 2, 3)).sort()[0])
