"""Each example is run, in small, as a user would run it."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

from worlds import open_store

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SMALL = {
    "own_model": ["--n", "40", "--steps", "12"],
    "own_loop": ["--n", "40", "--steps", "40"],
    "any_dataset": ["--n", "40", "--steps", "41"],
    "tokens": ["--n", "40", "--steps", "6"],
}


@pytest.mark.parametrize("name", SMALL)
def test_an_example_compares_the_worlds_and_draws_them(name, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    comparison = import_module(name).main([*SMALL[name], "--out", str(tmp_path)])
    assert {"real", "ideal"} <= set(comparison.worlds)
    assert comparison.bootstrap_error.values
    assert str(comparison) in capsys.readouterr().out
    assert (tmp_path / "worlds.png").stat().st_size > 10_000


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert len(cells) >= 4
    main = type(sys)("__main__")
    for cell in cells:
        small = (
            cell.replace("steps=250", "steps=10").replace("8_000", "400").replace("n=300", "n=40")
        )
        exec(compile(small, "quickstart.ipynb", "exec"), main.__dict__)
    assert main.comparison.worlds == ("real", "ideal")
    assert "<table>" in main.comparison._repr_html_()
    assert all(not c.get("outputs") for c in notebook["cells"])  # results go with the reader's data


def test_make_generates_curve_draws_any_dataset_with_a_test_split(tmp_path, monkeypatch, capsys):
    from tests.cifar5m.small_set import make_set

    monkeypatch.syspath_prepend(EXAMPLES)
    main = import_module("two_worlds").main
    data, picture = str(make_set(tmp_path / "set")), tmp_path / "two.png"
    few = ["--n", "4", "--batch-size", "2", "--out", str(tmp_path / "runs")]
    assert main([data, *few, "--steps", "3", "--picture", str(picture)]) == 0
    assert picture.stat().st_size > 10_000
    # More than the images allow is lowered, with a line that says so.
    few[few.index("--n") + 1], few[-1] = "900", str(tmp_path / "more")
    capsys.readouterr()
    assert main([data, *few, "--steps", "300", "--picture", str(picture)]) == 0
    pool = len(open_store(data).train)
    told, *_ = capsys.readouterr().out.splitlines()
    assert told == f"{pool} train images: n = {pool} and {pool // 2} steps in place of 900 and 300"
    # Too few for one step is an error in one line.
    assert main([data, "--n", "4", "--batch-size", "512", "--out", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_equal_confidence_turns_the_sign_of_the_soft_errors_gap(monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    small = ["--n", "400", "--steps", "300"]
    assert import_module("soft_error_sign").main(["teacher:0", *small]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    real, ideal, as_confident = found["real"], found["ideal"], found["ideal, as confident"]
    # At T0 the Real World errs more often and is more confident, so its soft-error is no higher.
    assert real["error"] > ideal["error"] + 0.02
    assert real["confidence"] > ideal["confidence"] + 0.1
    assert real["soft_error"] < ideal["soft_error"]
    # As confident as that, the Ideal World has the lower soft-error, by about the gap in error.
    assert as_confident["confidence"] == pytest.approx(real["confidence"], abs=1e-4)
    assert as_confident["error"] == ideal["error"]
    gap = real["soft_error"] - as_confident["soft_error"]
    assert gap == pytest.approx(real["error"] - ideal["error"], abs=0.03)
