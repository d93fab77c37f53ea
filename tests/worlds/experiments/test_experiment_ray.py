"""Experiments on a Ray cluster end in a single machine's numbers, also where a node is killed.

Each test with a cluster starts real nodes: `make test-slow` runs them where Ray is installed.
"""

import fcntl
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch

from tests.worlds.small_runs import numbers
from worlds.commands.experiment import main
from worlds.experiments.plan import expand, jobs_of
from worlds.experiments.registry import find_recipes
from worlds.experiments.run.ray import run_on_ray, train_on_node
from worlds.experiments.sources import Sources
from worlds.experiments.state import states_of
from worlds.training.run_folder import CHECKPOINT, find_runs, read_run


def smoke(runs, *names):
    return ["run", *names, "--scale", "smoke", "--quiet", "--runs", str(runs)]


def weights(run):
    saved = torch.load(run.folder / CHECKPOINT, weights_only=True)
    return saved["stepper"]["model"]


def finished(runs):
    return list((runs / "runs").glob("*/summary.json"))


def wait_until(true):
    deadline = time.monotonic() + 120
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)


def assert_equal_runs(one, other):
    pairs = list(zip(find_runs(one), find_runs(other), strict=True))
    for left, right in pairs:
        assert left.folder.name == right.folder.name
        assert left.summary.ended == right.summary.ended
        assert numbers(left) == numbers(right)
        there = weights(right)
        assert all(torch.equal(value, there[name]) for name, value in weights(left).items())
    return len(pairs)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """fig1 at smoke scale, trained on this machine: six runs."""
    runs = tmp_path_factory.mktemp("local")
    assert main([*smoke(runs, "fig1"), "--device", "cpu"]) == 0
    return runs


@pytest.mark.parametrize("option", [["--workers", "2"], ["--device", "cpu"]])
def test_ray_places_the_runs_itself(tmp_path, capsys, option):
    assert main([*smoke(tmp_path, "fig7"), "--ray", "auto", *option]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "--ray places the runs itself: leave --workers and --device out" in line


def test_without_ray_the_line_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*smoke(tmp_path, "fig7"), "--ray", "auto"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "Ray is not installed: pip install 'deep-bootstrap[ray]'" in line


@pytest.mark.filterwarnings("ignore")  # Ray leaves sockets and files to the garbage collector
def test_a_cluster_that_does_not_answer_is_one_line(tmp_path, capsys):
    pytest.importorskip("ray")
    assert main([*smoke(tmp_path, "fig7"), "--ray", "127.0.0.1:1"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "--ray 127.0.0.1:1: no cluster answers" in line


def test_a_task_waits_for_the_worker_that_outlives_its_node(tmp_path):
    job = jobs_of([expand(recipe, "smoke") for recipe in find_recipes(["rrm_50k"])])[0]
    sources = Sources.make(tmp_path / "data")
    folder = job.folder(tmp_path)
    folder.mkdir(parents=True)
    stream = (folder / ".lock").open("w")
    fcntl.flock(stream, fcntl.LOCK_EX)
    threading.Timer(0.2, stream.close).start()
    assert train_on_node(job, str(tmp_path), sources, "cpu") == {"ended": "schedule"}
    assert read_run(folder).final["updates"] == job.config.steps


def test_a_node_without_the_folder_says_so(tmp_path):
    job = jobs_of([expand(recipe, "smoke") for recipe in find_recipes(["rrm_50k"])])[0]
    message = train_on_node(job, str(tmp_path / "elsewhere"), Sources(), "cpu")
    assert "--runs must lie on shared storage" in message["error"]
    assert not (tmp_path / "elsewhere").exists()


def test_initial_weights_are_named_by_an_absolute_path(tmp_path):
    job = jobs_of([expand(recipe, "smoke") for recipe in find_recipes(["rrm_50k"])])[0]
    tuned = replace(job, config=replace(job.config, initial="weights.pt"))
    with pytest.raises(ValueError, match=r"by an absolute path, got weights\.pt"):
        run_on_ray(None, [job, tuned], tmp_path, Sources(), lambda progress: None, lambda: False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_killed_node_costs_nothing_but_time(cluster, local, tmp_path, capsys, monkeypatch):
    found, nodes = cluster
    monkeypatch.chdir(tmp_path)  # of the command, not of the nodes
    at_death = {}

    def in_the_middle():
        states = list(states_of(tmp_path).values())
        at_death.update(done=states.count("done"), running=states.count("running"))
        return at_death["done"] >= 1 and at_death["running"] == 2

    def kill_a_node_while_both_train():
        wait_until(in_the_middle)
        found.remove_node(nodes[0], allow_graceful=False)

    killer = threading.Thread(target=kill_a_node_while_both_train)
    killer.start()
    code = main([*smoke(".", "fig1"), "--ray", found.address])
    killer.join()
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert json.loads(out.splitlines()[-1])["trained"] == 6
    assert at_death["running"] == 2  # it was killed in the middle
    assert 1 <= at_death["done"] <= 4
    assert assert_equal_runs(local, tmp_path) == 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_stopped_and_damaged_runs_are_told_and_the_rest_goes_on(cluster, local, tmp_path, capsys):
    found, _ = cluster
    command = [sys.executable, "-m", "worlds.commands.experiment", *smoke(tmp_path, "fig1")]
    process = subprocess.Popen([*command, "--ray", found.address], stderr=subprocess.PIPE)
    wait_until(lambda: finished(tmp_path))
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 128 + signal.SIGTERM
    assert error.strip() == "worlds-experiment: stopped; run the same command to resume"
    kept = {path: path.stat().st_mtime_ns for path in finished(tmp_path)}
    assert 1 <= len(kept) < 6
    wait_until(lambda: "running" not in states_of(tmp_path).values())

    left = [run for run in find_runs(local) if not (tmp_path / "runs" / run.folder.name).exists()]
    broken = tmp_path / "runs" / left[0].folder.name
    broken.mkdir()
    (broken / CHECKPOINT).write_bytes(b"not a checkpoint")
    assert main([*smoke(tmp_path, "fig1"), "--ray", found.address]) == 1
    err = capsys.readouterr().err
    assert f"failed {broken.name}: ValueError:" in err
    assert len(finished(tmp_path)) == 5
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
