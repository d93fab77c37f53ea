"""Where photographs of ImageNet are found, in each form, and what is said where they are not."""

import tarfile

import numpy as np
import pytest

from dogbird.sources import open_source
from dogbird.tasks import dogbird_task, ilsvrc2012
from dogbird.val_labels import read_val_labels
from tests.dogbird.small_imagenet import (
    OTHERS,
    add,
    jpeg,
    photographs,
    write_folder,
    write_tables,
    write_tars,
    write_webdataset,
)

WNIDS = sorted(dogbird_task().labels)


def contents(source) -> dict[str, list[tuple[str, bytes]]]:
    """(wnid, bytes) of all photographs of each split, sorted."""
    found: dict = {split: [] for split in source.forms}
    for piece in source.pieces:
        read = list(piece.read())
        assert [wnid for wnid, _, _ in read] == piece.wnids
        found[piece.split] += [(wnid, data) for wnid, _, data in read]
    return {split: sorted(rows) for split, rows in found.items()}


EXPECTED = {
    split: sorted((wnid, data) for wnid, _, data in rows if wnid not in OTHERS)
    for split, rows in photographs().items()
}


@pytest.mark.parametrize(
    "write, forms",
    [
        (write_folder, ("folder", "folder")),
        (write_tars, ("nested tars", "webdataset")),
        (write_webdataset, ("webdataset", "webdataset")),
    ],
)
def test_every_form_gives_the_same_photographs(write, forms, tmp_path):
    source = open_source(write(tmp_path / "imagenet"), WNIDS)
    assert tuple(source.forms.values()) == forms
    assert len(source) == 3 * 122
    assert source.counts("train") == dict.fromkeys(WNIDS, 2)
    assert contents(source) == EXPECTED


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_tables_of_the_hub_give_the_same_photographs(suffix, tmp_path):
    pytest.importorskip("pyarrow")
    source = open_source(write_tables(tmp_path, suffix), WNIDS)
    assert source.forms == {"train": suffix, "val": suffix}
    assert contents(source) == EXPECTED


def test_flat_validation_images_and_class_tars_are_found_too(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "train").mkdir()
    for _, name, data in photographs()["val"]:
        (tmp_path / "val" / f"{name}.JPEG").write_bytes(data)
    (tmp_path / "val.txt").write_text(
        "".join(f"{name}.JPEG {wnid}\n" for wnid, name, _ in photographs()["val"])
    )
    for wnid in WNIDS:
        with tarfile.open(tmp_path / "train" / f"{wnid}.tar", "w") as tar:
            for _, name, data in (row for row in photographs()["train"] if row[0] == wnid):
                add(tar, f"{name}.JPEG", data)
    source = open_source(tmp_path, WNIDS)
    assert source.forms == {"train": "class tars", "val": "folder"}
    assert contents(source) == EXPECTED


def test_the_four_lists_of_validation_labels_agree(tmp_path):
    wnids = list(ilsvrc2012())
    chosen = [wnids[65], wnids[970], wnids[0]]
    names = [f"ILSVRC2012_val_{k:08d}" for k in (1, 2, 3)]
    expected = dict(zip(names, chosen, strict=True))
    texts = {
        "caffe": "".join(f"{n}.JPEG {wnids.index(w)}\n" for n, w in expected.items()),
        "kaggle": "ImageId,PredictionString\n"
        + "".join(f"{n},{w} 85 1 499 272 \n" for n, w in expected.items()),
        "named": "".join(f"{n} {w}\n" for n, w in expected.items()),
        "plain": "\n".join(chosen),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert read_val_labels(tmp_path / name) == expected, name


def test_the_devkits_numbers_are_only_read_with_its_meta_mat(tmp_path):
    path = tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    path.write_text("490\n361\n")
    with pytest.raises(ValueError, match=r"need its meta\.mat beside them"):
        read_val_labels(path)
    savemat = pytest.importorskip("scipy.io").savemat
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O")]  # a struct array, as the devkit's is
    rows = np.array([(361, WNIDS[3]), (490, WNIDS[7])], fields)
    savemat(tmp_path / "meta.mat", {"synsets": rows})
    assert list(read_val_labels(path).values()) == [WNIDS[7], WNIDS[3]]


def nothing(root):
    root.mkdir()


def other_files(root):
    root.mkdir()
    for name in ("a.txt", "b.txt"):
        (root / name).write_text("x")


def cifar(root):
    (root / "train" / "cat").mkdir(parents=True)


def no_val(root):
    write_folder(root, {"train": photographs()["train"]})


def cut_tar(root):
    write_tars(root)
    path = root / "ILSVRC2012_img_train.tar"
    path.write_bytes(path.read_bytes()[:100_000])


def flat_val(root):
    no_val(root)
    (root / "val").mkdir()
    (root / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(jpeg(1))


def flat_tar(root):
    write_tars(root)
    (root / "val.txt").unlink()


def gzip_tar(root):
    root.mkdir()
    with tarfile.open(root / "imagenet-train-0.tar", "w:gz") as tar:
        add(tar, "000000.jpg", jpeg(1))


def strange_labels(root):
    root.mkdir()
    with tarfile.open(root / "imagenet-train-0.tar", "w") as tar:
        add(tar, "000000.jpg", jpeg(1))
        add(tar, "000000.cls", b"1000")


@pytest.mark.parametrize(
    "make, message",
    [
        (nothing, "holds no train split of ImageNet: expected train/nXXXXXXXX/.*found nothing"),
        (other_files, r"found a\.txt, b\.txt"),
        (cifar, "found in train/ cat/"),
        (no_val, "holds no val split .* found train/"),
        (flat_val, "found in val/ ILSVRC2012_val_0+1.JPEG; .* as `val_labels`"),
        (flat_tar, "none of the photographs of val .* as `val_labels`"),
        (cut_tar, r"ILSVRC2012_img_train\.tar is corrupt, or not a tar, or it is compressed"),
        (gzip_tar, "is corrupt, or not a tar, or it is compressed"),
        (strange_labels, "holds '1000', expected a wnid or 0 to 999"),
    ],
)
def test_what_is_no_imagenet_is_refused_with_what_was_found(make, message, tmp_path):
    make(tmp_path / "imagenet")
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "imagenet", WNIDS)


def test_a_changed_file_is_another_piece(tmp_path):
    root = write_folder(tmp_path)
    before = open_source(root, WNIDS)
    assert [p.key for p in open_source(root, WNIDS).pieces] == [p.key for p in before.pieces]
    path = next((root / "val" / WNIDS[-1]).iterdir())
    path.write_bytes(jpeg(7))
    after = open_source(root, WNIDS)
    changed = [a.key != b.key for a, b in zip(after.pieces, before.pieces, strict=True)]
    assert changed == [False, True]
