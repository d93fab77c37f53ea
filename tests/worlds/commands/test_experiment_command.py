"""worlds-experiment as a user runs it, on made data."""

import json
import re
import shutil
import signal
import sys
import time
from multiprocessing import get_context

import pytest

from tests.processes import Forked, fork_workers
from tests.worlds.small_runs import small_data
from worlds import write_pack
from worlds.commands import experiment
from worlds.commands.experiment import main
from worlds.experiments.state import states_of
from worlds.runtime import processes
from worlds.training.run_folder import find_runs


def lines(capsys):
    """What was printed, the last line as JSON, and the errors."""
    out, err = capsys.readouterr()
    return out, json.loads(out.splitlines()[-1]) if out else None, err


def begin(runs, *names, program="worlds.commands.experiment"):
    """The command in a process of its own."""
    options = ["run", *names, "--scale", "smoke", "--runs", str(runs), "--quiet"]
    return Forked(program, *options)


def fork_and_run(*arguments):
    """The command in this process, with workers that are forked from it."""
    processes.SPAWN = get_context("fork")
    sys.exit(main(arguments))


def finished(runs):
    return list((runs / "runs").glob("*/summary.json"))


def is_running(runs):
    return "running" in states_of(runs).values()


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A folder in which rrm_50k and fig15 were run at smoke scale: four runs."""
    runs = tmp_path_factory.mktemp("noise")
    with pytest.MonkeyPatch.context() as patch:
        fork_workers(patch)
        assert main([*small("rrm_50k", "fig15"), "--runs", str(runs), "--workers", "2"]) == 0
    return runs


def smoke(*names):
    return ["run", *names, "--scale", "smoke", "--quiet", "--device", "cpu", "--workers", "1"]


def small(*names, model="mlp_3x16"):
    """The same on a small network: the paper's are not what is tested."""
    return [*smoke(*names), "--model", model]


def test_the_toy_is_run_skipped_and_reported_with_its_verdict(tmp_path, capsys):
    runs = ["--runs", str(tmp_path)]
    assert main(["run", "fig7", "--trials", "3", "--quiet", *runs]) == 0
    assert lines(capsys)[1] == {
        "out": str(tmp_path), "runs": 16, "trained": 16, "not_finite": 0, "failed": 0
    }  # fmt: skip
    assert main(["run", "fig7", "--trials", "3", "--quiet", *runs]) == 0
    out, summary, _ = lines(capsys)
    assert "16 after sharing, 16 of them done; left 0 runs" in out
    assert summary["trained"] == 0
    assert main(["report", *runs]) == 0
    out, summary, _ = lines(capsys)
    assert (summary["figures"], summary["missing"]) == (1, 0)
    assert (tmp_path / "report" / "index.html").is_file()
    points = json.loads((tmp_path / "report" / "points" / "fig7.json").read_text())
    assert [group["label"] for group in points["groups"]] == [
        "A, tail 0.1", "B, tail 0.1", "A, tail 0.01", "B, tail 0.01"
    ]  # fmt: skip


def test_runs_lie_once_under_names_that_say_what_they_are(noise):
    names = sorted(run.folder.name.rpartition("-")[0] for run in find_runs(noise / "runs"))
    assert names == [
        "mlp_3x16-ideal-trial0",
        "mlp_3x16-real-n1000-trial0",
        "mlp_3x16-real-n40-trial0",
        "mlp_3x16-real-n40-trial0",
    ]
    assert {run.description.data.name for run in find_runs(noise / "runs")} == {"made data"}


def test_status_counts_what_is_done_and_missing(noise, tmp_path, capsys, monkeypatch):
    shutil.copytree(noise, tmp_path / "copy")
    gone, half = finished(tmp_path / "copy")[:2]
    shutil.rmtree(gone.parent)
    half.unlink()
    assert main(["status", "--runs", str(tmp_path / "copy"), "--scale", "smoke"]) == 0
    out, summary, _ = lines(capsys)
    assert summary["shared runs counted in each"] == {
        "done": 2, "not finite": 0, "running": 0, "begun": 1, "missing": 1
    }  # fmt: skip
    assert "rrm_50k" in out
    # What is left is trained; as a long run it says first how long that takes.
    fork_workers(monkeypatch)
    monkeypatch.setattr(experiment, "LONG_STEPS", 1)
    assert main([*small("rrm_50k", "fig15"), "--runs", str(tmp_path / "copy")]) == 0
    plan, time_line, *_ = lines(capsys)[0].splitlines()
    assert "2 of them done; left 2 runs" in plan
    assert re.match("about .* on this CPU, 1 at a time", time_line)
    assert len(finished(tmp_path / "copy")) == 4


def test_a_smoke_report_draws_but_does_not_judge(noise, capsys):
    assert main(["report", "--runs", str(noise), "--scale", "smoke"]) == 0
    assert lines(capsys)[1] | {"page": ""} == {
        "page": "", "figures": 2, "holds": 0, "fails": 0, "open": 2, "missing": 0
    }  # fmt: skip
    assert "Not judged at smoke scale" in (noise / "report" / "index.html").read_text()


def test_a_run_that_fails_is_told_and_the_rest_goes_on(noise, tmp_path, capsys, monkeypatch):
    fork_workers(monkeypatch)
    shutil.copytree(noise, tmp_path / "copy")
    for summary in finished(tmp_path / "copy"):
        summary.unlink()
    broken = next((tmp_path / "copy" / "runs").glob("*/checkpoint.pt"))
    broken.write_bytes(b"not a checkpoint")
    assert main([*small("rrm_50k", "fig15"), "--runs", str(tmp_path / "copy")]) == 1
    _, summary, err = lines(capsys)
    assert (summary["trained"], summary["failed"]) == (3, 1)
    assert f"failed {broken.parent.name}: ValueError:" in err
    assert "cannot be read" in err


def test_two_commands_at_once_share_the_runs_out(noise, tmp_path):
    runs = tmp_path / "runs"
    options = ["--workers", "1", "--model", "mlp_3x16"]  # as `noise` was made
    both = [begin(runs, "rrm_50k", "fig15", *options, program=fork_and_run) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0], [process.error for process in both]
    made = [json.loads(process.out.splitlines()[-1]) for process in both]
    assert [one["failed"] for one in made] == [0, 0]
    assert len(finished(runs)) == made[0]["runs"]
    assert set(states_of(runs).values()) == {"done"}
    expected = {run.folder.name: run.rows[-1]["test_loss"] for run in find_runs(noise)}
    found = {run.folder.name: run.rows[-1]["test_loss"] for run in find_runs(runs)}
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_command_goes_on_where_it_was(tmp_path, how):
    process = begin(tmp_path, "fig1")
    while not (finished(tmp_path) and is_running(tmp_path)) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(how)
    code = process.wait(60)
    assert code == (128 + signal.SIGTERM if how == signal.SIGTERM else -signal.SIGKILL)
    if how == signal.SIGTERM:
        assert process.error.strip() == "worlds-experiment: stopped; run the same command to resume"
    before = {path: path.stat().st_mtime_ns for path in finished(tmp_path)}
    assert 1 <= len(before) < 6
    time.sleep(1)  # a killed command's workers end with it
    again = begin(tmp_path, "fig1")
    assert (again.wait(300), again.error) == (0, "")
    assert json.loads(again.out.splitlines()[-1])["runs"] == 6
    assert len(finished(tmp_path)) == 6
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


def test_a_dry_run_trains_nothing_and_says_how_long_this_machine_will_take(tmp_path, capsys):
    assert main([*small("fig6", model="mlp_3x2048"), "--runs", str(tmp_path), "--dry-run"]) == 0
    out, summary, _ = lines(capsys)
    assert "1 experiments of 2 runs, 2 after sharing, 0 of them done" in out
    how = "on this CPU, 1 at a time, 1 of the 1 networks timed, in fp32"
    assert re.search(rf"^about [\d.,]+ (seconds|minutes) {how}$", out, re.MULTILINE)
    assert 0 < summary["left"]["timed_hours"] < 1
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_times_what_begins_from_runs_that_are_not_trained_yet(tmp_path, capsys):
    assert main([*small("rrm_sss", model="mlp_3x2048"), "--runs", str(tmp_path), "--dry-run"]) == 0
    _, summary, _ = lines(capsys)
    assert 0 < summary["left"]["timed_hours"] < 1


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pack"
    data = small_data()
    write_pack([data.train, data.test], folder)
    return str(folder)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["run", "fig99"], "no experiment fig99; did you mean"),
        (["show", "fig99"], "known: all, fig1, "),
        (["run", "fig1"], "fig1: it needs a pool of CIFAR-5m's kind: give --data DIR; make one"),
        (["run", "table1", "--data", "PACK"], "table1: it needs CIFAR-10: give --cifar10 DIR"),
        (["run", "fig3a", "--dogbird", "PACK"], "holds images of 32 x 32, 224 x 224 are needed"),
        (["run", "fig3a", "--data", "PACK"], "dogbird-build --imagenet SRC --out DIR"),
        (["run", "fig5b", "--data", "PACK"], "fig5b: it needs CIFAR-10: give --cifar10 DIR"),
        (["run", "fig1", "--data", "nowhere"], "nowhere does not exist"),
        (["run", "fig1", "--data", "PACK"], "n = 50,000 needs a pool of that many, PACK has 1,200"),
        (["run", "fig7", "--trials", "0"], "trials must be 1 or more, got 0"),
        (["run", "fig7", "--weights", "mlp.pt"], "--weights is NAME=PATH, such as"),
        (
            ["run", "fig7", "--weights", "fig13=PACK"],
            "expected a run directory, *.pt, *.safetensors or a directory",
        ),
        (["run", "fig7", "--workers", "0"], "--workers must be at least 1, got 0"),
        (["run", "fig7", "--device", "cuda:9"], "device 'cuda:9': this machine has"),
        (["status", "--runs", "nowhere"], "no experiment was begun in nowhere"),
        (["report", "fig1", "--runs", "nowhere"], "no experiment was begun in nowhere"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments, told, pack, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main([argument.replace("PACK", pack) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert told.replace("PACK", pack) in err


def test_a_folder_keeps_to_one_scale_and_one_data_set(noise, tmp_path, capsys):
    wider = tmp_path / "pack"
    data = small_data(pool=2000)
    write_pack([data.train, data.test], wider)
    for scale, told in (
        ("small", f"{noise} holds rrm_50k at smoke scale: choose another directory as --runs"),
        ("smoke", "was trained or measured on other data (cifar10 = "),
    ):
        given = f"--scale {scale} --model mlp_3x16 --data {wider} --runs {noise}".split()
        assert main(["run", "rrm_50k", *given]) == 2
        assert told in capsys.readouterr().err


def test_show_prints_recipe_claim_and_cost(capsys):
    assert main(["show", "fig15"]) == 0
    out, summary, _ = lines(capsys)
    assert "  ResNet18: 10 Real, 10 Ideal: preresnet18 steps=19500 schedule=3step" in out
    assert "Claim: The Ideal World's error drops" in out
    assert "bootstrap error of ResNet18 within 0.05 of 0" in out
    assert (summary["runs"], summary["steps"]) == (20, 390_000)
