"""Planted damage of every kind is found, repaired by name, and gone: the bytes are the old ones."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from msgspec.structs import replace

import cifar5m.shards.repair
from cifar5m.commands.generate import main as generate
from cifar5m.commands.label import main as label
from cifar5m.commands.verify import main
from cifar5m.sampling import job as prepare
from cifar5m.sampling.job import GeneratedPlan, Options, options_of, plan_of
from cifar5m.shards.verify import verify
from tests.cifar5m.small_set import make_set
from tests.cifar5m.tiny_networks import LABELER_CONFIG, save_labeler, save_unet
from worlds.formats.layout import PLAN
from worlds.formats.plan import fingerprint_of, load_plan
from worlds.formats.shards import load_record, read_arrays, write_shard
from worlds.runtime.files import _host
from worlds.runtime.json_files import load_json

TARS = [f"data/train-0000{k}-of-00003.tar" for k in range(3)]
SIDE, RECORD = "meta/train-00001.npz", "meta/train-00001.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory, small_run):
    """20 images: train in shards of 6, 6, 5 and test in one of 3."""
    folder = tmp_path_factory.mktemp("made") / "set"
    assert generate(["--n", "20", "--out", str(folder), *small_run]) == 0
    return folder


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path / "set")
    return tmp_path / "set"


def shards_of(folder):
    return load_plan(folder).shards


def bytes_of(folder) -> dict[str, object]:
    """Each tar's bytes, each side file's arrays, and each record but for the seconds."""
    found: dict[str, object] = {}
    for shard in shards_of(folder):
        arrays, record = read_arrays(folder, shard), load_record(folder, shard)
        found[str(shard.tar)] = (folder / shard.tar).read_bytes()
        found[str(shard.arrays)] = [
            array.tobytes() for array in (arrays.index, arrays.label, arrays.probabilities)
        ]
        found[str(shard.record)] = replace(record, seconds=None)
    return found


def repair(folder, *options) -> int:
    return main([str(folder), "--workers", "1", "--repair", "--device", "cpu", *options])


def flip(name, offset):
    def damage(folder):
        data = bytearray((folder / name).read_bytes())
        data[offset] ^= 4
        (folder / name).write_bytes(data)

    return damage


def cut(name):
    def damage(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:700])

    return damage


def remove(*names):
    def damage(folder):
        for name in names:
            (folder / name).unlink()

    return damage


def swap(*pairs):
    def damage(folder):
        for first, second in pairs:
            os.rename(folder / first, folder / "between")
            os.rename(folder / second, folder / first)
            os.rename(folder / "between", folder / second)

    return damage


def change_record(**fields):
    def damage(folder):
        record = json.loads((folder / RECORD).read_text())
        (folder / RECORD).write_text(json.dumps(record | fields))

    return damage


def write_other_probabilities(folder):
    arrays = dict(np.load(folder / SIDE))
    arrays["probabilities"] = arrays["probabilities"][::-1]
    np.savez(folder / SIDE, **arrays)


WHOLE = "the tar was whole, its sha256 came out again"
AS_RECORDED = "made again, sha256 as recorded"
UNKNOWN = "made again, with no record left to compare with"

# damage -> what the repair says of each broken shard
DAMAGE = {
    "flipped bit in an image": (flip(TARS[1], 3000), {"train-00001": AS_RECORDED}),
    "flipped bit in the padding": (flip(TARS[1], -1), {"train-00001": AS_RECORDED}),
    "cut tar": (cut(TARS[1]), {"train-00001": AS_RECORDED}),
    "missing tar": (remove(TARS[1]), {"train-00001": AS_RECORDED}),
    "missing side file": (remove(SIDE), {"train-00001": WHOLE}),
    "cut side file": (cut(SIDE), {"train-00001": WHOLE}),
    "other probabilities": (write_other_probabilities, {"train-00001": WHOLE}),
    "missing record": (remove(RECORD), {"train-00001": WHOLE}),
    "cut record": (lambda f: (f / RECORD).write_text("{"), {"train-00001": WHOLE}),
    "wrong hash in the record": (change_record(sha256="0" * 64), {"train-00001": WHOLE}),
    "record of another plan": (change_record(fingerprint="0" * 64), {"train-00001": WHOLE}),
    "missing shard": (remove(TARS[1], SIDE, RECORD), {"train-00001": UNKNOWN}),
    "missing record of a cut tar": (
        lambda f: (cut(TARS[1])(f), remove(RECORD)(f)),
        {"train-00001": UNKNOWN},
    ),
    "swapped tars": (
        swap((TARS[0], TARS[1])),
        {"train-00000": AS_RECORDED, "train-00001": AS_RECORDED},
    ),
    "swapped tars and records": (
        swap((TARS[0], TARS[1]), ("meta/train-00000.json", RECORD)),
        {"train-00000": UNKNOWN, "train-00001": UNKNOWN},
    ),
    "several at once": (
        lambda f: (cut(TARS[0])(f), remove(SIDE)(f), flip(TARS[2], 3000)(f)),
        {"train-00000": AS_RECORDED, "train-00001": WHOLE, "train-00002": AS_RECORDED},
    ),
}


@pytest.mark.parametrize("damage, expected", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_repaired_by_name_to_the_undamaged_bytes(damage, expected, made, folder, capsys):
    damage(folder)
    others = {p: p.stat().st_mtime_ns for p in folder.rglob("test-*")}
    assert repair(folder) == 0
    lines = capsys.readouterr().out.splitlines()
    said = [line.removeprefix("repaired: ") for line in lines if line.startswith("repaired: ")]
    assert said == [f"{name}: {message}" for name, message in expected.items()]
    assert lines[-1] == "OK"
    assert bytes_of(folder) == bytes_of(made)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("test-*")} == others


def test_without_the_option_nothing_is_touched(folder):
    cut(TARS[1])(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main([str(folder), "--workers", "1"]) == 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_whole_set_is_left_alone(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert repair(folder) == 0
    assert "after the repair" not in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_foreign_files_are_listed_and_kept_and_only_stale_ones_cleared(folder, capsys):
    host = _host()
    stale = folder / "data" / f".train-00000-of-00003.tar.{host}.999999999.0a1b.tmp"
    alive = folder / "data" / f".train-00000-of-00003.tar.{host}.{os.getpid()}.0a1b.tmp"
    elsewhere = folder / "data" / ".train-00000-of-00003.tar.node-7.4321.0a1b.tmp"
    for path in (stale, alive, elsewhere, folder / "data" / "thesis.tex", folder / "notes"):
        path.write_text("mine")
    assert repair(folder) == 1
    out = capsys.readouterr().out.partition("after the repair")[2]
    assert "foreign: data/thesis.tex" in out
    assert "foreign: notes" in out
    assert [path.exists() for path in (stale, alive, elsewhere)] == [False, True, True]
    assert (folder / "data" / "thesis.tex").read_text() == "mine"


def test_a_record_that_speaks_against_the_new_bytes_wins(folder, capsys):
    cut(TARS[1])(folder)
    change_record(sha256="0" * 64)(folder)
    before = (folder / TARS[1]).read_bytes()
    assert repair(folder) == 1
    out = capsys.readouterr().out
    assert f"not repaired: train-00001: came out with sha256 {'':0}" in out
    assert f"the record says {'0' * 64} (made on cpu, now on cpu); nothing was replaced" in out
    assert (folder / TARS[1]).read_bytes() == before


@pytest.mark.parametrize("kind", ["generator", "labeler"])
def test_another_network_is_refused_and_both_hashes_are_said(kind, folder, tmp_path, capsys):
    arguments = LABELER_CONFIG["model_args"] | {"channels": [8, 8, 16, 32]}
    other = {
        "generator": lambda: save_unet(tmp_path / "other", block_out_channels=(8, 24)),
        "labeler": lambda: save_labeler(tmp_path / "other", model_args=arguments),
    }[kind]()
    cut(TARS[1])(folder)
    before = (folder / TARS[1]).read_bytes()
    assert repair(folder, f"--{kind}", str(other)) == 1
    error = capsys.readouterr().err
    assert f"--{kind}: {other} has sha256 " in error
    assert (
        f"the set was made with {getattr(load_plan(folder, GeneratedPlan), f'{kind}_sha256')}"
        in error
    )
    assert (folder / TARS[1]).read_bytes() == before


def test_networks_that_moved_are_given_by_option(made, folder, small_run, tmp_path, capsys):
    cut(TARS[1])(folder)
    plan = load_json(folder / PLAN, dict)
    plan["about"]["generator"] = "/gone/unet"
    (folder / PLAN).write_text(json.dumps(plan))
    assert repair(folder) == 1
    assert "--generator: '/gone/unet' is not a directory" in capsys.readouterr().err
    shutil.copytree(small_run[3], tmp_path / "moved")
    assert repair(folder, "--generator", str(tmp_path / "moved")) == 0
    assert bytes_of(folder) == bytes_of(made)


def test_an_edited_plan_repairs_nothing(folder, capsys):
    plan = load_json(folder / PLAN, dict)
    (folder / PLAN).write_text(json.dumps(plan | {"seed": 7}))
    cut(TARS[1])(folder)
    before = (folder / TARS[1]).read_bytes()
    assert repair(folder) == 1
    captured = capsys.readouterr()
    assert "plan: plan.json: was edited" in captured.out
    assert "put the original back first" in captured.err
    assert (folder / TARS[1]).read_bytes() == before


def test_other_package_versions_are_refused_with_the_difference(folder, capsys):
    plan = load_json(folder / PLAN, dict)
    plan["versions"]["torch"] = "0.4.1"
    plan["fingerprint"] = fingerprint_of(plan)
    (folder / PLAN).write_text(json.dumps(plan))
    assert repair(folder) == 1
    error = capsys.readouterr().err
    assert 'differing: versions.torch is "0.4.1" there' in error
    assert "Install the versions" in error


def test_a_set_of_an_unknown_kind_says_what_to_do(tmp_path, capsys):
    folder = make_set(tmp_path / "set", dataset="photographs")
    remove(SIDE)(folder)
    assert repair(folder) == 1
    error = capsys.readouterr().err
    assert "1 shards of a set of the kind 'photographs' cannot be made again here" in error
    assert "run the command that made the set once more" in error


def test_a_damaged_second_labeling_is_labeled_again(folder, labeler_folder, capsys):
    assert label([str(folder), "--labeler", str(labeler_folder), "--device", "cpu"]) == 0
    place = folder / "labels" / "labeler"
    before = {s.name: load_record(place, s).arrays_sha256 for s in shards_of(folder)}
    cut("labels/labeler/" + SIDE)(folder)
    cut(TARS[2])(folder)
    (place / "summary.json").unlink()
    assert repair(folder) == 0
    out = capsys.readouterr().out
    assert f"repaired: train-00002: {AS_RECORDED}" in out
    assert "labels/labeler: train-00001: labeled again" in out
    assert {s.name: load_record(place, s).arrays_sha256 for s in shards_of(folder)} == before
    assert verify(folder, workers=1).ok


def test_a_disk_that_fills_keeps_what_was_repaired_and_the_next_run_ends_it(
    made, folder, monkeypatch, capsys
):
    for name in TARS:
        cut(name)(folder)
    written = []

    def until_full(place, shard, *content):
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(shard.name)
        write_shard(place, shard, *content)

    with monkeypatch.context() as patched:
        patched.setattr(cifar5m.shards.repair, "write_shard", until_full)
        assert repair(folder) == 1
    captured = capsys.readouterr()
    assert "cannot repair: [Errno 28] No space left on device" in captured.err
    assert "tar: data/train-00001" in captured.out.partition("after the repair")[2]
    assert "tar: data/train-00000" not in captured.out.partition("after the repair")[2]
    assert repair(folder) == 0
    assert bytes_of(folder) == bytes_of(made)


def test_the_devices_name_is_checked_first(folder, capsys):
    assert main([str(folder), "--repair", "--device", "tpu"]) == 2
    assert "got 'tpu'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "choice",
    [
        {"recipe": "tiny"},
        {"recipe": "cifar5m"},
        {"recipe": "cifar5m-ddim100", "steps": 20},
        {"recipe": "cifar5m", "steps": 50, "variance": "fixed_small", "seed": 2**63},
        {"recipe": "cifar5m", "sampler": "ddim", "steps": 10, "precision": "bf16"},
        {"recipe": "tiny", "sampler": "ancestral", "micro_batch": 3, "shard_size": 4},
        {"recipe": "tiny", "split": {"test": 5, "val": 4, "train": 11}},
    ],
)
def test_a_plans_options_amount_to_that_plan(choice, unet_folder, labeler_folder):
    networks = {"generator": str(unet_folder), "labeler": str(labeler_folder)}
    options = Options(n=20, **choice, **networks)
    plan = plan_of(options, prepare.find_sources(options))
    back = options_of(plan)
    assert plan_of(back, prepare.find_sources(back)) == plan
    assert back.resolved.sampler == plan.sampler
    assert back.layout == options.layout


@pytest.fixture
def imported(tmp_path):
    """Two parts in two folders, imported: train 12 images in shards of 5."""
    from cifar5m.commands.import_ import main as import_

    rng = np.random.default_rng(0)
    for part in range(2):
        images, labels = rng.integers(0, 256, (6, 32, 32, 3), np.uint8), rng.integers(0, 10, 6)
        np.savez(tmp_path / f"part{part}.npz", X=images, Y=labels)
    paths = [str(tmp_path / f"part{part}.npz") for part in range(2)]
    options = ["--out", str(tmp_path / "set"), "--shard-size", "5", "--workers", "1", "--quiet"]
    assert import_([*paths, *options]) == 0
    return tmp_path / "set"


@pytest.mark.parametrize(
    "damage, message",
    [(cut(TARS[1]), AS_RECORDED), (remove(SIDE), WHOLE), (remove(TARS[1], RECORD), UNKNOWN)],
)
def test_an_imported_set_is_repaired_from_its_parts(damage, message, imported, capsys):
    before = bytes_of(imported)
    damage(imported)
    assert repair(imported) == 0
    assert f"repaired: train-00001: {message}" in capsys.readouterr().out
    assert bytes_of(imported) == before


def test_parts_that_moved_are_given_by_option_and_others_refused(imported, tmp_path, capsys):
    before = bytes_of(imported)
    cut(TARS[1])(imported)
    parts = [tmp_path / f"part{part}.npz" for part in range(2)]
    (tmp_path / "moved").mkdir()
    moved = [path.rename(tmp_path / "moved" / path.name) for path in parts]
    assert repair(imported) == 1
    assert "part0.npz is not there: set --parts" in capsys.readouterr().err
    shutil.copyfile(moved[0], parts[0])
    np.savez(parts[1], X=np.zeros((6, 32, 32, 3), np.uint8), Y=np.zeros(6, int))
    assert repair(imported, "--parts", *map(str, parts)) == 1
    assert "is not what was imported; differing: source.sha256 is" in capsys.readouterr().err
    assert repair(imported, "--parts", *map(str, moved)) == 0
    assert bytes_of(imported) == before


@pytest.mark.parametrize("form", ["pack", "folder"])
def test_packs_and_folders_are_read_again_too(form, imported, tmp_path):
    from cifar5m.commands.import_ import main as import_
    from cifar5m.commands.pack import main as pack
    from worlds.formats.shards import read_samples

    if form == "pack":
        assert pack([str(imported), "--workers", "1", "--quiet"]) == 0
        source = tmp_path / "set.pack"
    else:
        source = tmp_path / "pictures"
        for shard in shards_of(imported):
            for index, data, label in read_samples(imported / shard.tar):
                (source / "train" / str(label)).mkdir(parents=True, exist_ok=True)
                (source / "train" / str(label) / f"{index}.png").write_bytes(data)
    folder = tmp_path / "again"
    options = ["--out", str(folder), "--shard-size", "5", "--workers", "1", "--quiet"]
    assert import_([str(source), *options]) == 0
    before = bytes_of(folder)
    cut(TARS[1])(folder)
    assert repair(folder) == 0
    assert bytes_of(folder) == before
