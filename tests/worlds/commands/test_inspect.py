import json

import numpy as np
import pytest
from PIL import Image

from tests.worlds.small_stores import write_shards
from worlds import IdealLoader, RealLoader, open_store
from worlds.bench.inspection import contact_sheet, reuse_histogram, use_counts
from worlds.commands import inspect

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 10, 100)


@pytest.fixture
def folder(tmp_path):
    write_shards(tmp_path / "shards", IMAGES, LABELS, test=20)
    return tmp_path / "shards"


def test_uses_are_counted_over_the_whole_run(folder):
    pool = open_store(folder).train
    real, ideal = RealLoader(pool, 10, 8, 15), IdealLoader(pool, 8)
    assert reuse_histogram(use_counts(real.sampler, 15)) == {0: 70, 12: 10}
    assert reuse_histogram(use_counts(ideal.sampler, 10)) == {1: 80}


def test_the_sheet_shows_what_the_loader_yields(folder):
    pool = open_store(folder).train
    sheet = contact_sheet(RealLoader(pool, 10, 8, 3), rows=2, columns=8)
    assert sheet.size == (24 + 8 * 102 - 6 + 24, 24 + 2 * 124 + 12)
    first, second = RealLoader(pool, 10, 8, 3).indices(0)[:2]
    assert sheet.getpixel((24, 24)) == tuple(IMAGES[first][0, 0])
    assert sheet.getpixel((24 + 102, 24)) == tuple(IMAGES[second][0, 0])


WORLDS = [
    (["--world", "real", "--n", "20", "--steps", "10"], {"samples": 160, "distinct": 20}),
    (["--world", "ideal"], {"samples": 80, "distinct": 80, "most_uses": 1}),
    (["--world", "reuse", "--n", "20", "--reuse", "4"], {"samples": 80, "most_uses": 4}),
    (["--world", "bootstrap", "--n", "20", "--augment", "none"], {"samples": 16}),
]


@pytest.mark.parametrize("options, expected", WORLDS, ids=[row[0][1] for row in WORLDS])
def test_inspect_says_what_a_world_would_yield(folder, tmp_path, capsys, options, expected):
    out = tmp_path / "made" / "sheet.png"
    command = [str(folder), "--batch-size", "16", "--out", str(out), *options]
    assert inspect.main(command) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert expected.items() <= found.items()
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"


@pytest.mark.parametrize(
    "options, says",
    [
        (["--n", "90"], "the 80 samples at hand, got 90"),
        (["--batch-size", "0"], "--batch-size must be 1 or more"),
        (["--split", "validation"], "has no validation split; it has train, test"),
        (["--world", "ideal", "--n", "5"], "leave --n out"),
    ],
)
def test_inspect_refuses_bad_input_in_one_line(folder, capsys, options, says):
    assert inspect.main([str(folder), *options]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_many_uses_are_shown_as_ranges():
    shown = inspect._shortened(dict.fromkeys(range(100), 1))
    assert len(shown) <= 12
    assert sum(shown.values()) == 100


def test_an_unknown_augmentation_is_refused_with_those_that_there_are(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        inspect.main([str(folder), "--augment", "mixup"])
    assert stop.value.code == 2
    assert "'mixup' (choose from 'none', 'flip', 'crop+flip'" in capsys.readouterr().err
