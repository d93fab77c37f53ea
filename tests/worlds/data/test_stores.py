import json
import pickle
import re
from mmap import mmap

import numpy as np
import pytest

from tests.worlds.small_stores import write_shards
from worlds import ArrayStore, LabelNoise, RealLoader, open_store, verify_pack, write_pack
from worlds.formats.layout import CIFAR10_CLASSES

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (120, 32, 32, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 10, 120)
PROBABILITIES = RNG.dirichlet(np.ones(10), 120).astype(np.float16)


def make_arrays(folder):
    return ArrayStore(
        IMAGES[:100],
        LABELS[:100],
        IMAGES[100:],
        LABELS[100:],
        class_names=CIFAR10_CLASSES,
        probabilities=PROBABILITIES[:100],
        test_probabilities=PROBABILITIES[100:],
    )


def make_shards(folder):
    write_shards(folder, IMAGES, LABELS, test=20)
    return open_store(folder)


def make_pack(folder):
    write_pack(list(make_arrays(folder).splits.values()), folder / "pack")
    return open_store(folder / "pack")


def make_pack_of_shards(folder):
    write_pack(list(make_shards(folder / "shards").splits.values()), folder / "pack")
    return open_store(str(folder / "pack"))


def make_parts(folder):
    for part, place in ((0, slice(0, 30)), (3, slice(30, 100)), (5, slice(100, 120))):
        np.savez(folder / f"cifar5m_part{part}.npz", X=IMAGES[place], Y=LABELS[place])
    return open_store(folder)


def write_cifar10(folder):
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    names = [(f"data_batch_{k}", slice(20 * k - 20, 20 * k)) for k in range(1, 6)]
    for name, place in [*names, ("test_batch", slice(100, 120))]:
        data = IMAGES[place].transpose(0, 3, 1, 2).reshape(20, 3072)
        batch = {b"data": data, b"labels": LABELS[place].tolist(), b"batch_label": b"x"}
        (batches / name).write_bytes(pickle.dumps(batch, protocol=2))
    return batches


def make_cifar10(folder):
    write_cifar10(folder)
    return open_store(folder)


STORES = [make_arrays, make_shards, make_pack, make_pack_of_shards, make_parts, make_cifar10]
each_store = pytest.mark.parametrize("make", STORES, ids=lambda make: make.__name__)


@each_store
def test_every_form_gives_the_same_samples(make, tmp_path):
    store = make(tmp_path)
    wanted = [99, 0, 29, 30, 30, 57]
    assert [len(store), len(store.train), len(store.test)] == [120, 100, 20]
    assert np.array_equal(store.train.gather(wanted), IMAGES[wanted])
    assert np.array_equal(store.test.gather(np.arange(20)), IMAGES[100:])
    assert np.array_equal(store.train.labels, LABELS[:100])
    assert np.array_equal(store.test.clean_labels, LABELS[100:])
    assert store.class_names == CIFAR10_CLASSES
    assert re.fullmatch("[0-9a-f]{64}", store.train.fingerprint)
    assert store.train.fingerprint != store.test.fingerprint
    assert repr(store).endswith("train: 100, test: 20)")


@each_store
def test_every_form_gives_the_same_batches(make, tmp_path):
    def batches(pool):
        loader = RealLoader(pool, 60, 16, 9, augment="crop+flip", seed=1)
        return [(x.numpy().tobytes(), y.tolist()) for x, y in loader]

    assert batches(make(tmp_path).train) == batches(make_arrays(None).train)


@pytest.mark.parametrize("make", [make_arrays, make_pack, make_shards])
def test_probabilities_are_kept(make, tmp_path):
    found = make(tmp_path).train.probabilities
    expected = np.eye(10)[LABELS[:100]] if make is make_shards else PROBABILITIES[:100]
    assert found.dtype == np.float16
    assert np.array_equal(found, expected.astype(np.float16))


def test_gather_fills_the_given_array(tmp_path):
    out = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    for make in (make_arrays, make_parts):
        assert make(tmp_path).train.gather([7, 40], out=out) is out
        assert np.array_equal(out, IMAGES[[7, 40]])


def test_a_pack_keeps_the_fingerprints_of_its_source(tmp_path):
    pack, shards = make_pack_of_shards(tmp_path), open_store(tmp_path / "shards")
    assert pack.train.fingerprint == shards.train.fingerprint
    state = RealLoader(shards.train, 50, 10, 9).state_dict()
    RealLoader(pack.train, 50, 10, 9).load_state_dict(state)


def test_a_pack_holds_the_clean_labels(tmp_path):
    pool = make_arrays(None).train.with_label_noise(LabelNoise("symmetric", 1))
    write_pack([pool], tmp_path)
    assert np.array_equal(open_store(tmp_path).train.labels, LABELS[:100])


def test_labels_of_a_pack_stay_on_the_disk(tmp_path):
    labels = make_pack(tmp_path).train.labels
    assert labels.dtype == np.int64
    while isinstance(labels.base, np.ndarray):
        labels = labels.base
    assert isinstance(labels.base, mmap)


def test_packing_twice_changes_nothing_and_another_pack_is_refused(tmp_path):
    splits = list(make_arrays(None).splits.values())
    seen = []
    write_pack(splits, tmp_path, lambda done, total: seen.append((done, total)))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    write_pack(splits, tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert seen == [(100, 120), (120, 120)]
    with pytest.raises(ValueError, match="holds another pack"):
        write_pack(splits[:1], tmp_path)


def test_equal_content_packs_to_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_pack(list(make_arrays(None).splits.values()), tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_hub_dataset_is_fetched_and_opened(tmp_path, monkeypatch):
    import huggingface_hub

    make_pack(tmp_path)
    asked = []

    def snapshot_download(name, **options):
        asked.append((name, options))
        return str(tmp_path / "pack")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert len(open_store("hf://datasets/someone/cifar5m@v1").train) == 100
    unread = {"ignore_patterns": ["parquet/*", "audit/*"]}
    assert asked == [("someone/cifar5m", {"repo_type": "dataset", "revision": "v1"} | unread)]
    with pytest.raises(ValueError, match="expected hf://datasets/OWNER/NAME"):
        open_store("hf://datasets/cifar5m")


def test_a_malicious_batch_is_refused_and_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    batches = write_cifar10(tmp_path)
    (batches / "data_batch_2").write_bytes(pickle.dumps({b"data": Attack()}))
    with pytest.raises(
        ValueError, match=r"data_batch_2 is corrupt, or not a CIFAR batch.*not (_)?io.open"
    ):
        open_store(tmp_path)
    assert not (tmp_path / "owned").exists()


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def damage_pack(folder):
    make_pack(folder)
    cut(folder / "pack" / "images.npy", 9999)
    open_store(folder / "pack")


def scribble_on_pack(folder):
    make_pack(folder)
    path = folder / "pack" / "images.npy"
    path.write_bytes(b"x" * path.stat().st_size)
    open_store(folder / "pack")


def change_manifest(folder, change):
    make_pack(folder)
    path = folder / "pack" / "pack.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    open_store(folder / "pack")


def change_pack(folder):
    make_pack(folder)
    path = folder / "pack" / "images.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    verify_pack(folder / "pack")


def cut_shard(folder):
    make_shards(folder)
    cut(folder / "data" / "train-00001-of-00004.tar", 20_000)
    open_store(folder)


def lose_record(folder):
    make_shards(folder)
    (folder / "meta" / "train-00002.json").unlink()
    open_store(folder)


def cut_part(folder):
    make_parts(folder)
    cut(folder / "cifar5m_part3.npz", 30_000)
    open_store(folder)


def compress_part(folder):
    np.savez_compressed(folder / "cifar5m_part0.npz", X=IMAGES, Y=LABELS)
    open_store(folder)


def rename_array(folder):
    np.savez(folder / "cifar5m_part0.npz", images=IMAGES, Y=LABELS)
    open_store(folder)


def lose_batch(folder):
    (write_cifar10(folder) / "data_batch_4").unlink()
    open_store(folder)


def no_test_split(folder):
    np.savez(folder / "cifar5m_part0.npz", X=IMAGES, Y=LABELS)
    _ = open_store(folder).test


BAD = [
    (damage_pack, r"images.npy has 9,999 bytes, its manifest says 368,768: .* make it again"),
    (scribble_on_pack, "images.npy is corrupt, or not an array"),
    (
        lambda f: change_manifest(f, lambda m: m.pop("class_names")),
        "field `class_names`",
    ),
    (lambda f: change_manifest(f, lambda m: m.pop("files")), "field `files`"),
    (
        lambda f: change_manifest(f, lambda m: m["files"].pop("labels.npy")),
        "not name 'labels.npy'",
    ),
    (
        lambda f: change_manifest(f, lambda m: m["splits"].update(test=21)),
        "holds 120 images, its manifest says 121",
    ),
    (change_pack, "does not match the sha256 of its manifest"),
    (cut_shard, "train-00001-of-00004.tar has 20,000 bytes, .* cut short"),
    (lose_record, "1 of the 4 shards of train are not made yet, the first is train-00002"),
    (cut_part, "cifar5m_part3.npz is corrupt, or not an .npz"),
    (compress_part, "'X' is compressed"),
    (rename_array, "holds Y, images: expected X and Y"),
    (lose_batch, "data_batch_4 is missing"),
    (no_test_split, "has no test split; it has train"),
    (lambda folder: open_store(folder / "nothing"), "does not exist"),
    (lambda folder: open_store(folder), "is not a recognized dataset: expected plan.json"),
    (lambda folder: ArrayStore(IMAGES, LABELS[:9]), "120 images but 9 labels"),
    (lambda folder: ArrayStore(IMAGES, LABELS - 1), "labels must be between 0 and"),
    (lambda folder: ArrayStore(IMAGES, LABELS, class_names="ab"), "0 and 1 for 2 classes"),
    (lambda folder: ArrayStore(IMAGES, LABELS * 1.0, class_names="ab"), "must be integers"),
    (lambda folder: ArrayStore(IMAGES / 255, LABELS), "uint8, 0 to 255, got float64"),
    (lambda folder: ArrayStore(IMAGES[..., :2], LABELS), "images must be uint8 .N, height, width"),
    (lambda folder: ArrayStore(IMAGES, LABELS, IMAGES), "go together"),
    (lambda folder: ArrayStore(IMAGES, LABELS, probabilities=LABELS), "probabilities must be"),
    (lambda folder: ArrayStore(IMAGES[:0], LABELS[:0]), "at least one sample"),
    (lambda folder: ArrayStore(IMAGES, LABELS).train.gather([120]), "in .0, 120., got 120 to 120"),
    (lambda folder: ArrayStore(IMAGES, LABELS).train.gather([1.5]), "integers, got float64"),
    (lambda folder: ArrayStore(IMAGES, LABELS).train.gather([-1]), "got -1 to -1"),
    (
        lambda folder: ArrayStore(IMAGES, LABELS).train.gather([1], out=np.zeros(3)),
        "out must be contiguous uint8",
    ),
]


@pytest.mark.parametrize("make, says", BAD, ids=[says for _, says in BAD])
def test_bad_input_is_refused_in_one_line(make, says, tmp_path):
    with pytest.raises(ValueError, match=says) as caught:
        make(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_index_beyond_the_split_is_an_index_error():
    with pytest.raises(IndexError, match="got 120"):
        ArrayStore(IMAGES, LABELS).train[120]
