"""No test image becomes train without a word; pools, directories and zips as people have them."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

import cifar5m
from cifar5m.commands.import_ import main
from worlds import open_store

RNG = np.random.default_rng(2)
IMAGES = RNG.integers(0, 256, (60, 32, 32, 3), np.uint8)
LABELS = np.arange(60) % 10


def save(path, part=slice(None), keys=("X", "Y"), labels=LABELS):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{keys[0]: IMAGES[part], keys[1]: labels[part]})
    return path


def pixels(store, split):
    return store[split].gather(np.arange(len(store[split])))


@pytest.mark.parametrize(
    "name",
    ["part{}.npz", "cifar5m_part{}.npz", "cifar5m-part{}.npz", "CIFAR5M_part{}.npz", "part_{}.npz"],
)
def test_part_five_is_never_train_in_any_spelling(name, tmp_path, capsys):
    files = [save(tmp_path / name.format(k), slice(20 * k, 20 * k + 20)) for k in (0,)]
    files.append(save(tmp_path / name.format(5), slice(20, 40)))
    assert main([*map(str, files), "--out", str(tmp_path / "set"), "--quiet"]) == 0
    store = open_store(tmp_path / "set")
    assert np.array_equal(pixels(store, "train"), IMAGES[:20])
    assert np.array_equal(pixels(store, "test"), IMAGES[20:40])


def test_names_that_do_not_say_the_split_are_refused_until_it_is_said(tmp_path):
    first, second = save(tmp_path / "a.npz", slice(0, 40)), save(tmp_path / "b.npz", slice(40, 60))
    with pytest.raises(ValueError, match=r"a\.npz does not say whether it is train or test"):
        cifar5m.import_dataset([first, second], tmp_path / "set")
    cifar5m.import_dataset([first], tmp_path / "set", test=[second])
    store = open_store(tmp_path / "set")
    assert (len(store.train), len(store.test)) == (40, 20)
    assert cifar5m.verify(tmp_path / "set").ok


def test_the_splits_are_told_and_sorted_pools_are_named(tmp_path):
    notes = []
    ordered = np.sort(LABELS)
    file = save(tmp_path / "1m.npz", keys=("image", "label"), labels=ordered)
    cifar5m.import_dataset([file], tmp_path / "set", on_progress=lambda p: notes.append(p.note))
    assert "1m.npz: train" in notes
    assert any("sorted by class" in note for note in notes)
    mixed = save(tmp_path / "5m.npz", keys=("image", "label"))
    notes.clear()
    cifar5m.import_dataset([mixed], tmp_path / "mixed", on_progress=lambda p: notes.append(p.note))
    assert not any("sorted by class" in note for note in notes)


def test_parts_of_a_pool_are_train_in_the_order_given(tmp_path):
    paths = [
        save(tmp_path / f"20m_part{k}.npz", slice(20 * i, 20 * i + 20), ("image", "label"))
        for i, k in enumerate((2, 10, 1))
    ]
    cifar5m.import_dataset(paths, tmp_path / "set")
    found = pixels(open_store(tmp_path / "set"), "train")
    assert np.array_equal(found, IMAGES)


def test_other_keys_classes_and_sizes_are_imported(tmp_path):
    large = np.repeat(np.repeat(IMAGES[:20], 2, 1), 2, 2)  # Tiny-ImageNet's 64 pixels
    np.savez(tmp_path / "tiny_edm_1m.npz", pixels=large, classes=np.arange(20) * 10)
    cifar5m.import_dataset(
        [tmp_path / "tiny_edm_1m.npz"], tmp_path / "set", keys=("pixels", "classes")
    )
    store = open_store(tmp_path / "set")
    assert np.array_equal(pixels(store, "train"), large)
    assert len(store.class_names) == 191
    save(tmp_path / "svhn_ddpm.npz", keys=("image", "label"))
    cifar5m.import_dataset([tmp_path / "svhn_ddpm.npz"], tmp_path / "svhn")
    assert open_store(tmp_path / "svhn").class_names == tuple("0123456789")


def test_classes_take_the_names_that_are_given(tmp_path):
    save(tmp_path / "blobs.npz", keys=("image", "label"))
    names = [f"blob {k}" for k in range(10)]
    cifar5m.import_dataset([tmp_path / "blobs.npz"], tmp_path / "set", class_names=names)
    assert open_store(tmp_path / "set").class_names == tuple(names)
    (tar,) = (tmp_path / "set" / "data").glob("train-*.tar")
    tar.write_bytes(b"x" * tar.stat().st_size)
    assert cifar5m.repair(tmp_path / "set").ok
    with pytest.raises(ValueError, match="must be 10 different names or more, got a, b"):
        cifar5m.import_dataset([tmp_path / "blobs.npz"], tmp_path / "o", class_names=["a", "b"])


def write_classes(root, names, count=2):
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(IMAGES[number * count + k]).save(root / name / f"{k}.png")


def test_a_directory_keeps_its_val_split_and_says_what_it_skips(tmp_path):
    for split in ("train", "val"):
        write_classes(tmp_path / "pics" / split, ("cat", "dog"))
    (tmp_path / "pics/train/cat/more").mkdir()
    (tmp_path / "pics/train/cat/notes.txt").write_text("x")
    Image.fromarray(IMAGES[50]).save(tmp_path / "pics/train/dog/8.tif")
    notes = []
    cifar5m.import_dataset(
        [tmp_path / "pics"], tmp_path / "set", on_progress=lambda p: notes.append(p.note)
    )
    store = open_store(tmp_path / "set")
    assert (len(store.train), len(store["val"]), len(store.test)) == (5, 4, 4)
    assert "skipped, not images of a class: train/cat/more, train/cat/notes.txt" in notes


def test_class_directories_that_are_numbers_are_sorted_as_numbers(tmp_path):
    write_classes(tmp_path / "pics", map(str, range(12)))
    cifar5m.import_dataset([tmp_path / "pics"], tmp_path / "set")
    store = open_store(tmp_path / "set")
    assert store.class_names == tuple(map(str, range(12)))
    assert np.array_equal(pixels(store, "train"), IMAGES[:24])


def write_edm(path, labels):
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(20):
            stream = io.BytesIO()
            Image.fromarray(IMAGES[k]).save(stream, "PNG")
            archive.writestr(f"00000/img{k:08d}.png", stream.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": labels}))


def test_edms_zip_is_imported_with_its_labels(tmp_path):
    write_edm(tmp_path / "edm.zip", [[f"00000/img{k:08d}.png", k % 10] for k in range(20)])
    cifar5m.import_dataset([tmp_path / "edm.zip"], tmp_path / "set")
    store = open_store(tmp_path / "set")
    assert np.array_equal(pixels(store, "train"), IMAGES[:20])
    assert np.array_equal(store.train.labels, LABELS[:20])
    write_edm(tmp_path / "none.zip", None)
    with pytest.raises(ValueError, match=r"none\.zip .* has no labels"):
        cifar5m.import_dataset([tmp_path / "none.zip"], tmp_path / "other")


def test_a_said_split_survives_a_repair(tmp_path):
    first, second = save(tmp_path / "a.npz", slice(0, 40)), save(tmp_path / "b.npz", slice(40, 60))
    cifar5m.import_dataset([first], tmp_path / "set", test=[second])
    (tar,) = (tmp_path / "set" / "data").glob("test-*.tar")
    before = tar.read_bytes()
    tar.write_bytes(b"x" * len(before))
    assert cifar5m.repair(tmp_path / "set").ok
    assert tar.read_bytes() == before


def write_pictures(root, *directories):
    for directory in directories:
        (root / directory).mkdir(parents=True)
        Image.fromarray(IMAGES[0]).save(root / directory / "0.png")


def test_a_directory_beside_the_splits_is_refused_and_loose_files_are_named(tmp_path):
    notes = []
    write_pictures(tmp_path / "set", "train/cat", "valid/cat", "__MACOSX/train")
    (tmp_path / "set" / "train" / "list.txt").write_text("cat")
    cifar5m.import_dataset(
        [tmp_path / "set"], tmp_path / "out", on_progress=lambda p: notes.append(p.note)
    )
    assert {name: len(s) for name, s in open_store(tmp_path / "out").splits.items()} == {
        "train": 1,
        "val": 1,
    }
    assert "skipped, not images of a class: train/list.txt" in notes
    for other in ("extra/cat", "val/cat"):
        write_pictures(tmp_path / "set", other)
        with pytest.raises(ValueError, match=f"{other[:-4]} is beside the splits train, valid"):
            cifar5m.import_dataset([tmp_path / "set"], tmp_path / "other")
        (tmp_path / "set" / other[:-4]).rename(tmp_path / other[:-4])


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\x9b2Jb", "a\u202eb", "a\udcffb"])
def test_class_names_with_control_sequences_are_refused(name, tmp_path):
    write_pictures(tmp_path / "set", name)
    with pytest.raises(ValueError, match=r"class name 'a.*b' is not printable text"):
        cifar5m.import_dataset([tmp_path / "set"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
