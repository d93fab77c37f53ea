"""Shards: equal content is equal bytes, what is read is what was written, damage is refused."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from worlds.formats.layout import Shard
from worlds.formats.shards import (
    Record,
    decode_image,
    encode_png,
    find_record,
    is_finished,
    load_record,
    read_arrays,
    read_samples,
    tar_members,
    write_shard,
)

SHARD = Shard("train", 1, 3, 100, 105)
FACTS = {"fingerprint": "f" * 64, "seconds": 1.5, "device": "cpu"}
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 3, 1])
PROBABILITIES = np.full((5, 10), 0.05) + 0.5 * np.eye(10)[LABELS]


def write(folder, samples=None, labels=LABELS, probabilities=PROBABILITIES):
    samples = map(encode_png, IMAGES) if samples is None else samples
    write_shard(folder, SHARD, samples, labels, probabilities, FACTS)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path)


def test_what_is_read_is_what_was_written(folder):
    found = list(read_samples(folder / SHARD.tar))
    assert [index for index, _, _ in found] == [100, 101, 102, 103, 104]
    assert [label for _, _, label in found] == LABELS.tolist()
    assert (np.stack([decode_image(data) for _, data, _ in found]) == IMAGES).all()
    arrays = read_arrays(folder, SHARD)
    assert arrays.index.tolist() == [100, 101, 102, 103, 104]
    assert arrays.label.tolist() == LABELS.tolist()
    assert arrays.index.dtype == arrays.label.dtype == np.int64
    assert arrays.probabilities.dtype == np.float16
    assert (arrays.probabilities == PROBABILITIES.astype(np.float16)).all()


def test_the_record_says_what_the_files_hold(folder):
    data = (folder / SHARD.tar).read_bytes()
    arrays = read_arrays(folder, SHARD)
    assert load_record(folder, SHARD) == Record(
        **FACTS,
        tar="train-00001-of-00003.tar",
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        arrays_sha256=arrays.sha256,
        count=5,
        classes=(1, 1, 0, 2, 0, 0, 0, 0, 0, 1),
    )


def test_equal_content_gives_equal_bytes(tmp_path):
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    assert (first / SHARD.tar).read_bytes() == (second / SHARD.tar).read_bytes()
    assert (first / SHARD.record).read_bytes() == (second / SHARD.record).read_bytes()


def test_members_carry_no_time_owner_or_extended_header(folder):
    path = folder / SHARD.tar
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        assert tar.pax_headers == {}
    assert [member.name for member in members[:4]] == [
        "000000100.png",
        "000000100.cls",
        "000000101.png",
        "000000101.cls",
    ]
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (
            (0, 0, 0, "", "")
        )
        assert member.type == tarfile.REGTYPE
        assert member.pax_headers == {}
    # A header and the content in whole blocks each; at the end two blocks, filled up to a record.
    blocks = sum(1 + -(-member.size // 512) for member in members) + 2
    assert path.stat().st_size == -(-blocks // 20) * 20 * 512


def test_tar_members_agree_with_tarfile(folder):
    path = folder / SHARD.tar
    with tarfile.open(path) as tar:
        expected = [(member.name, member.offset_data, member.size) for member in tar]
    assert list(tar_members(path)) == expected


# webdataset 1.0.2 leaves the file to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_a_shard(folder):
    import webdataset

    dataset = webdataset.WebDataset(str(folder / SHARD.tar), shardshuffle=False)
    found = list(dataset.decode("rgb8").to_tuple("__key__", "png", "cls"))
    assert [key for key, _, _ in found] == [f"{index:09d}" for index in range(100, 105)]
    assert [label for _, _, label in found] == LABELS.tolist()
    assert (np.stack([image for _, image, _ in found]) == IMAGES).all()


def test_a_shard_exists_when_its_record_matches(folder):
    assert is_finished(folder, SHARD, "f" * 64)
    assert not is_finished(folder, SHARD, "e" * 64)
    assert not is_finished(folder, Shard("train", 2, 3, 105, 110), "f" * 64)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / SHARD.record).unlink(),
        lambda folder: (folder / SHARD.tar).unlink(),
        lambda folder: (folder / SHARD.arrays).unlink(),
        lambda folder: (folder / SHARD.tar).write_bytes(b"short"),
        lambda folder: (folder / SHARD.record).write_text('{"fingerprint": "fff'),
        lambda folder: (folder / SHARD.record).write_text("[]"),
    ],
    ids=["no record", "no tar", "no side file", "short tar", "cut record", "no object"],
)
def test_an_incomplete_shard_does_not_exist(folder, damage):
    damage(folder)
    assert not is_finished(folder, SHARD, "f" * 64)


def failing():
    yield encode_png(IMAGES[0])
    raise RuntimeError("the network gave NaN")


@pytest.mark.parametrize(
    "samples, error, message",
    [
        (failing(), RuntimeError, "the network gave NaN"),
        ([b"too", b"few"], ValueError, "shorter"),
        ([b"one too many"] * 6, ValueError, "longer"),
    ],
)
@pytest.mark.parametrize("written_before", [False, True])
def test_failing_samples_leave_no_record(tmp_path, samples, error, message, written_before):
    if written_before:
        write(tmp_path)
    with pytest.raises(error, match=message):
        write(tmp_path, samples if isinstance(samples, list) else failing())
    assert find_record(tmp_path, SHARD) is None
    assert not is_finished(tmp_path, SHARD, "f" * 64)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    "labels, probabilities, message",
    [
        (LABELS[:4], PROBABILITIES, r"holds 5 images, got labels \(4,\)"),
        (LABELS, PROBABILITIES[:4], r"probabilities \(4, 10\)"),
        (LABELS, PROBABILITIES[:, 0], r"probabilities \(5,\)"),
        (LABELS, PROBABILITIES[:, :9], "labels must be 0 to 8, got 0 to 9"),
        (LABELS - 1, PROBABILITIES, "labels must be 0 to 9, got -1 to 8"),
    ],
)
def test_labels_that_do_not_fit_are_refused_before_anything_is_touched(
    folder, labels, probabilities, message
):
    with pytest.raises(ValueError, match=message):
        write(folder, labels=labels, probabilities=probabilities)
    assert is_finished(folder, SHARD, "f" * 64)


def test_a_tar_cut_short_is_refused_wherever_it_is_cut(folder):
    path = folder / SHARD.tar
    data = path.read_bytes()
    end = max(offset + size for _, offset, size in tar_members(path))
    for length in [0, 1, 511, 512, 513, 1024, end // 2, end - 1, end]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=f"cut short at {length} bytes"):
            list(read_samples(path))


def test_what_is_no_plain_tar_is_refused(tmp_path):
    (tmp_path / "noise.tar").write_bytes(b"\xff" * 10240)
    with pytest.raises(ValueError, match="no tar header at byte 0"):
        list(tar_members(tmp_path / "noise.tar"))
    with tarfile.open(tmp_path / "pax.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.png")
        member.mtime = 1.5  # a fraction needs an extended header
        tar.addfile(member, io.BytesIO())
    with pytest.raises(ValueError, match="not a plain file without extensions"):
        list(tar_members(tmp_path / "pax.tar"))


@pytest.mark.parametrize("members", [["1.png", "2.cls"], ["1.png", "1.txt"], ["a.png", "a.cls"]])
def test_a_tar_of_other_samples_is_refused(tmp_path, members):
    with tarfile.open(tmp_path / "other.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in members:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(ValueError, match=r"expected an image and its \.cls"):
        list(read_samples(tmp_path / "other.tar"))


def test_png_keeps_every_pixel_and_gray_becomes_rgb():
    assert (decode_image(encode_png(IMAGES[0])) == IMAGES[0]).all()
    stream = io.BytesIO()
    Image.fromarray(IMAGES[0, :, :, 0]).save(stream, "png")
    gray = decode_image(stream.getvalue())
    assert gray.shape == (32, 32, 3)
    assert (gray == IMAGES[0, :, :, :1]).all()


def test_a_record_is_plain_json(folder):
    assert json.loads((folder / SHARD.record).read_text())["device"] == "cpu"
