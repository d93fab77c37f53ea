"""Recorder and evaluate: a loop of one's own as a run folder like any other."""

import math

import pytest
import torch
from torch import nn

from worlds import Comparison, Recorder, evaluate, read_run
from worlds.commands.report import main as report

LOGITS, LABELS = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), torch.tensor([0, 1, 1])


def record(folder, world="real", steps=50, until=None, **options):
    """A run whose train error falls to 0 in the middle."""
    with Recorder(folder, world=world, n=20, batch_size=4, steps=steps, **options) as run:
        for step in range(steps if until is None else until):
            if run.due(step):
                soft = 1 / (step + 1) + (0.1 if world == "real" else 0.0)
                train = {"train_error": max(0.0, 0.5 - step / 40)} if world == "real" else {}
                run.log(step, test_soft_error=soft, test={"error": soft / 2}, **train)
    return run


def test_what_was_recorded_is_read_compared_drawn_and_reported(tmp_path):
    for world in ("real", "ideal"):
        record(tmp_path / world, world, optimizer="adam", learning_rate=1e-3)
    run = read_run(tmp_path / "real")
    assert run.finished
    assert (run.config.optimizer, run.config.schedule) == ("adam", "own:loop")
    assert run.rows[0] == {
        "step": 0,
        "updates": 1,
        "samples": 4,
        "seconds": run.rows[0]["seconds"],
        "test_soft_error": 1.1,
        "test_error": 0.55,
        "train_error": 0.5,
    }
    found = Comparison.of(tmp_path)
    assert found.t0 == run.stopping_step == run.summary.t0 >= 20
    assert found.bootstrap_error.median == pytest.approx(0.1)
    assert found.plot().lines
    assert report([str(tmp_path), "--out", str(tmp_path / "report")]) == 0


def test_the_last_step_is_always_due(tmp_path):
    run = Recorder(tmp_path, world="ideal", batch_size=4, steps=1000, log=300)
    assert [step for step in range(1000) if run.due(step)] == [0, 300, 600, 900, 999]


def test_logits_and_targets_are_measured(tmp_path):
    run = Recorder(tmp_path, world="ideal", batch_size=4, steps=9)
    row = run.log(3, logits=LOGITS, targets=LABELS, learning_rate=0.1)
    soft = 1 / (1 + math.exp(2))
    assert row["test_error"] == pytest.approx(1 / 3)
    assert row["test_soft_error"] == pytest.approx((2 * soft + 1 - soft) / 3)
    assert row["learning_rate"] == 0.1


def test_evaluate_gives_means_and_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Dropout(), nn.Identity()).train()
    batches = [(LOGITS[:2], LABELS[:2]), (LOGITS[2:], LABELS[2:])]
    values = evaluate(model, batches, metrics=[nn.functional.cross_entropy])
    assert values["error"] == pytest.approx(1 / 3)
    assert values["cross_entropy"] == pytest.approx(values["loss"])
    assert model.training


def record_badly(folder):
    with Recorder(folder, world="real", n=9, batch_size=4, steps=9) as run:
        run.log(0, test_error=0.5)
        run.log(1, test_error="low")


def test_a_run_that_broke_is_unfinished_and_is_gone_on_with(tmp_path):
    with pytest.raises(ValueError, match="must be a number"):
        record_badly(tmp_path)
    assert not read_run(tmp_path).finished
    with Recorder(tmp_path, world="real", n=9, batch_size=4, steps=9) as run:
        run.log(8, test_error=0.25)
    assert [row["test_error"] for row in read_run(tmp_path).rows] == [0.5, 0.25]
    assert read_run(tmp_path).summary.ended == "schedule"


def test_a_start_step_forgets_the_rows_from_there_on(tmp_path):
    record(tmp_path)
    kept = [row for row in read_run(tmp_path).rows if row["step"] < 10]
    record(tmp_path / "other", until=10)
    run = Recorder(tmp_path, world="real", n=20, batch_size=4, steps=50, start_step=10)
    assert run.rows == kept
    run.log(10, test_error=0.5)


def logged(folder, *steps, **values):
    run = Recorder(folder, world="real", n=9, batch_size=4, steps=9)
    for step in steps:
        run.log(step, **values)


BAD = [
    (lambda f: logged(f, 5, 3, test_error=0.1), "step 3 comes after step 5"),
    (lambda f: logged(f, 5, 5, test_error=0.1), "step 5 comes after step 5"),
    (lambda f: logged(f, 9, test_error=0.1), r"step must be in \[0, 9\), got 9"),
    (lambda f: logged(f, 0.5, test_error=0.1), "step must be an integer, got 0.5"),
    (lambda f: logged(f, 0), "nothing to log at step 0: give numbers"),
    (lambda f: logged(f, 0, test_error="low"), "test_error must be a number, got 'low'"),
    (lambda f: logged(f, 0, test={"error": None}), "test_error must be a number, got None"),
    (lambda f: logged(f, 0, test_error=LOGITS), "test_error must be a number, got tensor"),
    (lambda f: logged(f, 0, updates=3), "updates is written by the Recorder itself"),
    (lambda f: logged(f, 0, logits=LOGITS), "logits and targets go together"),
    (lambda f: logged(f, 0, logits=LOGITS, targets=LABELS + 4), r"labels must be in \[0, 2\)"),
    (lambda f: [record(f), record(f, "ideal")], "another run .*world = 'real' there, 'ideal' here"),
    (lambda f: [record(f), record(f)], "holds a finished run: choose another directory, or give"),
    (
        lambda f: Recorder(f, world="real", batch_size=4, steps=9),
        "real world has n samples: give n",
    ),
    (lambda f: Recorder(f, world="dream", n=9, batch_size=4, steps=9), "world must be one of"),
]


@pytest.mark.parametrize("use, says", BAD, ids=[says for _, says in BAD])
def test_bad_use_is_told_in_one_line(use, says, tmp_path):
    with pytest.raises(ValueError, match=says) as caught:
        use(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_report_says_of_a_recorded_run_only_what_the_recorder_was_told(tmp_path):
    for world in ("real", "ideal"):
        record(tmp_path / world, world)
    assert report([str(tmp_path), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "index.html").read_text()
    assert "batch size" in page
    for untold in ("learning rate", "schedule", "T0 read from", "test images", "own:loop"):
        assert untold not in page, untold
