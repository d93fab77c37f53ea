"""Copies of a run's rows, where TensorBoard and Weights & Biases are installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worlds.small_runs import small, small_data
from worlds.cli import trackers as mirrors
from worlds.training.train import train

pytestmark = pytest.mark.filterwarnings("ignore")  # their dependencies are not pinned here


def mirrored(mirror, folder):
    return train(small(steps=20, log=5), small_data(), folder, on_row=mirror)


def test_tensorboard_holds_every_number_over_the_updates(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = mirrored(mirrors.tensorboard(tmp_path), tmp_path / "run")
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rows = [(each.step, each.value) for each in found.Scalars("test/soft_error")]
    expected = [(row["updates"], pytest.approx(row["test_soft_error"])) for row in run.rows]
    assert rows == expected


def test_a_finished_run_leaves_no_second_copy(tmp_path):
    pytest.importorskip("tensorboard")
    for turn in ("first", "second"):
        mirrored(mirrors.tensorboard(tmp_path / turn), tmp_path / "run")
    assert (tmp_path / "first" / "tensorboard").exists()
    assert not (tmp_path / "second").exists()


def test_wandb_without_a_key_is_one_line(tmp_path):
    pytest.importorskip("wandb")
    code = """
import sys
from pathlib import Path
from tests.worlds.small_runs import small
from worlds.cli import trackers as mirrors
try:
    mirrors.wandb(Path(sys.argv[1]), "project", "name", "group", {})({"updates": 1})
except ValueError as error:
    print(error)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    done = subprocess.run(  # W&B remembers the first settings of a process
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment | {"HOME": str(tmp_path)},
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("--wandb: No API key configured")
    assert done.stdout.count("\n") == 1


def test_wandb_takes_the_rows_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = mirrored(mirrors.wandb(tmp_path, "project", "name", "group", {}), tmp_path / "run")
    import wandb

    wandb.finish()
    assert run.finished
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
