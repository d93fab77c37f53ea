"""What is foreseen for many devices, and the launch scripts as they are written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cifar5m.commands.generate import main
from cifar5m.engines.estimate import fleet_table
from worlds.formats.plan import load_plan
from worlds.formats.shards import find_record
from worlds.runtime.ranks import Rank, rank_of

REPO = Path(__file__).resolve().parents[3]


def test_shards_are_whole_and_every_device_waits_for_the_last():
    rows = [line.split() for line in fleet_table(600, 0.1, None)][1:4]
    assert [row[:3] for row in rows] == [
        ["1", "60.00", "60.0"],
        ["8", "7.50", "60.0"],
        ["64", "1.00", "64.0"],  # the last round has 24 shards
    ]
    assert [row[4] for row in rows] == ["0.03", "0.03", "0.03"]  # lost by failures


def test_the_price_pays_for_what_failures_undo():
    lines = list(fleet_table(600, 0.1, 1000))
    assert [line.split()[-1] for line in lines[1:4]] == ["60,030", "60,030", "64,032"]
    assert [line.split()[-1] for line in list(fleet_table(600, 0.1, None))[1:4]] == ["-"] * 3


def test_a_rate_foresees_a_run_without_its_networks(tmp_path, capsys):
    arguments = ["--n", "6000000", "--out", str(tmp_path / "set"), "--dry-run"]
    assert main([*arguments, "--rate", "27", "--price", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "6,000,000 images in 600 shards, 27 images/s a device"
    assert lines[2].split()[:2] == ["1", "61.73"]
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--dry-run", "--rate", "0"], "--rate must be above 0"),
        (["--dry-run", "--rate", "27", "--price", "-1"], "--price must be at least 0"),
        (["--dry-run", "--price", "-1"], "--price must be at least 0"),
        (["--dry-run", "--rate", "inf"], "--rate must be above 0, got inf"),
        (["--dry-run", "--rate", "27", "--price", "nan"], "--price must be at least 0, got nan"),
        (["--rate", "27"], "--rate is for --dry-run alone"),
        (["--price", "4"], "--price is for --dry-run alone"),
    ],
)
def test_a_bad_rate_is_one_line(options, message, tmp_path, capsys):
    assert main(["--n", "10", "--out", str(tmp_path / "set"), *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_an_array_with_gaps_is_refused_in_words_of_slurm():
    array = {"SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "2"}
    assert rank_of(array | {"SLURM_ARRAY_TASK_ID": "3"}) == Rank(0, 2, 0)
    with pytest.raises(ValueError, match="submit the whole array again"):
        rank_of(array | {"SLURM_ARRAY_TASK_ID": "5"})


def test_the_slurm_script_says_its_tasks_as_gpus_per_task_demands():
    options = (REPO / "examples" / "slurm-array.sh").read_text().splitlines()
    assert {"#SBATCH --ntasks=1", "#SBATCH --gpus-per-task=1"} <= set(options)


def finished(folder) -> dict[str, str | None]:
    shards = load_plan(folder).shards
    records = {shard.name: find_record(folder, shard) for shard in shards}
    return {name: record and record.sha256 for name, record in records.items()}


def launch(script, arguments, **environment):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    known = os.environ | {"PATH": path, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    command = ["bash", str(REPO / "examples" / script), *arguments]
    return subprocess.Popen(command, env=known | environment)


@pytest.mark.slow
def test_the_launch_scripts_end_in_the_single_processs_bytes(small_run, tmp_path):
    def arguments(name):
        return ["--n", "30", "--out", str(tmp_path / name), *small_run]

    assert main(arguments("one")) == 0
    array = {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "2"}
    tasks = [
        launch("slurm-array.sh", arguments("array"), SLURM_ARRAY_TASK_ID=str(task), **array)
        for task in range(2)
    ]
    assert [task.wait(timeout=120) for task in tasks] == [0, 0]
    assert launch("torchrun.sh", arguments("torchrun"), GPUS="2").wait(timeout=120) == 0
    assert finished(tmp_path / "array") == finished(tmp_path / "one")
    assert finished(tmp_path / "torchrun") == finished(tmp_path / "one")
