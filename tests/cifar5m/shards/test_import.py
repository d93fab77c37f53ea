"""cifar5m-import on small real files: equal pixels, equal bytes, one line for what is bad."""

import os
import shutil
import signal
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar5m.commands.import_ import main
from cifar5m.commands.verify import main as verify
from cifar5m.shards import importing
from cifar5m.shards.npz_parts import NpzArray, Slices, find_array
from tests.cifar5m.loopback import servers
from tests.processes import Forked
from worlds import open_store
from worlds.formats.layout import CIFAR10_CLASSES
from worlds.formats.plan import load_plan
from worlds.formats.shards import load_record, read_arrays
from worlds.runtime import files

REPO = Path(__file__).resolve().parents[3]
RNG = np.random.default_rng(0)
COUNTS = {0: 13, 1: 8, 5: 7}
IMAGES = RNG.integers(0, 256, (sum(COUNTS.values()), 32, 32, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 10, len(IMAGES))
PLACES = {0: slice(0, 13), 1: slice(13, 21), 5: slice(21, 28)}


def write_parts(folder, numbers=tuple(COUNTS)) -> list[str]:
    """Released parts, part 1 of them deflated; their paths."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"part{number}.npz" for number in numbers]
    for number, path in zip(numbers, paths, strict=True):
        save = np.savez_compressed if number == 1 else np.savez
        save(path, X=IMAGES[PLACES[number]], Y=LABELS[PLACES[number]])
    return [str(path) for path in paths]


def run(paths, out, *options) -> int:
    return main([*paths, "--out", str(out), "--shard-size", "6", "--quiet", *options])


def records(folder) -> dict[str, dict]:
    shards = load_plan(folder).shards
    found = {shard.name: load_record(folder, shard) for shard in shards}
    return {name: record for name, record in found.items() if record}


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> list[str]:
    return write_parts(tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="module")
def imported(parts, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "set"
    assert run(parts, out, "--workers", "1") == 0
    return out


def test_released_parts_become_shards_with_equal_pixels_and_labels(imported):
    store = open_store(imported)
    assert {name: len(split) for name, split in store.splits.items()} == {"train": 21, "test": 7}
    for split, place in ((store.train, slice(0, 21)), (store.test, slice(21, 28))):
        np.testing.assert_array_equal(split.gather(np.arange(len(split))), IMAGES[place])
        np.testing.assert_array_equal(split.labels, LABELS[place])
    assert verify([str(imported), "--workers", "1"]) == 0


def test_the_plan_says_what_was_given_and_names_the_papers_test_set(imported):
    plan = load_plan(imported, importing.ImportedPlan)
    assert (plan.labels, plan.probabilities) == ("given", "one-hot")
    assert plan.subsets == {"paper_test": {"split": "test", "start": 0, "stop": 7}}
    for shard in plan.shards:
        arrays = read_arrays(imported, shard)
        np.testing.assert_array_equal(arrays.probabilities, np.eye(10)[arrays.label])


def test_order_of_arguments_and_worker_count_leave_the_bytes_alone(parts, imported, tmp_path):
    assert run(parts[::-1], tmp_path / "set", "--workers", "3") == 0
    assert records(tmp_path / "set") == records(imported)
    assert load_plan(tmp_path / "set").fingerprint == load_plan(imported).fingerprint


def test_a_killed_import_goes_on_to_the_unbroken_bytes(parts, imported, tmp_path):
    out = tmp_path / "set"
    options = ["--shard-size", 6, "--quiet", "--workers", 1, "--out", out]
    process = Forked("cifar5m.commands.import_", *parts, *options)
    deadline = time.monotonic() + 60
    while not list(out.glob("meta/*.json")) and process.poll() is None:
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run(parts, out, "--workers", "1") == 0
    assert records(out) == records(imported)


def test_a_second_run_makes_only_what_is_missing_and_reads_no_part_again(
    parts, imported, tmp_path, monkeypatch
):
    out = tmp_path / "set"
    shutil.copytree(imported, out)
    (out / "meta" / "train-00002.json").unlink()
    kept = (out / "data" / "train-00000-of-00004.tar").stat().st_mtime_ns
    monkeypatch.setattr(NpzArray, "check", lambda *_: pytest.fail("the part was checked again"))
    assert run(parts, out, "--workers", "1") == 0
    assert records(out) == records(imported)
    assert (out / "data" / "train-00000-of-00004.tar").stat().st_mtime_ns == kept


def test_a_shard_can_be_had_again_from_the_plan_alone(imported):
    plan = load_plan(imported, importing.ImportedPlan)
    source = importing.reopen(plan)
    for shard in plan.shards[::-1]:
        pictures, labels, probabilities, _ = importing.content_of(source, shard)
        rows = slice(shard.start, shard.stop)
        np.testing.assert_array_equal(np.stack(list(pictures)), IMAGES[rows])
        np.testing.assert_array_equal(labels, LABELS[rows])
        np.testing.assert_array_equal(probabilities, np.eye(10)[labels])
    source.close()


def test_a_changed_source_is_not_taken_for_the_old_one(parts, imported, tmp_path):
    plan = load_plan(imported, importing.ImportedPlan)
    changed = write_parts(tmp_path / "in", [0])[0]
    with zipfile.ZipFile(changed, "a") as archive:
        archive.writestr("comment", "another file")
    paths = [changed, *(Path(file.path) for file in plan.about.files[1:])]
    with pytest.raises(ValueError, match=r"is not what was imported; differing: source\."):
        importing.reopen(plan, [Path(path) for path in paths])


def test_a_dry_run_tells_sizes_and_writes_nothing(parts, tmp_path, capsys):
    assert run(parts, tmp_path / "set", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "train 21, test 7" in told
    assert "paper_test: test 0 to 6" in told
    assert not (tmp_path / "set").exists()


def test_a_dry_run_tells_what_would_be_downloaded_and_downloads_nothing(parts, tmp_path, capsys):
    missing = [str(tmp_path / "part1.npz"), str(tmp_path / "part5.npz")]
    with servers() as start:
        known, silent = start(body=b"x" * 4_000_000), start(length=False)
        for server, lines in (
            (known, ["4,000,000 bytes", "4,000,000 bytes", "0.008 GB in 2 files"]),
            (silent, ["size not told", "size not told", "once the parts are there"]),
        ):
            base = server.url.rpartition("/")[0]
            assert run([parts[0], *missing], tmp_path / "set", "--dry-run", "--base-url", base) == 0
            told = capsys.readouterr().out.splitlines()
            assert [line for line, part in zip(told, lines, strict=False) if part not in line] == []
            assert told[0].startswith(f"{missing[0]}: to download from {base}/part1.npz")
            assert server.seen == []
        # One of them is not served, and its size is not part of the sum.
        known.faults = [{"status": 404}]
        base = known.url.rpartition("/")[0]
        assert run([parts[0], *missing], tmp_path / "set", "--dry-run", "--base-url", base) == 0
    told = capsys.readouterr().out
    assert f"{missing[0]}: out of reach: download {base}/part1.npz elsewhere" in told
    assert "at least 0.004 GB in 2 files" in told
    assert not any(map(os.path.exists, [*missing, tmp_path / "set"]))


def test_a_part_that_is_not_there_is_fetched_through_a_cut(imported, tmp_path):
    paths = write_parts(tmp_path / "in")
    body = Path(paths[1]).read_bytes()
    Path(paths[1]).unlink()
    with servers() as start:
        server = start(body=body, faults=[{"cut": 5000}])
        base = server.url.rpartition("/")[0]
        assert run(paths, tmp_path / "set", "--base-url", base, "--workers", "1") == 0
    assert server.seen == [None, "bytes=5000-"]
    assert Path(paths[1]).read_bytes() == body
    shas = [
        {name: r.sha256 for name, r in records(f).items()} for f in (tmp_path / "set", imported)
    ]
    assert shas[0] == shas[1]


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_image_label_sets_become_train_in_the_order_given(dtype, tmp_path):
    labels = LABELS.astype(dtype)
    np.savez_compressed(tmp_path / "b.npz", image=IMAGES[:10], label=labels[:10])
    np.savez(tmp_path / "a.npz", image=IMAGES[10:], label=labels[10:], extra=labels)
    paths = [str(tmp_path / name) for name in ("b.npz", "a.npz")]
    assert run(paths, tmp_path / "set", "--workers", "1", "--split", "train") == 0
    train = open_store(tmp_path / "set").train
    np.testing.assert_array_equal(train.gather(np.arange(28)), IMAGES)
    np.testing.assert_array_equal(train.labels, LABELS)


def write_folder(root, count=12) -> None:
    for index in range(count):
        split, name = ("test", "train")[index > 3], CIFAR10_CLASSES[index % 2]
        (root / split / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[index]).save(root / split / name / f"{index:03d}.png")


def test_a_folder_of_images_keeps_its_splits_and_class_names(tmp_path):
    write_folder(tmp_path / "pictures")
    assert run([str(tmp_path / "pictures")], tmp_path / "set", "--workers", "1") == 0
    store = open_store(tmp_path / "set")
    assert store.class_names == ("airplane", "automobile")
    np.testing.assert_array_equal(store.train.labels, [0, 0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(store.test.gather([0, 1, 2, 3]), IMAGES[[0, 2, 1, 3]])
    assert verify([str(tmp_path / "set"), "--workers", "1"]) == 0


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_slices_of_an_array_are_those_of_numpy(save, tmp_path):
    save(tmp_path / "a.npz", Y=LABELS, X=IMAGES)
    read = Slices(find_array(tmp_path / "a.npz", "X"))
    for start, stop in ((0, 3), (3, 4), (9, 20), (27, 28), (2, 28)):
        np.testing.assert_array_equal(np.stack(list(read(start, stop))), IMAGES[start:stop])
    read.close()


def test_a_stored_array_that_is_cut_short_while_it_is_read_is_named(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=IMAGES)
    images = Slices(find_array(path, "X"))(9, 20)
    path.write_bytes(path.read_bytes()[: 15 * 3072])
    with pytest.raises(ValueError, match="cut short: it changed while it was read"):
        list(images)


def save_part(number=0, images=IMAGES, labels=LABELS, save=np.savez, keys=("X", "Y")):
    def write(folder):
        save(folder / f"part{number}.npz", **dict(zip(keys, (images, labels), strict=True)))
        return [folder / f"part{number}.npz"]

    return write


def numbered(*numbers):
    def write(folder):
        return [path for number in numbers for path in save_part(number)(folder)]

    return write


def cut_short(folder):
    path = save_part()(folder)[0]
    os.truncate(path, path.stat().st_size - 5000)
    return [path]


def one_byte_flipped(save):
    def write(folder):
        path = save_part(save=save)(folder)[0]
        data = bytearray(path.read_bytes())
        data[30_000] ^= 1
        path.write_bytes(data)
        return [path]

    return write


def other_name(folder):
    paths = numbered(0, 1)(folder)
    return [paths[0], paths[1].rename(folder / "mine.npz")]


def twice(folder):
    return save_part()(folder) * 2


def small_picture(folder):
    write_folder(folder)
    Image.new("RGB", (32, 30)).save(folder / "train" / "airplane" / "x.png")
    return [folder]


def cut_picture(folder):
    write_folder(folder)
    os.truncate(folder / "test" / "airplane" / "000.png", 600)
    return [folder]


def other_classes(folder):
    write_folder(folder)
    (folder / "test" / "bird").mkdir()
    return [folder]


PLANAR = IMAGES.transpose(0, 3, 1, 2)
BAD = {
    "not there": (lambda folder: [folder / "pert0.npz"], "pert0.npz does not exist"),
    "cut short": (cut_short, "part0.npz is corrupt, or not an .npz"),
    "flipped byte": (one_byte_flipped(np.savez), "part0.npz is corrupt"),
    "flipped, deflated": (one_byte_flipped(np.savez_compressed), "part0.npz is corrupt"),
    "other keys": (save_part(keys=("images", "Y")), "holds Y, images: expected X and Y"),
    "dtype": (save_part(images=IMAGES.astype(np.float32)), "X must be uint8 (N, height, width, 3)"),
    "shape": (save_part(images=PLANAR.copy()), "got uint8 (28, 3, 32, 32)"),
    "fortran": (save_part(images=np.asfortranarray(IMAGES)), "expected numbers in C order"),
    "float labels": (save_part(labels=LABELS / 2), "Y must be integers (N,), got float64"),
    "one-hot labels": (save_part(labels=np.eye(10, dtype=int)[LABELS]), "got int64 (28, 10)"),
    "lengths": (save_part(labels=LABELS[:-1]), "28 images but 27 labels"),
    "label 10": (save_part(labels=np.r_[LABELS[:-1], 10]), "0 to 9, got 10 in row 27"),
    "label -1": (save_part(labels=np.r_[-1, LABELS[1:]]), "0 to 9, got -1 in row 0"),
    "part missing": (numbered(0, 1, 3), "part 2 is missing: got parts 0, 1, 3"),
    "first missing": (numbered(1, 5), "part 0 is missing: got parts 1, 5"),
    "unknown part": (numbered(0, 6), "parts are 0 to 5"),
    "other name": (other_name, "mine.npz among released parts"),
    "twice": (twice, "part0.npz is given twice"),
    "picture size": (small_picture, "is 32x30, the first image is 32x32"),
    "picture cut": (cut_picture, "000.png could not be decoded"),
    "other classes": (other_classes, "must hold one directory a class, the same in each split"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case, tmp_path, capsys):
    write, message = BAD[case]
    (tmp_path / "in").mkdir()
    paths = [str(path) for path in write(tmp_path / "in")]
    assert run(paths, tmp_path / "set") == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "set").exists()


def test_another_sets_folder_is_refused_with_the_difference(parts, imported, tmp_path, capsys):
    before = records(imported)
    assert run(parts[:1], imported) == 2
    told = capsys.readouterr().err
    assert "holds another plan; differing: splits.train is 21 there, 13 here" in told
    assert records(imported) == before


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    parts, tmp_path, capsys, monkeypatch
):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage(100_000))
    assert run(parts, tmp_path / "set") == 2
    told = capsys.readouterr().err
    assert "needs 144,368 more bytes and its disk has 100,000 free" in told
    assert not (tmp_path / "set").exists()
