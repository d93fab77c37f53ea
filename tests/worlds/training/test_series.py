"""Series of weights and predictions: what was asked for is kept, once, whatever kills the run."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.worlds.small_runs import numbers, small, small_data
from worlds import compare, read_run
from worlds.commands.train import main
from worlds.data.pack import write_pack
from worlds.models import create
from worlds.training.build import make_model
from worlds.training.metrics import calibration_error
from worlds.training.objectives import head_of
from worlds.training.schedules import series_points
from worlds.training.stepper import average
from worlds.training.train import train

DATA = small_data()
CONFIG = small(steps=30, log=5)


@pytest.mark.parametrize(
    ("series", "points"),
    [
        ("log:3", [0, 1, 2, 5, 10, 22, 46, 100, 200]),
        ("log:1", [0, 1, 10, 100, 200]),
        ("every:60", [0, 60, 120, 180]),
        ("7,1,7,200", [1, 7, 200]),
        ([0, 3], [0, 3]),
        ("", []),
        ((), []),
    ],
)
def test_a_series_is_updates_by_decade_by_number_or_listed(series, points):
    assert series_points(series, 200) == points


@pytest.mark.parametrize("series", ["log:0", "log:x", "each:3", "1,201", [-1], "1.5", [None]])
def test_a_series_that_is_none_is_refused(series):
    with pytest.raises(ValueError, match="log:K, every:K or updates from 0 to 200"):
        series_points(series, 200)


def test_25_a_decade_of_a_long_run_are_about_25_a_decade():
    points = np.array(series_points("log:25", 39_000))
    assert [int(((points >= 10**k) & (points < 10 ** (k + 1))).sum()) for k in (2, 3)] == [25, 25]


def test_kept_weights_are_those_of_a_run_that_ended_there(tmp_path):
    run = train(CONFIG, DATA, tmp_path / "run", keep_checkpoints="0,7,30")
    assert list(run.checkpoints) == [0, 7, 30]
    short = train(CONFIG, DATA, tmp_path / "short", last_step=6, keep_checkpoints=[7])
    for one, other in ((run.checkpoints[7], short.checkpoints[7]),):
        a, b = (torch.load(file, weights_only=True) for file in (one, other))
        assert all(torch.equal(a[name], b[name]) for name in a)
    continued = replace(CONFIG, initial=str(run.checkpoints[30]), steps=2)
    assert train(continued, DATA, tmp_path / "continued").finished  # a state dict like any other


def test_what_is_kept_changes_no_number_of_the_run(tmp_path):
    plain = train(CONFIG, DATA, tmp_path / "plain")
    kept = train(
        *(CONFIG, DATA, tmp_path / "kept"), keep_checkpoints="every:3", keep_predictions=40
    )
    assert numbers(plain) == numbers(kept)
    assert not plain.checkpoints
    with pytest.raises(ValueError, match="train with keep_predictions=N"):
        _ = plain.predictions


def test_predictions_are_the_logits_behind_the_metrics(tmp_path):
    run = train(CONFIG, DATA, tmp_path, keep_predictions=10_000)
    told = run.predictions
    assert told.steps.tolist() == [row["step"] for row in run.rows]
    assert sorted(told.indices) == list(range(len(DATA.test)))
    assert (told.targets == DATA.test.labels[told.indices]).all()
    assert told.logits.dtype == np.float16
    errors = (told.logits.argmax(-1) != told.targets).mean(1)
    assert errors == pytest.approx([row["test_error"] for row in run.rows], abs=0.02)
    with np.load(tmp_path / "predictions.npz") as file:
        assert (file["logits"] == told.logits).all()


def test_a_smaller_probe_set_is_the_beginning_of_a_larger_and_the_same_in_every_run(tmp_path):
    few = train(CONFIG, DATA, tmp_path / "few", keep_predictions=20).predictions
    other = replace(CONFIG, seed=5, world="ideal")
    more = train(other, DATA, tmp_path / "more", keep_predictions=30).predictions
    assert few.indices.tolist() == more.indices[:20].tolist()
    assert len(set(more.targets)) > 5  # of a shuffled choice, also where a pool is sorted


def test_a_left_run_goes_on_without_a_point_twice_and_refuses_another_probe_set(tmp_path):
    whole = train(CONFIG, DATA, tmp_path / "whole", keep_predictions=40)

    def leave(updates):
        if updates == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, DATA, tmp_path / "left", keep_predictions=40, on_step=leave)
    assert read_run(tmp_path / "left").predictions.steps.tolist() == [0, 5, 10]
    with pytest.raises(ValueError, match="predictions of 40 test samples, not of 39"):
        train(CONFIG, DATA, tmp_path / "left", keep_predictions=39)
    resumed = train(CONFIG, DATA, tmp_path / "left", keep_predictions=40)
    assert resumed.predictions.steps.tolist() == whole.predictions.steps.tolist()
    assert (resumed.predictions.logits == whole.predictions.logits).all()


_SLOW = """
import sys, time
from tests.worlds.small_runs import small, small_data
from worlds.training.train import train
train(small(steps=30, log=1, ema=0.9), small_data(), sys.argv[1], keep_checkpoints="every:7",
      keep_predictions=50, checkpoint_seconds=0, on_step=lambda updates: time.sleep(0.01))
"""


@pytest.mark.slow
def test_a_run_killed_again_and_again_keeps_every_point_once(tmp_path):
    """kill -9 falls into the writing as well: a checkpoint is written after every step."""
    command = [sys.executable, "-W", "error", "-c", _SLOW]
    config, kept = small(steps=30, log=1, ema=0.9), {"keep_checkpoints": "every:7"}
    whole = train(config, DATA, tmp_path / "whole", keep_predictions=50, **kept)
    folder = tmp_path / "killed"
    for wait in (0.15, 0.21):
        rows = len(read_run(folder).rows) if (folder / "config.json").exists() else 0
        process = subprocess.Popen([*command, str(folder)])
        while not (folder / "config.json").exists() or len(read_run(folder).rows) <= rows + 2:
            time.sleep(0.02)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (folder / "predictions.npz").exists():
            steps = read_run(folder).predictions.steps  # whole at any time
            assert steps.tolist() == list(range(len(steps)))
    subprocess.run([*command, str(folder)], check=True)
    killed = read_run(folder)
    assert killed.predictions.steps.tolist() == list(range(30))
    assert (killed.predictions.logits == whole.predictions.logits).all()
    assert numbers(killed) == numbers(whole)
    assert list(killed.checkpoints) == list(whole.checkpoints) == list(range(0, 31, 7))
    names = sorted(os.listdir(folder / "checkpoints"))  # no temporary file is left
    assert names == sorted(os.listdir(tmp_path / "whole" / "checkpoints"))
    for name in names:
        one, other = (torch.load(run.folder / "checkpoints" / name) for run in (whole, killed))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_averaged_weights_are_those_of_torchs_averaged_model():
    torch.manual_seed(0)
    model = create("resnet18", 10, 32, width=4)
    ours = create("resnet18", 10, 32, width=4)
    ours.load_state_dict(model.state_dict())
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.update_parameters(model)  # its first call copies, which ours begin with
    for _ in range(5):
        model(torch.randn(4, 3, 32, 32))  # moves the statistics of batch norm
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average(ours, model, 0.9)
        theirs.update_parameters(model)
    for name, value in theirs.module.state_dict().items():
        if value.is_floating_point():  # torch averages counts as well
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-6, atol=1e-7)


def test_averaged_weights_are_measured_and_resumed(tmp_path):
    config = replace(CONFIG, ema=0.8)
    whole = train(config, DATA, tmp_path / "whole", keep_checkpoints="30")
    plain = train(CONFIG, DATA, tmp_path / "plain")
    assert [row["test_loss"] for row in whole.rows] == [row["test_loss"] for row in plain.rows]
    assert whole.final["ema_test_loss"] != whole.final["test_loss"]
    files = sorted(file.name for file in (tmp_path / "whole" / "checkpoints").iterdir())
    assert files == ["ema-00000030.pt", "weights-00000030.pt"]

    def leave(updates):
        if updates == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, DATA, tmp_path / "left", on_step=leave)
    assert numbers(train(config, DATA, tmp_path / "left")) == numbers(whole)


def test_the_command_and_compare_keep_series_too(tmp_path, capsys):
    write_pack([DATA.train, DATA.test], tmp_path / "pack")
    command = ["--arch", "mlp_3x16", "--data", str(tmp_path / "pack"), "--out", str(tmp_path / "a")]
    command += [
        "--batch-size",
        "32",
        "--n",
        "100",
        "--steps",
        "12",
        "--device",
        "cpu",
        "--quiet",
        "--ema",
        "0.9",
    ]
    command += ["--keep-checkpoints", "log:2", "--keep-predictions", "30", "--init-seed", "4"]
    assert main(command) == 0
    real = read_run(tmp_path / "a" / "real-0")
    assert list(real.checkpoints) == [0, 1, 3, 10, 12]
    assert real.predictions.logits.shape == (len(real.rows), 30, 10)
    assert real.config.init_seed == 4
    assert "ema_test_error" in real.final
    made = compare(
        *("mlp_3x16", tmp_path / "pack"),
        n=64,
        steps=4,
        quiet=True,
        out=tmp_path / "b",
        keep_checkpoints=[4],
        keep_predictions=8,
    )
    assert all(list(run.checkpoints) == [4] for run in made.runs)
    assert all(len(run.predictions.indices) == 8 for run in made.runs)
    capsys.readouterr()
    assert main([*command[:-6], "--keep-checkpoints", "log:-1"]) == 2
    assert "log:K, every:K or updates from 0 to 12" in capsys.readouterr().err


def test_compared_samples_have_features_and_a_calibration_error(tmp_path):
    config = replace(CONFIG, compared=50)
    run = train(config, DATA, tmp_path / "run")
    kept = run.predictions
    assert kept.features.shape == (50, 16)  # of mlp_3x16
    model = make_model(config, DATA)
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    model.load_state_dict(state["stepper"]["model"])
    with torch.no_grad():
        again = head_of(model)[1](torch.tensor(kept.features, dtype=torch.float32))
    assert again.numpy() == pytest.approx(kept.logits[-1], abs=0.02)  # both were rounded
    told = torch.tensor(kept.logits[-1], dtype=torch.float32), torch.tensor(kept.targets)
    assert run.final["test_ece"] == pytest.approx(calibration_error(*told), abs=0.05)
    assert all(0 <= row["test_ece"] <= 1 for row in run.rows)
