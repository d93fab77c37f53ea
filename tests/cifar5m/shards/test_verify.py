"""Every planted damage is found by name, and nothing else is."""

import json
import re
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest

from cifar5m.commands.generate import main as generate
from cifar5m.commands.verify import main
from cifar5m.shards.verify import verify
from tests.cifar5m.small_set import images_of, labels_of, make_set, rewrite, shards_of
from worlds.formats.layout import PLAN
from worlds.formats.plan import load_plan
from worlds.formats.shards import tar_members

TAR_0, TAR_1 = "data/train-00000-of-00003.tar", "data/train-00001-of-00003.tar"


@pytest.fixture
def folder(tmp_path):
    return make_set(tmp_path / "set")


def flip(path, offset, bit=1):
    data = bytearray(path.read_bytes())
    data[offset] ^= bit
    path.write_bytes(bytes(data))


def offset_of(path, name):
    return next(offset for found, offset, _ in tar_members(path) if found == name)


def test_a_whole_set_has_no_problem_and_is_counted(folder):
    report = verify(folder, workers=1)
    assert report.problems == ()
    assert report.ok
    assert (report.shards, report.shards_planned, report.images) == (4, 4, 19)
    assert report.classes == (2, 2, 2, 2, 2, 2, 2, 2, 2, 1)
    assert report.duplicates == 0
    assert report.bytes == sum(path.stat().st_size for path in (folder / "data").iterdir())


def flip_a_pixel(folder):
    flip(folder / TAR_1, offset_of(folder / TAR_1, "000000006.png") + 1000)


def flip_a_header(folder):
    flip(folder / TAR_1, offset_of(folder / TAR_1, "000000007.png") - 512)


def flip_the_padding(folder):
    flip(folder / TAR_1, -1)


def cut_the_tar(folder):
    path = folder / TAR_1
    path.write_bytes(path.read_bytes()[:9000])


def swap_two_shards(folder):
    first, second = (folder / TAR_0).read_bytes(), (folder / TAR_1).read_bytes()
    (folder / TAR_0).write_bytes(second)
    (folder / TAR_1).write_bytes(first)


def copy_a_shard_over_another(folder):
    (folder / TAR_1).write_bytes((folder / TAR_0).read_bytes())


def copy_a_shard_and_its_record_over_another(folder):
    copy_a_shard_over_another(folder)
    text = (folder / "meta/train-00000.json").read_text()
    (folder / "meta/train-00001.json").write_text(text)


def remove_a_shard(folder):
    for path in (TAR_1, "meta/train-00001.npz", "meta/train-00001.json"):
        (folder / path).unlink()


def change_a_label_in_the_tar(folder):
    flip(folder / TAR_1, offset_of(folder / TAR_1, "000000006.cls"))  # 6 becomes 7


def write_a_label_that_is_no_number(folder):
    flip(folder / TAR_1, offset_of(folder / TAR_1, "000000006.cls"), 0x40)  # 6 becomes v


def label_against_the_probabilities(folder):
    shard = shards_of(folder)[1]
    probabilities = 0.02 + 0.8 * np.eye(10)[labels_of(shard)]
    rewrite(folder, shard, labels=[5, 6, 0, 8, 9], probabilities=probabilities)


def write_probabilities(change):
    def damage(folder):
        shard = shards_of(folder)[1]
        probabilities = 0.02 + 0.8 * np.eye(10)[labels_of(shard)]
        probabilities[2] = change(probabilities[2])
        rewrite(folder, shard, probabilities=probabilities)

    return damage


def change_the_side_file(folder):
    shard = shards_of(folder)[1]
    label = labels_of(shard)
    probabilities = (0.02 + 0.8 * np.eye(10)[label]).astype(np.float16)
    probabilities[0, :2] += np.float16([0.001, -0.001])
    index = np.arange(shard.start, shard.stop)
    np.savez(folder / shard.arrays, index=index, label=label, probabilities=probabilities)


def write_a_side_file_of(**changes):
    def damage(folder):
        shard = shards_of(folder)[1]
        label = labels_of(shard)
        probabilities = (0.02 + 0.8 * np.eye(10)[label]).astype(np.float16)
        arrays = {"index": np.arange(shard.start, shard.stop), "label": label}
        arrays |= {"probabilities": probabilities} | changes
        np.savez(folder / shard.arrays, **arrays)

    return damage


def duplicate_an_image(folder):
    first, second = shards_of(folder)[:2]
    images = images_of(second)
    images[3] = images_of(first)[1]
    rewrite(folder, second, images=images)


def duplicate_in_a_shard(folder):
    shard = shards_of(folder)[1]
    images = images_of(shard)
    images[4] = images[2]
    rewrite(folder, shard, images=images)


def write_larger_images(folder):
    shard = shards_of(folder)[1]
    images = images_of(shard).repeat(2, axis=1)
    rewrite(folder, shard, images=images)


def record_of_another_plan(folder):
    path = folder / "meta/train-00001.json"
    fingerprint = load_plan(folder).fingerprint
    path.write_text(path.read_text().replace(fingerprint, "e" * 64))


def record_of_other_counts(folder):
    path = folder / "meta/train-00001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": [5] + [0] * 9}))


def edit_the_plan(folder):
    path = folder / PLAN
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 5}))


def touch(name):
    def damage(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")

    return damage


SIDE = "meta/train-00001.npz"
RECORD = "meta/train-00001.json"
LEFT = "data/.train-00001-of-00003.tar.node-7.4321.0a1b2c3d.tmp"


# damage -> the problems it must cause, each as (kind, path, part of the message), and no others
@pytest.mark.parametrize(
    "damage, expected",
    [
        (
            flip_a_pixel,
            [("tar", TAR_1, "sha256 .*, the record says"), ("image", TAR_1, "image 6 cannot")],
        ),
        (
            flip_a_header,
            [
                ("tar", TAR_1, "sha256 .*, the record says"),
                ("record", RECORD, r"classes is \(.*\), expected \("),
                ("member", TAR_1, "member 4 should be 000000007.png, found 100000007.png"),
            ],
        ),
        (flip_the_padding, [("tar", TAR_1, "sha256 .*, the record says")]),
        (
            cut_the_tar,
            [
                ("tar", TAR_1, r"9000 bytes, the record says \d{5}"),
                ("record", RECORD, "classes is"),
                ("tar", TAR_1, "cut short at 9000 bytes, after 3 of 10 members"),
            ],
        ),
        (
            swap_two_shards,
            [
                ("swapped", TAR_0, "the bytes of train-00001-of-00003.tar, .* train-00000"),
                ("swapped", TAR_1, "the bytes of train-00000-of-00003.tar, .* train-00001"),
            ],
        ),
        (copy_a_shard_over_another, [("swapped", TAR_1, "the bytes of train-00000-of")]),
        (
            copy_a_shard_and_its_record_over_another,
            [
                ("record", RECORD, "tar is train-00000-of-00003.tar, expected train-00001-of"),
                ("record", RECORD, "classes is"),
                ("side file", SIDE, "sha256"),
                ("member", TAR_1, "member 0 should be 000000005.png, found 000000000.png"),
            ],
        ),
        (remove_a_shard, [("missing", TAR_1, "the shard is not there")]),
        (lambda folder: (folder / TAR_1).unlink(), [("missing", TAR_1, "the tar is missing")]),
        (lambda folder: (folder / SIDE).unlink(), [("missing", SIDE, "side file is missing")]),
        (
            lambda folder: (folder / RECORD).unlink(),
            [("missing", RECORD, "is missing: shard train-00001 is not finished")],
        ),
        (
            lambda folder: (folder / RECORD).write_text("{"),
            [("missing", RECORD, "is not valid JSON")],
        ),
        (
            change_a_label_in_the_tar,
            [
                ("tar", TAR_1, "sha256"),
                ("record", RECORD, "classes is"),
                ("label", TAR_1, "000000006.cls holds 7, meta/train-00001.npz 6"),
            ],
        ),
        (
            write_a_label_that_is_no_number,
            [
                ("tar", TAR_1, "sha256"),
                ("record", RECORD, "classes is"),
                ("label", TAR_1, "000000006.cls holds b'v', expected 0 to 9"),
            ],
        ),
        (
            label_against_the_probabilities,
            [("side file", SIDE, "label is not the most probable class: 1 rows, .* row 2")],
        ),
        (
            write_probabilities(lambda row: row * np.nan),
            [("side file", SIDE, "probabilities are not finite: 1 rows, the first is row 2")],
        ),
        (
            write_probabilities(lambda row: row * 0.99),
            [("side file", SIDE, "probabilities do not add up to 1: 1 rows")],
        ),
        (change_the_side_file, [("side file", SIDE, "sha256 .*, the record says")]),
        (
            write_a_side_file_of(index=np.arange(5)),
            [
                ("side file", SIDE, "index does not run from 5 to 9: 5 rows"),
                ("side file", SIDE, "sha256"),
            ],
        ),
        (
            write_a_side_file_of(label=np.arange(4)),
            [("side file", SIDE, r"arrays int64\[5\], int64\[4\], .*, expected int64\[5\]")],
        ),
        (
            lambda folder: (folder / SIDE).write_bytes(b"PK\x03\x04 and nothing more"),
            [("side file", SIDE, "cannot be read")],
        ),
        (duplicate_an_image, [("duplicate", TAR_1, "image 8 has the same pixels as image 1")]),
        (duplicate_in_a_shard, [("duplicate", TAR_1, "image 9 has the same pixels as image 7")]),
        (
            write_larger_images,
            [
                *[
                    ("image", TAR_1, rf"image {index} is \(64, 32, 3\), expected \(32, 32, 3\)")
                    for index in range(5, 10)
                ]
            ],
        ),
        (
            record_of_another_plan,
            [("record", RECORD, f"fingerprint is {'e' * 64}, expected [0-9a-f]+")],
        ),
        (record_of_other_counts, [("record", RECORD, r"classes is \(5, 0.*expected \(0, 0")]),
        (
            edit_the_plan,
            [("plan", PLAN, "was edited: its content has the fingerprint .*, it says")],
        ),
        (touch("data/extra.tar"), [("foreign", "data/extra.tar", "a file that the plan does not")]),
        (touch("notes/a.txt"), [("foreign", "notes", "a folder that the plan does not")]),
        (
            touch("data/train-00003-of-00003.tar"),
            [("foreign", "data/train-00003-of-00003.tar", "does not name")],
        ),
        (
            touch(LEFT),
            [("temporary", LEFT, "half-written train-00001-of-00003.tar, by process 4321 on .*-7")],
        ),
        (touch("preview/contact-sheet.png"), []),
    ],
)
def test_planted_damage_is_found_by_name(folder, damage, expected):
    damage(folder)
    report = verify(folder, workers=1)
    assert [(problem.kind, problem.path) for problem in report.problems] == [
        (kind, path) for kind, path, _ in expected
    ]
    for problem, (_, _, message) in zip(report.problems, expected, strict=True):
        assert re.search(message, problem.message), problem
    assert report.ok == (not expected)


def test_a_flipped_bit_anywhere_in_a_tar_or_record_is_found(folder):
    rng = np.random.default_rng(1)
    for name in (TAR_1, RECORD):
        path = folder / name
        data = path.read_bytes()
        # Seconds and device are facts about the run, which nothing else repeats.
        end = len(data) if name == TAR_1 else data.index(b'"seconds"')
        for offset in rng.choice(end, 12, replace=False):
            flip(path, offset, 1 << rng.integers(7))
            assert not verify(folder, workers=1).ok, (name, offset)
            path.write_bytes(data)


def test_many_problems_of_a_shard_are_counted_not_listed(tmp_path):
    folder = make_set(tmp_path / "set", shard_size=14)
    shard = shards_of(folder)[0]
    rewrite(folder, shard, images=images_of(shard)[:1].repeat(14, axis=0))
    report = verify(folder, workers=1)
    assert report.duplicates == 13
    assert [problem.message for problem in report.problems[-2:]] == [
        "image 5 has the same pixels as image 4",
        "and 8 more of this kind in this shard",
    ]


def test_labels_need_not_be_the_argmax_where_the_plan_does_not_say_so(tmp_path):
    folder = make_set(tmp_path / "set", labels="given")
    label_against_the_probabilities(folder)
    assert verify(folder, workers=1).ok


def test_other_extensions_and_shapes_follow_the_plan(tmp_path):
    folder = make_set(tmp_path / "set", image_shape=[64, 32, 3])
    for shard in shards_of(folder):
        rewrite(folder, shard, images=images_of(shard).repeat(2, axis=1))
    assert verify(folder, workers=1).ok
    plan = folder / PLAN
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"extension": "jpg"}))
    kinds = {problem.kind for problem in verify(folder, workers=1).problems}
    assert "member" in kinds


def test_two_processes_find_what_one_finds(folder):
    swap_two_shards(folder)
    duplicated = shards_of(folder)[3]
    images = images_of(duplicated)
    images[0] = images[1]
    rewrite(folder, duplicated, images=images)
    seen = []
    two = verify(folder, workers=2, on_progress=lambda progress: seen.append(progress.done))
    assert two == verify(folder, workers=1)
    assert len(two.problems) == 3
    done = [after - before for before, after in pairwise(seen)]  # in the order in which they end
    assert seen[0] == 0
    assert sorted(done) == sorted(map(len, shards_of(folder)))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda plan: plan.pop("fingerprint"), "object missing required field `fingerprint`"),
        (lambda plan: plan.update(splits=5), "splits: expected `object`, got `int`"),
        (lambda plan: plan.update(shard_size=0), "shard_size: expected `int` >= 1"),
        (lambda plan: plan.update(format=2), "format: invalid enum value 2"),
    ],
)
def test_a_damaged_plan_is_one_clear_error(folder, change, message):
    plan = json.loads((folder / PLAN).read_text())
    change(plan)
    (folder / PLAN).write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=message):
        verify(folder, workers=1)


def test_the_command_ends_with_ok_and_zero(folder, capsys):
    assert main([str(folder), "--workers", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "OK"
    assert "images       19 of 19" in out
    assert "airplane                2   10.53" in out


def test_the_command_lists_the_problems_and_ends_with_one(folder, capsys):
    remove_a_shard(folder)
    touch("stray")(folder)
    assert main([str(folder), "--workers", "1", "--json"]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "2 problems",
        "  missing: data/train-00001-of-00003.tar: the shard is not there: not generated yet?",
        "  foreign: stray: a file that the plan does not name",
    ]
    expected = asdict(verify(folder, workers=1)) | {"ok": False}
    assert json.loads(last) == json.loads(json.dumps(expected))


def test_the_shards_of_an_unfinished_set_are_counted(tmp_path, small_run, capsys):
    folder = tmp_path / "set"
    options = ["--n", "10", "--split", "train=10", "--shard-size", "2"]
    assert generate([*small_run, *options, "--out", str(folder)]) == 0
    for shard in shards_of(folder)[1:]:
        for file in (shard.tar, shard.arrays, shard.record):
            (folder / file).unlink()
    assert main([str(folder), "--workers", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        "4 of 5 shards are not there yet",
        "  the command that made the set goes on with them when it is run again",
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere"], "nowhere is not a dataset directory: it holds no plan.json"),
        (["set", "--workers", "0"], "workers must be at least 1, got 0"),
    ],
)
def test_the_command_ends_with_two_on_bad_usage(folder, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(folder.parent)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].endswith(message)
    assert captured.out == ""
