"""Copies of ImageNet as people have them: Kaggle's, macOS's, the Hub's, and wrong lists."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dogbird.convert import BrokenPhotographError, Format, convert, decode
from dogbird.sources import open_source
from dogbird.tasks import dogbird_task, ilsvrc2012
from dogbird.val_labels import read_val_labels
from tests.dogbird.small_imagenet import OTHERS, jpeg, photographs, write_folder

WNIDS = sorted(dogbird_task().labels)
VAL = photographs()["val"]


def write_flat_val(root, name="{name}.JPEG"):
    """Train in class directories, validation photographs in one directory."""
    write_folder(root, {"train": photographs()["train"]})
    (root / "val").mkdir()
    for wnid, stem, data in VAL:
        (root / "val" / name.format(name=stem, wnid=wnid)).write_bytes(data)
    return root


def test_a_positional_list_of_another_length_is_refused(tmp_path):
    root = write_flat_val(tmp_path)
    lines = [wnid for wnid, _, _ in VAL]
    (root / "list").write_text("\n".join(lines))
    assert open_source(root, WNIDS, val_labels=root / "list").counts("val").total() == 122
    (root / "list").write_text("\n".join(lines[1:]))
    with pytest.raises(ValueError, match=r"list has 123 lines, but 124 validation photographs"):
        open_source(root, WNIDS, val_labels=root / "list")


def test_a_list_of_names_that_lacks_a_photograph_is_refused(tmp_path):
    root = write_flat_val(tmp_path)
    (root / "list").write_text("".join(f"{name} {wnid}\n" for wnid, name, _ in VAL[1:]))
    with pytest.raises(ValueError, match=r"no class for 1 of the val photographs, such as \S+_00"):
        open_source(root, WNIDS, val_labels=root / "list")


@pytest.mark.parametrize("given", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_archive_is_read_from_any_of_its_directories(given, tmp_path, monkeypatch):
    write_flat_val(tmp_path / "ILSVRC/Data/CLS-LOC")
    rows = "".join(f"{name},{wnid} 85 1 499 272\n" for wnid, name, _ in VAL)
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + rows)
    monkeypatch.chdir(tmp_path / given)
    source = open_source(Path(), WNIDS)
    assert (source.counts("train").total(), source.counts("val").total()) == (244, 122)


def test_validation_names_that_end_in_the_class_need_no_list(tmp_path):
    root = write_flat_val(tmp_path, "{name}_{wnid}.JPEG")
    assert open_source(root, WNIDS).counts("val") == dict.fromkeys(WNIDS, 1)


def test_companion_files_of_macos_are_skipped(tmp_path):
    root = write_folder(tmp_path)
    for path in list(root.rglob("*.JPEG")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
    assert len(open_source(root, WNIDS)) == 3 * 122


def test_a_compressed_tar_is_named_with_what_to_do(tmp_path):
    (tmp_path / "ILSVRC2012_img_train.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(ValueError, match=r"train\.tar\.gz is compressed: .*gunzip"):
        open_source(tmp_path, WNIDS)


@pytest.mark.parametrize("text", ["name n01440764\nother\n", "\xff\xfe\x00", "n01440764\n\x80"])
def test_a_damaged_list_is_one_line_with_its_path(text, tmp_path):
    (tmp_path / "list").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=str(tmp_path / "list")) as failure:
        read_val_labels(tmp_path / "list")
    assert "\n" not in str(failure.value)


def test_a_damaged_devkit_is_one_line_with_its_path(tmp_path):
    pytest.importorskip("scipy.io")
    path = tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    path.write_text("490\n")
    (tmp_path / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(ValueError, match=r"meta\.mat is corrupt"):
        read_val_labels(path)


def test_tables_with_bytes_or_null_images_are_read_and_null_is_broken(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    number = list(ilsvrc2012()).index(WNIDS[0])
    for split in ("train", "validation"):
        rows = {"image": [jpeg(1), None], "label": [number, number]}
        table = pyarrow.table(rows, schema=pyarrow.schema(
            [("image", pyarrow.binary()), ("label", pyarrow.int64())]
        ))  # fmt: skip
        parquet.write_table(table, tmp_path / f"{split}-00000.parquet")
    (piece, _) = open_source(tmp_path, WNIDS).pieces
    whole, null = (data for _, _, data in piece.read())
    assert whole == jpeg(1)
    with pytest.raises(BrokenPhotographError):
        convert(null, Format())


def test_sixteen_bit_gray_keeps_its_high_byte():
    values = np.linspace(0, 65535, 4096).reshape(64, 64).astype(np.uint16)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    found = np.asarray(decode(stream.getvalue()))
    assert np.array_equal(found, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, 2))


def test_the_photographs_left_out_are_of_other_classes(tmp_path):
    source = open_source(write_folder(tmp_path), WNIDS)
    assert not set(OTHERS) & set(source.counts("train"))
