"""Public pools in the forms that people have: opened with the right pixels, labels and splits."""

import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from worlds import RealLoader, open_store
from worlds.formats.pickles import load_arrays
from worlds.formats.pools import split_of

RNG = np.random.default_rng(5)
IMAGES = RNG.integers(0, 256, (120, 32, 32, 3), np.uint8)
LABELS = np.arange(120) % 10
TRAIN, TEST = slice(0, 100), slice(100, 120)


def rows(part, labels):
    """CIFAR's rows: planes of one image after its labels."""
    return np.hstack([*labels, IMAGES[part].transpose(0, 3, 1, 2).reshape(-1, 3072)])


def python_batches(protocol=2, text=bytes, numbers=np.ndarray.tolist, labels=b"labels"):
    """The files of the Python form by name."""
    names = [(f"data_batch_{k}", slice(20 * k - 20, 20 * k)) for k in range(1, 6)]
    files = {}
    for name, part in [*names, ("test_batch", TEST)]:
        batch = {text(b"data"): rows(part, []), text(labels): numbers(LABELS[part])}
        files[name] = pickle.dumps(batch, protocol=protocol)
    return files


def binary_batches():
    files = {}
    for name, part in [(f"data_batch_{k}", slice(20 * k - 20, 20 * k)) for k in range(1, 6)]:
        files[f"{name}.bin"] = rows(part, [LABELS[part, None].astype(np.uint8)]).tobytes()
    files["test_batch.bin"] = rows(TEST, [LABELS[TEST, None].astype(np.uint8)]).tobytes()
    return files


def write(folder, files):
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def write_archive(path, directory, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{directory}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def check(store, train=TRAIN, test=TEST):
    assert np.array_equal(store.train.gather(np.arange(len(store.train))), IMAGES[train])
    assert np.array_equal(store.train.labels, LABELS[train])
    if test is not None:
        assert np.array_equal(store.test.gather(np.arange(len(store.test))), IMAGES[test])
        assert np.array_equal(store.test.labels, LABELS[test])


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("text", [bytes, bytes.decode], ids=["bytes", "text"])
@pytest.mark.parametrize("numbers", [np.ndarray.tolist, list, np.array, lambda y: y[:, None]])
def test_cifar_batches_pickled_again_are_read(protocol, text, numbers, tmp_path):
    write(tmp_path / "cifar-10-batches-py", python_batches(protocol, text, numbers))
    check(open_store(tmp_path))


@pytest.mark.parametrize("numbers", [lambda y: y + 0.5, lambda y: y[:-1], lambda y: np.eye(10)[y]])
def test_cifar_batches_with_labels_that_are_no_classes_are_refused(numbers, tmp_path):
    write(tmp_path / "cifar-10-batches-py", python_batches(5, numbers=numbers))
    with pytest.raises(ValueError, match=r"data_batch_1.*labels must be integers \(N,\), got"):
        open_store(tmp_path)


def test_cifar_is_read_as_binary_and_from_archives(tmp_path):
    write(tmp_path / "a" / "cifar-10-batches-bin", binary_batches())
    check(open_store(tmp_path / "a"))
    for name, directory, files in (
        ("cifar-10-python.tar.gz", "cifar-10-batches-py", python_batches()),
        ("cifar-10-binary.tar.gz", "cifar-10-batches-bin", binary_batches()),
    ):
        write_archive(tmp_path / name, directory, files)
        check(open_store(tmp_path / name))


def test_cifar_100_has_its_fine_labels_and_their_names(tmp_path):
    fine, coarse = LABELS[:, None].astype(np.uint8) + 90, np.zeros((120, 1), np.uint8)
    names = [f"thing {k}" for k in range(100)]
    binary = {
        f"{name}.bin": rows(part, [coarse[part], fine[part]]).tobytes()
        for name, part in (("train", TRAIN), ("test", TEST))
    }
    write(tmp_path / "cifar-100-binary", binary)
    (tmp_path / "cifar-100-binary" / "fine_label_names.txt").write_text("\n".join("abc"))
    python = {
        name: pickle.dumps({b"data": rows(part, []), b"fine_labels": fine[part, 0].tolist()})
        for name, part in (("train", TRAIN), ("test", TEST))
    }
    meta = pickle.dumps({b"fine_label_names": [name.encode() for name in names]})
    write(tmp_path / "py" / "cifar-100-python", python | {"meta": meta})
    store = open_store(tmp_path / "py")
    assert np.array_equal(store.train.labels, LABELS[TRAIN] + 90)
    assert store.class_names == tuple(names)
    with pytest.raises(ValueError, match="labels must be between 0 and 2"):
        open_store(tmp_path / "cifar-100-binary")  # three names for labels up to 99


@pytest.mark.parametrize("image, label", [("img", "label"), ("image", "fine_label")])
def test_the_hubs_parquet_is_read_with_its_class_names(image, label, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "plain_text").mkdir()
    names = [f"class {k}" for k in range(10)]
    for split, part in (("train", TRAIN), ("test", TEST)):
        cells = []
        for pixels in IMAGES[part]:
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            cells.append({"bytes": stream.getvalue(), "path": None})
        features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = pyarrow.table({image: cells, label: LABELS[part]})
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        parquet.write_table(table, tmp_path / "plain_text" / f"{split}-00000-of-00001.parquet")
    store = open_store(tmp_path)
    check(store)
    assert store.class_names == tuple(names)


@pytest.mark.parametrize(
    "keys", [("X", "Y"), ("image", "label"), ("images", "labels"), ("arr_0", "arr_1")]
)
def test_npz_files_open_by_their_usual_keys_and_map_in_place(keys, tmp_path):
    np.savez(tmp_path / "1m.npz", **dict(zip(keys, (IMAGES, LABELS), strict=True)))
    store = open_store(tmp_path / "1m.npz")
    check(store, slice(None), None)
    assert isinstance(store.train.images.parts[0].base, np.memmap)
    x, _ = next(iter(RealLoader(store.train, n=100, batch_size=50, steps=1)))
    assert x.shape == (50, 3, 32, 32)


def test_keras_keys_bring_a_test_split_and_other_keys_are_named(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        x_train=IMAGES[TRAIN],
        y_train=LABELS[TRAIN][:, None],
        x_test=IMAGES[TEST],
        y_test=LABELS[TEST][:, None],
    )
    check(open_store(tmp_path / "a.npz"))
    np.savez(tmp_path / "b.npz", pixels=IMAGES, classes=LABELS)
    with pytest.raises(ValueError, match=r"b\.npz holds classes, pixels: expected X and Y"):
        open_store(tmp_path / "b.npz")
    check(open_store(tmp_path / "b.npz", keys=("pixels", "classes")), slice(None), None)


@pytest.mark.parametrize(
    "name", ["part{}.npz", "cifar5m_part{}.npz", "cifar5m-part{}.npz", "CIFAR5M_part_{}.npz"]
)
def test_part_five_is_the_test_split_in_every_spelling_of_the_release(name, tmp_path):
    for k in range(6):
        part = slice(20 * k, 20 * k + 20)
        np.savez(tmp_path / name.format(k), X=IMAGES[part], Y=LABELS[part])
    check(open_store(tmp_path))


@pytest.mark.parametrize(
    "name, split",
    [
        ("cifar5mpart5.npz", "test"),
        ("part12.npz", "train"),
        ("svhn_test.npz", "test"),
        ("contest.npz", None),
        ("20m_part1.npz", None),
        ("train-a.npz", "train"),
    ],
)
def test_a_file_name_decides_the_split_or_does_not(name, split):
    assert split_of(name) == split


def test_parts_of_a_pool_are_taken_in_the_order_of_their_numbers(tmp_path):
    for k in (1, 2, 10):
        np.savez(tmp_path / f"50m_part{k}.npz", image=IMAGES[:10], label=np.full(10, k % 10))
    assert open_store(tmp_path).train.labels.reshape(3, 10)[:, 0].tolist() == [1, 2, 0]


def test_a_file_per_class_is_one_pool(tmp_path):
    for k in range(10):
        np.save(tmp_path / f"class{k}.npy", IMAGES[k == LABELS])
    store = open_store(tmp_path)
    order = np.argsort(LABELS, kind="stable")
    assert np.array_equal(store.train.gather(np.arange(120)), IMAGES[order])
    (tmp_path / "class4.npy").unlink()
    with pytest.raises(ValueError, match="class files must be 0 to C - 1"):
        open_store(tmp_path)


def test_svhn_has_digits_as_classes(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    digits = np.where(LABELS == 0, 10, LABELS)[:, None]  # its zero is called 10
    for split, part in (("train", TRAIN), ("test", TEST)):
        content = {"X": IMAGES[part].transpose(1, 2, 3, 0), "y": digits[part].astype(np.uint8)}
        savemat(tmp_path / f"{split}_32x32.mat", content)
    check(open_store(tmp_path))
    assert open_store(tmp_path).class_names == tuple("0123456789")


def test_a_directory_of_images_is_sent_to_the_importer(tmp_path):
    (tmp_path / "cat").mkdir()
    Image.fromarray(IMAGES[0]).save(tmp_path / "cat" / "0.png")
    with pytest.raises(ValueError, match=f"cifar5m-import {tmp_path} --out DIR"):
        open_store(tmp_path)


class Raw:
    """An array of objects made from bytes: addresses that an unpickler would follow."""

    def __reduce__(self):
        return np.ndarray, ((1,), "O", b"12345678")


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps({"data": Raw()}),
        pickle.dumps({"data": io.BytesIO}),
        pickle.dumps([1, 2]),
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a memo index of two billion
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f",  # bytes longer than any memory
        b"",
    ],
    ids=["addresses", "other class", "no dict", "memo", "length", "empty"],
)
def test_a_hostile_pickle_is_one_line(data):
    with pytest.raises(ValueError, match="not a pickle of arrays") as failure:
        load_arrays(data)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("content", [{"data": np.zeros((2, 32, 32, 3), np.uint8)}, [1], os.getcwd])
def test_a_pickle_that_is_no_pool_is_refused_and_not_run(content, tmp_path):
    file = tmp_path / "pool.pickle"
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(
        ValueError, match=r"pool\.pickle is corrupt, or not a pool of data and extrapolated_targets"
    ) as no:
        open_store(file)
    assert "\n" not in str(no.value)


@pytest.mark.parametrize(
    "labels, message",
    [
        (LABELS + 10**9, "labels must be below 100,000"),
        (LABELS + 0.5, "labels must be whole numbers or one-hot, got float64"),
        (np.full(120, np.nan), "labels must be whole numbers or one-hot, got float64"),
        (np.full(120, "cat"), "labels must be whole numbers or one-hot, got <U3"),
        (np.zeros((120, 10)), "labels must be whole numbers or one-hot"),
        (np.stack([LABELS, LABELS + 20], 1), "labels must be whole numbers or one-hot"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message, tmp_path):
    np.savez(tmp_path / "x.npz", X=IMAGES, Y=labels)
    with pytest.raises(ValueError, match=message):
        open_store(tmp_path)


def test_images_without_pixels_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", X=IMAGES[:, :0], Y=LABELS)
    with pytest.raises(ValueError, match=r"samples must be numbers \(N, \.\.\.\), got uint8"):
        open_store(tmp_path)
