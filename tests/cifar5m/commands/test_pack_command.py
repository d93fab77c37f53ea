"""cifar5m-pack on real shards: the bytes of `write_pack` whatever the workers, kills and damage."""

import importlib
import os
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from cifar5m.commands.pack import main
from cifar5m.commands.verify import main as verify
from cifar5m.shards import importing, packing
from cifar5m.shards.importing import ImportedPlan
from tests.cifar5m.small_set import make_set, rewrite, shards_of
from tests.processes import Forked
from worlds import open_store, verify_pack, write_pack
from worlds.formats.layout import Shard
from worlds.formats.plan import load_plan
from worlds.formats.shards import SideArrays, load_record
from worlds.runtime import files as runtime_files
from worlds.runtime.files import write_json
from worlds.runtime.processes import in_workers

REPO = Path(__file__).resolve().parents[3]
PART, JOURNAL = ".images.npy.part", ".images.npy.journal"


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("packed") / "set")


@pytest.fixture(scope="module")
def expected(shards, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("reference") / "pack"
    write_pack(list(open_store(shards).splits.values()), folder)
    return contents(folder)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(folder, out, *options) -> int:
    return main([str(folder), "--out", str(out), "--quiet", "--workers", "1", *options])


@pytest.mark.parametrize("workers", ["1", "3"])
def test_a_pack_has_the_bytes_of_write_pack(workers, shards, expected, tmp_path):
    assert run(shards, tmp_path / "pack", "--workers", workers) == 0
    assert contents(tmp_path / "pack") == expected
    verify_pack(tmp_path / "pack")


def test_the_default_place_is_beside_the_folder(shards, expected, tmp_path, monkeypatch):
    shutil.copytree(shards, tmp_path / "set")
    monkeypatch.chdir(tmp_path / "set")
    assert main([".", "--quiet", "--workers", "1"]) == 0
    assert contents(tmp_path / "set.pack") == expected


def test_a_pack_that_is_there_is_left_alone(shards, tmp_path, capsys):
    assert run(shards, tmp_path / "pack") == 0
    before = (tmp_path / "pack" / "images.npy").stat().st_mtime_ns
    assert run(shards, tmp_path / "pack") == 0
    assert "there already" in capsys.readouterr().out
    assert (tmp_path / "pack" / "images.npy").stat().st_mtime_ns == before


def kill_after(shards_in, folder, out) -> int:
    """Run the command until the journal has that many shards, kill -9; the shards that it has."""
    options = ["--out", out, "--quiet", "--workers", 1]
    process = Forked("cifar5m.commands.pack", folder, *options)
    deadline, journal = time.monotonic() + 60, out / JOURNAL
    while process.poll() is None:
        assert time.monotonic() < deadline, "no progress"
        if journal.exists() and journal.read_bytes().count(b"\n") > shards_in:
            break
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return journal.read_bytes().count(b"\n") - 1 if journal.exists() else -1


def pack(folder, out) -> list[Shard]:
    """Pack in one process; the shards that it decoded."""
    decoded = []

    def recorded(function, jobs, count):
        decoded.extend(job.shard for job in jobs)
        return in_workers(function, jobs, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "in_workers", recorded)
        assert packing.pack(folder, out, workers=1).written
    return decoded


def test_a_killed_pack_decodes_only_the_rest(tmp_path):
    make_set(tmp_path / "set", shard_size=1)
    write_pack(list(open_store(tmp_path / "set").splits.values()), tmp_path / "expected")
    done = kill_after(2, tmp_path / "set", tmp_path / "pack")
    assert done >= 2
    assert not (tmp_path / "pack" / "images.npy").exists()
    assert len(pack(tmp_path / "set", tmp_path / "pack")) == 19 - done
    assert contents(tmp_path / "pack") == contents(tmp_path / "expected")


class Killed(BaseException):
    """What stands in for a kill at one chosen place."""


def killed_after_three(progress):
    if progress.done > 10:  # the third shard is in
        raise Killed


@pytest.fixture
def half_packed(shards, tmp_path) -> Path:
    """A pack in which three of four shards are decoded."""
    with pytest.raises(Killed):
        packing.pack(shards, tmp_path / "pack", workers=1, on_progress=killed_after_three)
    return tmp_path / "pack"


def cut_the_journal(out) -> None:
    os.truncate(out / JOURNAL, (out / JOURNAL).stat().st_size - 7)


def cut_the_part(out) -> None:
    os.truncate(out / PART, (out / PART).stat().st_size - 7)


def forget_a_shard(out) -> None:
    path = out / JOURNAL
    path.write_text(path.read_text().replace("train-00001", "train-00009"))


RESUMED = {
    "whole": (lambda out: None, ["test-00000"]),
    "journal cut in a line": (cut_the_journal, ["train-00002", "test-00000"]),
    "unknown shard": (forget_a_shard, ["train-00001", "test-00000"]),
    "part cut": (cut_the_part, ["train-00000", "train-00001", "train-00002", "test-00000"]),
}


@pytest.mark.parametrize("case", RESUMED)
def test_what_a_stopped_pack_left_is_used_as_far_as_it_is_sound(
    case, shards, half_packed, expected
):
    damage, decoded = RESUMED[case]
    damage(half_packed)
    assert [shard.name for shard in pack(shards, half_packed)] == decoded
    assert contents(half_packed) == expected


def test_a_shard_made_again_meanwhile_is_decoded_again(shards, half_packed, tmp_path):
    shutil.copytree(shards, tmp_path / "set")
    shard = shards_of(tmp_path / "set")[1]
    rewrite(tmp_path / "set", shard, images=np.zeros((5, 32, 32, 3), np.uint8))
    names = [shard.name for shard in pack(tmp_path / "set", half_packed)]
    assert names == ["train-00001", "test-00000"]
    assert not open_store(half_packed).train.gather(np.arange(5, 10)).any()


def test_a_kill_before_the_manifest_costs_no_decoding(shards, expected, half_packed, monkeypatch):
    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(packing, "write_labels", killed)
        with pytest.raises(Killed):
            pack(shards, half_packed)
    assert (half_packed / "images.npy").exists()
    assert pack(shards, half_packed) == []
    assert contents(half_packed) == expected


def flip(path, position=3000) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def index_gap(folder) -> None:
    """Side file and record agree, and skip an index."""
    shard = shards_of(folder)[1]
    record = load_record(folder, shard)
    arrays = dict(np.load(folder / shard.arrays))
    arrays["index"] += 1
    np.savez(folder / shard.arrays, **arrays)
    changed = replace(record, arrays_sha256=SideArrays(**arrays).sha256)
    write_json(folder / shard.record, changed)


def swap_shards(folder) -> None:
    first, second = (folder / shard.tar for shard in shards_of(folder)[:2])
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def other_size(folder) -> None:
    rewrite(folder, shards_of(folder)[1], images=np.zeros((5, 16, 16, 3), np.uint8))


DAMAGE = {
    "flipped bit": (lambda f: flip(f / shards_of(f)[1].tar), "train-00001-of-00003.tar: sha256"),
    "cut tar": (lambda f: os.truncate(f / shards_of(f)[1].tar, 9000), "cut short or damaged"),
    "swapped": (swap_shards, "train-00000-of-00003.tar: sha256"),
    "side file": (
        lambda f: flip(f / shards_of(f)[1].arrays, 200),
        "train-00001.npz is corrupt, or not an .npz of arrays",
    ),
    "missing": (lambda f: (f / shards_of(f)[1].record).unlink(), "1 of the 3 shards of train"),
    "index gap": (index_gap, "train-00001.npz: index must run from 5 to 9"),
    "size": (other_size, "000000005.png is (16, 16, 3), expected (32, 32, 3)"),
    "no set": (lambda f: (f / "plan.json").unlink(), "it holds no plan.json"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_one_line_that_names_the_shard_and_makes_no_pack(case, shards, tmp_path, capsys):
    damage, message = DAMAGE[case]
    shutil.copytree(shards, tmp_path / "set")
    damage(tmp_path / "set")
    assert run(tmp_path / "set", tmp_path / "pack") == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "pack" / "images.npy").exists()
    assert not (tmp_path / "pack" / "pack.json").exists()


def test_a_pack_is_refused_where_something_else_lies(shards, tmp_path, capsys):
    assert run(shards, shards) == 2
    assert "is a folder of shards" in capsys.readouterr().err
    write_pack([open_store(shards).test], tmp_path / "pack")
    assert run(shards, tmp_path / "pack") == 2
    assert "holds another pack" in capsys.readouterr().err


def test_a_disk_that_is_too_small_is_told_before_the_pack_is_begun(
    shards, tmp_path, capsys, monkeypatch
):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(runtime_files.shutil, "disk_usage", lambda _: usage(50_000))
    assert run(shards, tmp_path / "pack") == 2
    assert "more bytes and its disk has 50,000 free" in capsys.readouterr().err
    assert not (tmp_path / "pack" / PART).exists()


def test_a_pack_goes_back_to_the_shards_it_came_from(shards, tmp_path):
    assert run(shards, tmp_path / "pack") == 0
    assert run(tmp_path / "pack", tmp_path / "back", "--to-shards", "--shard-size", "5") == 0
    before, after = (
        [load_record(folder, shard).sha256 for shard in shards_of(shards)]
        for folder in (shards, tmp_path / "back")
    )
    assert before == after
    plan = load_plan(tmp_path / "back", ImportedPlan)
    assert (plan.source.form, plan.probabilities) == ("pack", "given")
    assert importing.reopen(plan).form == "pack"
    assert run(tmp_path / "back", tmp_path / "again") == 0
    for name in ("images.npy", "labels.npy", "probabilities.npy"):
        again = (tmp_path / "again" / name).read_bytes()
        assert again == (tmp_path / "pack" / name).read_bytes()
    assert verify([str(tmp_path / "back"), "--workers", "1"]) == 0


def test_a_damaged_pack_gives_no_shards(shards, tmp_path, capsys):
    assert run(shards, tmp_path / "pack") == 0
    flip(tmp_path / "pack" / "images.npy")
    assert run(tmp_path / "pack", tmp_path / "back", "--to-shards") == 2
    assert "does not match the sha256 of its manifest" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("command", ["verify", "preview", "pack"])
def test_a_pack_in_place_of_shards_is_called_a_pack(command, shards, tmp_path, capsys):
    assert run(shards, tmp_path / "pack") == 0
    main_of = importlib.import_module(f"cifar5m.commands.{command}").main
    assert main_of([str(tmp_path / "pack")]) == 2
    line = capsys.readouterr().err
    assert f"{tmp_path / 'pack'} is a pack: give the directory of shards" in line
    assert line.count("\n") == 1
