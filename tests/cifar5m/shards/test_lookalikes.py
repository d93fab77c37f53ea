"""Pools as they are published, in small: each is opened, imported where it is not read in place,
packed and trained on, with the pixels and labels that were put in.
"""

import gzip
import pickle
import struct

import numpy as np
import pytest
from PIL import Image

import cifar5m
from worlds import TrainConfig, open_store, train, write_pack
from worlds.training.build import Data

RNG = np.random.default_rng(7)
COUNT = 60


def make(side=32, classes=10, channels=3, ordered=False):
    labels = np.arange(COUNT) % classes
    shape = (COUNT, side, side, channels)
    return RNG.integers(0, 256, shape, np.uint8), np.sort(labels) if ordered else labels


def released(name):
    def write(folder):
        images, labels = make()
        for part in range(6):  # part 5 is test
            own = slice(10 * part, 10 * part + 10)
            np.savez(folder / name.format(part), X=images[own], Y=labels[own])
        return images, labels

    return write


def one_file(name, **kind):
    def write(folder):
        images, labels = make(**kind)
        np.savez(folder / name, image=images, label=labels)
        return images, labels

    return write


def parts_of_20m(folder):
    images, labels = make(ordered=True)
    for number, own in enumerate((slice(0, 30), slice(30, COUNT)), 1):
        np.savez(folder / f"20m_part{number}.npz", image=images[own], label=labels[own])
    return images, labels


def file_per_class(folder):
    images, labels = make(ordered=True)
    for label in range(10):
        np.save(folder / f"class{label}.npy", images[labels == label])
    return images, labels


def mnist8m(folder):
    images, labels = make(side=28, channels=1)
    for name, array in (("patterns-idx3", images[..., 0]), ("labels-idx1", labels.astype("u1"))):
        head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (folder / f"mnist8m-{name}-ubyte").write_bytes(head + array.tobytes())
    return images, labels


def mnist(folder):
    images, labels = mnist8m(folder)
    for kind in ("patterns-idx3", "labels-idx1"):
        source = folder / f"mnist8m-{kind}-ubyte"
        name = f"train-{kind.replace('patterns', 'images')}-ubyte.gz"
        (folder / name).write_bytes(gzip.compress(source.read_bytes()))
        source.unlink()
    return images, labels


def cifar_batches(folder):
    images, labels = make()
    for number in range(1, 7):
        own = slice(10 * number - 10, 10 * number)
        rows = images[own].transpose(0, 3, 1, 2).reshape(10, -1)
        name = f"data_batch_{number}" if number < 6 else "test_batch"
        batch = {b"data": rows, b"labels": labels[own].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))
    return images, labels


def tiny_images_500k(folder):
    images, labels = make()
    content = {"data": images, "extrapolated_targets": labels}
    (folder / "ti_500K_pseudo_labeled.pickle").write_bytes(pickle.dumps(content))
    return images, labels


def pngs(folder):
    images, labels = make(ordered=True)
    for k, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "train" / str(label) / f"{k:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return images, labels


IN_PLACE, IMPORTED = "opened", "imported"
NPZ = (IN_PLACE, IMPORTED)
POOLS = {
    "CIFAR-5m": (released("part{}.npz"), NPZ),
    "CIFAR-5m, browser": (released("cifar5m_part{}.npz"), NPZ),
    "CIFAR-5m, dash": (released("cifar5m-part{}.npz"), NPZ),
    "EDM 1m": (one_file("1m.npz", ordered=True), NPZ),
    "EDM 20m in parts": (parts_of_20m, NPZ),
    "EDM CIFAR-100": (one_file("1m.npz", classes=60), NPZ),
    "EDM Tiny-ImageNet": (one_file("tiny_edm_1m.npz", side=64, classes=30), NPZ),
    "DDPM SVHN": (one_file("svhn_ddpm.npz"), NPZ),
    "one file per class": (file_per_class, (IN_PLACE,)),
    "MNIST8M": (mnist8m, (IN_PLACE,)),
    "MNIST": (mnist, (IN_PLACE,)),
    "CIFAR-10": (cifar_batches, (IN_PLACE,)),
    "Tiny Images 500K": (tiny_images_500k, (IN_PLACE,)),
    "images in directories": (pngs, (IMPORTED,)),
}


def contents(store):
    """All images and labels of a store, train first."""
    splits = [store.splits[name] for name in ("train", "test") if name in store.splits]
    images = [split.gather(np.arange(len(split))) for split in splits]
    return np.concatenate(images), np.concatenate([split.labels for split in splits])


@pytest.mark.parametrize(
    ("name", "way"), [(name, way) for name, (_, ways) in POOLS.items() for way in ways]
)
def test_a_published_pool_is_opened_or_imported_packed_and_trained_on(name, way, tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    images, labels = POOLS[name][0](folder)
    if way == IMPORTED:
        files = sorted(folder.glob("*.npz")) or [folder]
        cifar5m.import_dataset(files, tmp_path / "set", shard_size=20, workers=1)
        folder = tmp_path / "set"
    store = open_store(folder)
    found, given = contents(store)
    assert np.array_equal(found, images)
    assert np.array_equal(given, labels)
    assert ("test" in store.splits) == (name.startswith("CIFAR-"))  # never guessed
    digits = tuple("0123456789") if "SVHN" in name or "MNIST" in name else None
    assert (store.class_names == digits) == (digits is not None)
    if "CIFAR-5m" in name:  # part 5 and nothing else
        assert np.array_equal(store.test.gather(np.arange(10)), images[50:])

    write_pack(list(store.splits.values()), tmp_path / "pack")
    packed = open_store(tmp_path / "pack")
    assert np.array_equal(contents(packed)[0], images)
    data = Data(packed.train, packed.splits.get("test", packed.train))
    config = TrainConfig("mlp_3x16", n=40, steps=2, batch_size=20, augment=None, log=1)
    run = train(config, data, tmp_path / "run")
    assert run.finished
    assert run.final["test_error"] <= 1
