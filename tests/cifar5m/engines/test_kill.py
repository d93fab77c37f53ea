"""Real processes of cifar5m-generate, killed: what is finished stays, and the end is the same.

The main suite kills a run a few times; `make test-slow` does twenty kills of a 40-shard run with
one, two and three processes.
"""

import os
import random
import signal
import subprocess
import time

import pytest

from cifar5m.commands.generate import main
from cifar5m.commands.verify import main as verify
from cifar5m.engines import local
from tests.processes import Forked
from worlds.formats.plan import load_plan
from worlds.formats.shards import find_record


def start(folder, images, small_run, *more, rank=0, world=1) -> Forked:
    arguments = ["--n", images, "--out", folder, *small_run, *more]
    ranks = {"RANK": str(rank), "WORLD_SIZE": str(world)} if world > 1 else {}
    return Forked("cifar5m.commands.generate", *arguments, **ranks)


def finished(folder) -> dict[str, str]:
    """sha256 of each shard that exists."""
    if not (folder / "plan.json").exists():
        return {}
    shards = load_plan(folder).shards
    records = {shard.name: find_record(folder, shard) for shard in shards}
    return {name: record.sha256 for name, record in records.items() if record}


def wait_for_shards(folder, count, process, seconds=60) -> None:
    deadline = time.monotonic() + seconds
    while len(finished(folder)) < count and process.poll() is None:
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.01)


def run_with_kills(folder, images, small_run, world, kills, generator) -> None:
    """Start `world` processes, kill -9 one at a random moment and start it again, `kills` times."""
    processes = [start(folder, images, small_run, rank=rank, world=world) for rank in range(world)]
    before = {}
    for _ in range(kills):
        rank = generator.randrange(world)
        # Up to the time a process needs to start and to make a few shards.
        time.sleep(generator.uniform(0, 6))
        processes[rank].send_signal(signal.SIGKILL)
        processes[rank].wait()
        now = finished(folder)
        assert before.items() <= now.items(), "a finished shard was lost or changed"
        before = now
        processes[rank] = start(folder, images, small_run, rank=rank, world=world)
    for process in processes:
        assert process.wait(timeout=300) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "world, run",
    [(1, "small_run"), (2, "small_run"), (3, "small_run"), (2, "conditional_run")],
)
def test_twenty_kills_end_in_the_unbroken_runs_bytes(world, run, request, tmp_path):
    slower = [*request.getfixturevalue(run), "--steps", "12", "--split", "train=240"]
    assert main(["--n", "240", "--out", str(tmp_path / "unbroken"), *slower]) == 0
    folder = tmp_path / "killed"
    run_with_kills(folder, 240, slower, world, 20, random.Random(world))
    unbroken = finished(tmp_path / "unbroken")
    assert len(unbroken) == 40
    assert finished(folder) == unbroken
    assert verify(["--json", str(folder)]) == 0


@pytest.mark.parametrize(
    "run", ["small_run", pytest.param("conditional_run", marks=pytest.mark.slow)]
)
def test_a_killed_run_goes_on_to_the_unbroken_runs_bytes(run, request, tmp_path):
    images, small_run = 60, request.getfixturevalue(run)
    assert main(["--n", str(images), "--out", str(tmp_path / "unbroken"), *small_run]) == 0
    unbroken = finished(tmp_path / "unbroken")
    folder = tmp_path / "killed"
    for shards in (1, 4):
        process = start(folder, images, small_run)
        wait_for_shards(folder, shards, process)
        process.kill()
        process.wait()
        kept = finished(folder)
        assert kept.items() <= unbroken.items()
    process = start(folder, images, small_run)
    assert process.wait(timeout=60) == 0
    assert finished(folder) == unbroken
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_leaves_only_whole_shards_and_says_how_to_go_on(number, small_run, tmp_path):
    folder = tmp_path / "set"
    process = start(folder, 600, small_run)
    wait_for_shards(folder, 2, process)
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    assert "run the same command to resume" in process.error
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    shards = {s.name: s for s in load_plan(folder).shards}
    whole = [shards[name] for name in finished(folder)]
    expected = {p.name for s in whole for p in (s.tar, s.arrays, s.record)}
    assert names == expected | {"plan.json"}


def test_two_processes_on_the_same_shards_do_no_harm(small_run, tmp_path):
    assert main(["--n", "30", "--out", str(tmp_path / "one"), *small_run]) == 0
    both = [start(tmp_path / "two", 30, small_run) for _ in range(2)]
    for process in both:
        assert process.wait(timeout=60) == 0
    assert finished(tmp_path / "two") == finished(tmp_path / "one")


def test_local_workers_share_the_run(small_run, tmp_path):
    assert main(["--n", "30", "--out", str(tmp_path / "one"), *small_run]) == 0
    process = start(tmp_path / "two", 30, small_run, "--workers", 2)
    assert process.wait() == 0, process.error
    assert finished(tmp_path / "two") == finished(tmp_path / "one")
    assert "30 images in 6 shards" in process.out


def run_a_worker(*arguments) -> None:
    """One of two workers, as `--workers 2` starts it."""
    local._start(arguments, rank=0, count=2).wait()


def test_workers_of_a_killed_parent_stop(small_run, tmp_path):
    folder = tmp_path / "set"
    parent = Forked(run_a_worker, "--n", "1200", "--out", str(folder), *small_run)
    wait_for_shards(folder, 1, parent)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while subprocess.run(["pgrep", "-f", str(folder)], capture_output=True).returncode == 0:
        assert time.monotonic() < deadline, "a worker still runs"
        time.sleep(0.05)


@pytest.mark.skipif(not hasattr(os, "statvfs") or os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_is_one_line_and_loses_nothing(small_run, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        folder = disk / "set"
        run = start(folder, 600, small_run)
        assert run.wait() == 1
        assert run.error.splitlines()[-1].startswith("cifar5m-generate: the disk of ")
        kept = finished(folder)
        assert kept
        assert not list(folder.rglob("*.tmp"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
