"""Machines and files as hard use met them: flipped bits, odd file systems, many shards, bombs."""

import errno
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from worlds import open_store
from worlds.formats.layout import Shard
from worlds.formats.npz import load_npz
from worlds.formats.plan import load_plan
from worlds.formats.shards import decode_image, read_arrays
from worlds.formats.tar_members import _KEPT_OPEN, TarMembers
from worlds.runtime.checkpoints import load_checkpoint
from worlds.runtime.files import atomic_write, remove_stale

REPO = Path(__file__).resolve().parents[2]


def test_a_flipped_bit_in_a_checkpoint_is_noticed(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"w": torch.arange(1000.0)}, path)
    assert torch.equal(load_checkpoint(path)["w"], torch.arange(1000.0))
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(500).tobytes())] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum does not match"):
        load_checkpoint(path)


def test_a_directory_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    sync = os.fsync

    def fail_for_directories(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_for_directories)
    with atomic_write(tmp_path / "file") as stream:
        stream.write(b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_a_temporary_file_of_another_pid_namespace_is_left_alone(tmp_path, monkeypatch):
    with atomic_write(tmp_path / "file"):
        (name,) = [path.name for path in tmp_path.iterdir()]
    mine = name.replace(f".{os.getpid()}.", ".999999.")
    other = mine.replace(os.readlink("/proc/self/ns/pid").strip("pid:[]"), "4026539999")
    for left in (mine, other):
        (tmp_path / left).touch()
    remove_stale(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([other, "file"])


def test_the_loaders_work_without_a_writable_cache_for_numba(tmp_path):
    program = (
        "import numba.core.caching as c\n"
        "c.CacheImpl._locator_classes = []  # as on a read-only system without a home\n"
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as told:\n"
        "    warnings.simplefilter('always')\n"
        "    from worlds.rng.kernels import first_words\n"
        "    import numpy as np\n"
        "    print(first_words(2, np.array([1, 2], dtype=np.uint64), 0, 0).shape)\n"
        "print(sum('NUMBA_CACHE_DIR' in str(w.message) for w in told))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["(2, 2)", "1"]


def test_many_shards_keep_few_descriptors_open(tmp_path):
    tars, pixels = [], []
    from worlds.formats.shards import encode_png, write_tar

    for index in range(_KEPT_OPEN + 20):
        pixels.append(np.full((32, 32, 3), index, np.uint8))
        tars.append(tmp_path / f"{index}.tar")
        with tars[-1].open("wb") as stream:
            write_tar(stream, [(index, encode_png(pixels[-1]), 0)], "png")
    before = len(os.listdir("/proc/self/fd"))
    members = TarMembers(tars, [1] * len(tars))
    for index in [*range(len(tars)), *range(len(tars))]:
        assert np.array_equal(members.decoded(index, decode_image), pixels[index])
    assert len(os.listdir("/proc/self/fd")) - before == _KEPT_OPEN


def test_an_image_that_declares_too_many_pixels_is_refused_before_it_is_decoded():
    for side in (9_000, 14_000):  # the second is more than Pillow itself opens
        stream = io.BytesIO()
        Image.new("1", (side, side)).save(stream, "PNG")
        with pytest.raises(ValueError, match="pixels"):
            decode_image(stream.getvalue())


@pytest.mark.parametrize(
    "content",
    [
        b"not an array",
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117)
        + b"\n",
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117)
        + b"\n12345678",
        bytes(1 << 24),
    ],
    ids=["no array", "10^12 elements", "objects", "inflates beyond the bound"],
)
def test_a_side_file_is_read_within_bounds(content, tmp_path):
    shard = Shard("train", 0, 1, 0, 10)
    path = tmp_path / shard.arrays
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("index.npy", content)
    with pytest.raises(ValueError, match="is corrupt, or not an"):
        read_arrays(tmp_path, shard)
    with pytest.raises(ValueError, match=str(path)):
        load_npz(path, 1 << 20)


def test_a_zip_of_a_method_that_asks_for_memory_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("X.npy", b"x" * 100)
    with pytest.raises(ValueError, match="neither stored nor deflated"):
        load_npz(tmp_path / "a.npz", 1 << 20)
    with pytest.raises(ValueError, match="neither stored nor deflated"):
        open_store(tmp_path)


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path):
    for name in ("part0.npz", "plan.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="is not a file"):
        open_store(tmp_path)
    with pytest.raises(ValueError, match="holds no plan"):
        load_plan(tmp_path)


def test_formats_that_start_programs_are_no_images():
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "EPS")
    with pytest.raises(ValueError, match="cannot identify"):
        decode_image(stream.getvalue())
