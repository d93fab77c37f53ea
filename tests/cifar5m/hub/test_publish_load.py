"""A published set, loaded back by everything that the card names: the same images and labels."""

import gc
import sys
from pathlib import Path

import numpy as np
import pytest

from cifar5m.commands.publish import main
from cifar5m.commands.verify import main as verify
from cifar5m.hub.parquet import write_parquets
from tests.cifar5m.loopback_hub import Repo, hub_of_this_process
from tests.cifar5m.small_set import SPLITS, images_of, labels_of, make_set, shards_of
from worlds import open_store
from worlds.formats.layout import CIFAR10_CLASSES
from worlds.formats.shards import read_arrays
from worlds.runtime.torchvision_ops import declare_missing_operators

# huggingface_hub's own way of sending files.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
LEFT_OPEN = pytest.mark.filterwarnings("ignore::ResourceWarning")


def published(folder) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By split, the images and the labels that went into the set."""
    found = {}
    for split in SPLITS:
        shards = [shard for shard in shards_of(folder) if shard.split == split]
        found[split] = tuple(np.concatenate([*map(of, shards)]) for of in (images_of, labels_of))
    return found


@pytest.fixture(params=["tars", "parquet"], scope="module")
def form(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def copy(form, tmp_path_factory) -> Path:
    """What the Hub holds after publishing, as a folder of its own."""
    home = tmp_path_factory.mktemp(form)
    options = ["--workers", "1", "--quiet", *(["--parquet"] if form == "parquet" else [])]
    with hub_of_this_process(home) as hub:
        assert main([str(make_set(home / "set")), "--repo", "me/set", *options]) == 0
        (home / "snapshot").symlink_to(open_store("hf://datasets/me/set").source)
        for path, data in hub.content("me/set").items():
            (home / "copy" / path).parent.mkdir(parents=True, exist_ok=True)
            (home / "copy" / path).write_bytes(data)
    (home / "copy" / ".cache" / "huggingface").mkdir(parents=True)
    return home / "copy"


def load(folder, tmp_path, **options):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), **options)


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_reads_images_and_named_labels(streaming, copy, form, tmp_path):
    image, label = ("image", "label") if form == "parquet" else ("png", "cls")
    loaded = load(copy, tmp_path, streaming=streaming)
    assert set(loaded) == set(SPLITS)
    for split, (pixels, labels) in published(copy).items():
        rows = list(loaded[split])
        assert loaded[split].features[label].names == list(CIFAR10_CLASSES)
        assert [row[label] for row in rows] == labels.tolist()
        np.testing.assert_array_equal([np.asarray(row[image]) for row in rows], pixels)


def test_parquet_brings_the_probabilities(copy, form, tmp_path):
    if form == "tars":
        assert not (copy / "parquet").exists()
        return
    rows = list(load(copy, tmp_path)["train"])
    arrays = [read_arrays(copy, shard) for shard in shards_of(copy) if shard.split == "train"]
    assert [row["index"] for row in rows] == list(range(SPLITS["train"]))
    np.testing.assert_array_equal(
        np.array([row["probabilities"] for row in rows], np.float32),
        np.concatenate([side.probabilities for side in arrays]).astype(np.float32),
    )


def test_the_snapshot_of_the_hub_is_a_store_without_parquet(copy):
    snapshot = copy.parent / "snapshot"
    store = open_store(snapshot)
    for split, (pixels, labels) in published(copy).items():
        np.testing.assert_array_equal(store[split].gather(range(len(labels))), pixels)
        assert store[split].labels.tolist() == labels.tolist()
    assert store.class_names == CIFAR10_CLASSES
    assert not (snapshot / "parquet").exists()


def rows_of(reader) -> list:
    """All rows; webdataset leaves its files to the garbage collector, so that it comes now."""
    rows = list(reader)
    del reader
    gc.collect()
    return rows


@LEFT_OPEN
def test_webdataset_reads_the_tars(copy):
    import webdataset

    pixels, labels = published(copy)["train"]
    tars = sorted(map(str, (copy / "data").glob("train-*.tar")))
    rows = rows_of(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"))
    assert [row["cls"] for row in rows] == labels.tolist()
    np.testing.assert_array_equal([row["png"] for row in rows], pixels)


@LEFT_OPEN
def test_timm_reads_the_listing(copy):
    declare_missing_operators()
    from timm.data.readers.reader_wds import ReaderWds

    for split, (pixels, labels) in published(copy).items():
        assert len(ReaderWds(str(copy), split=split)) == len(labels)
        rows = rows_of(ReaderWds(str(copy), split=split))
        assert [target for _, target in rows] == labels.tolist()
        np.testing.assert_array_equal([np.asarray(image) for image, _ in rows], pixels)


def test_a_downloaded_copy_verifies(copy):
    assert verify([str(copy), "--workers", "1"]) == 0


def test_parquet_of_labels_that_changed_is_written_again(tmp_path):
    folder = make_set(tmp_path / "set")
    shards = shards_of(folder)
    assert len(list(write_parquets(folder, shards, "png"))) == len(shards)
    before = {path: path.stat().st_mtime_ns for path in (folder / "parquet").iterdir()}
    record = folder / shards[1].record
    record.write_text(record.read_text().replace('"arrays_sha256": "', '"arrays_sha256": "0'))
    list(write_parquets(folder, shards, "png"))
    changed = [path.name for path in before if path.stat().st_mtime_ns != before[path]]
    assert changed == [f"{shards[1].tar.stem}.parquet"]


def test_parquet_without_pyarrow_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    folder = make_set(tmp_path / "set")
    assert main([str(folder), "--repo", "me/set", "--parquet", "--dry-run", "--quiet"]) == 2
    assert "pip install pyarrow" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["me/nothing", "me/set@nowhere"])
def test_a_name_that_the_hub_does_not_know_is_one_line(name, tmp_path):
    with hub_of_this_process(tmp_path) as hub:
        hub.repos["me/set"] = Repo()
        with pytest.raises(ValueError, match=f"{name} is not on the Hub, or is private"):
            open_store(f"hf://datasets/{name}")
