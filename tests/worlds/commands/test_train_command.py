"""worlds-train as a user runs it."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.processes import Forked
from tests.worlds.small_runs import numbers, small_data
from worlds import ArrayStore, write_pack
from worlds.commands.train import main
from worlds.commands.train_options import config_of, make_parser
from worlds.experiments import costs
from worlds.training.run_folder import read_run


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pack"
    data = small_data()
    write_pack([data.train, data.test], folder)
    return folder


def arguments(pack, out, *more):
    given = ["--arch", "mlp_3x16", "--data", str(pack), "--out", str(out), "--n", "300"]
    given += ["--batch-size", "32", "--steps", "20", "--unit", "1", "--momentum", "0.9"]
    return [*given, "--learning-rate", "0.05", "--log", "5", "--quiet", *more]


def test_both_worlds_of_two_trials_end_with_the_bootstrap_error(pack, tmp_path, capsys):
    assert main(arguments(pack, tmp_path / "runs", "--trials", "2")) == 0
    *text, last = capsys.readouterr().out.splitlines()
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == ["ideal-0", "ideal-1", "real-0", "real-1"]
    summary = json.loads(last)
    for trial, error in enumerate(summary["bootstrap_error"]):
        real = read_run(tmp_path / "runs" / f"real-{trial}").final["test_soft_error"]
        ideal = read_run(tmp_path / "runs" / f"ideal-{trial}").final["test_soft_error"]
        assert error == real - ideal
    assert any("20 steps, 640 samples, 5 log points" in line for line in text)


def test_a_dry_run_says_the_cost_and_writes_nothing(pack, tmp_path, capsys):
    assert main(arguments(pack, tmp_path / "runs", "--dry-run")) == 0
    text = capsys.readouterr().out
    assert "arch=mlp_3x16" in text
    # 5 log points with 200 test images and twice the 300 samples
    assert "real: 20 steps, 640 samples, 5 log points that measure 4,000 images" in text
    assert "ideal: 20 steps, 640 samples, 5 log points that measure 1,000 images" in text
    assert "steps/s" in text
    assert not (tmp_path / "runs").exists()


def test_a_long_run_says_first_how_long_it_takes_and_its_rows_are_the_same(
    pack, tmp_path, capsys, monkeypatch
):
    told = []
    for out, long in (
        (tmp_path / "short", 5_000),
        (tmp_path / "long", 120),
        (tmp_path / "long", 120),
    ):
        monkeypatch.setattr(costs, "LONG_STEPS", long)
        assert main(arguments(pack, out, "--steps", "120", "--world", "real")) == 0
        told.append(
            re.findall(r"^on cpu: .* steps/s, .* about .* for all$", capsys.readouterr().out, re.M)
        )
    # Not where it is short, or finished before.
    assert [len(lines) for lines in told] == [0, 1, 0]
    assert numbers(read_run(tmp_path / "short/real-0")) == numbers(
        read_run(tmp_path / "long/real-0")
    )


def test_epochs_are_counted_as_the_papers_code_counts_them(pack):
    args = ["--arch", "mlp_3x16", "--data", str(pack), "--out", "runs", "--n", "300"]
    config = config_of(make_parser(None).parse_args([*args, "--epochs", "3", "--batch-size", "32"]))
    assert (config.steps, config.unit) == (28, 9)


@pytest.mark.parametrize(
    ("given", "value"), [("false", False), ("False", False), ("True", True), ("1", 1), ("a", "a")]
)
def test_an_architectures_switch_is_read_as_a_switch(given, value):
    args = ["--arch", "myrtle5", "--data", "x", "--out", "y", "--option", f"batch_norm={given}"]
    read = config_of(make_parser(None).parse_args(args)).options["batch_norm"]
    assert (read, type(read)) == (value, type(value))


def test_every_option_reaches_the_config(pack):
    args = ["--arch", "preresnet18", "--data", "x", "--out", "y", "--option", "width=8"]
    args += ["--optimizer", "nesterov", "--momentum", "0.5", "--schedule", "steps", "--drops"]
    args += ["3,6", "--stop", "patience", "--patience", "4", "--label-noise", "uniform:0.5"]
    args += ["--augment", "none", "--test-eval", "0", "--disjoint", "--log", "fast"]
    config = config_of(make_parser(None).parse_args(args))
    assert config.options == {"width": 8}
    assert (config.optimizer, config.momentum, config.drops) == ("nesterov", 0.5, (3, 6))
    assert (config.stop, config.patience, config.label_noise) == ("patience", 4, "uniform:0.5")
    assert (config.augment, config.test_eval, config.disjoint) == (None, None, True)
    assert config.log == "fast"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--arch", "resnet999"], "unknown architecture 'resnet999'"),
        (["--n", "5000"], "n must be between 1 and the 1,200 samples at hand, got 5,000"),
        (["--steps", "100"], "the largest possible is 37 steps"),
        (["--option", "width"], "--option is NAME=VALUE"),
        (["--label-noise", "salt:1"], "label noise is symmetric:RATE"),
        (["--trials", "0"], "--trials must be 1 or more, got 0"),
        (["--batch-size", "0"], "--batch-size must be an integer from 1 to"),
        (["--data", "/nowhere"], "/nowhere does not exist"),
        (["--device", "cuda:77"], "cuda"),
        (["--device", "gpu"], 'device must be "cpu", "cuda" or "cuda:K", got \'gpu\''),
        (["--schedule", "steps", "--drops", "6,x"], "--drops are units such as 60,80, got '6,x'"),
        (["--wandb", "project"], r'--wandb needs wandb: pip install "deep-bootstrap[track]"'),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_code_2(pack, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(arguments(pack, tmp_path / "runs", *more)) == 2
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert message in captured
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_other_runs_is_refused_by_field(pack, tmp_path, capsys):
    assert main(arguments(pack, tmp_path / "runs")) == 0
    assert main(arguments(pack, tmp_path / "runs", "--momentum", "0.5")) == 2
    assert "momentum = 0.9 there, 0.5 here" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_is_told_with_its_step(pack, tmp_path, capsys):
    more = ["--learning-rate", "1e18", "--loss", "mse", "--world", "real"]
    for _ in range(2):  # and again when it is asked for again
        assert main(arguments(pack, tmp_path / "runs", *more)) == 1
        step = read_run(tmp_path / "runs" / "real-0").summary.bad_step
        assert f"was not finite at step {step}" in capsys.readouterr().err


def test_a_terminated_command_saves_and_the_same_one_ends_equal(pack, tmp_path):
    long = ("--steps", "700", "--world", "real", "--log", "20")
    assert main(arguments(pack, tmp_path / "whole", *long)) == 0
    command = arguments(pack, tmp_path / "runs", *long)
    process = Forked("worlds.commands.train", *command)
    folder = tmp_path / "runs" / "real-0"
    while not (folder / "metrics.jsonl").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert (folder / "checkpoint.pt").exists()
    assert not read_run(folder).finished
    assert main(command) == 0
    assert numbers(read_run(folder)) == numbers(read_run(tmp_path / "whole" / "real-0"))


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_replicas_under_torchrun_train_the_same_run_also_with_batch_norm(pack, tmp_path, device):
    if device == "cuda" and torch.cuda.device_count() < 3:
        pytest.skip("needs three GPUs")
    given = ("--device", device, "--world", "ideal", "--steps", "6", "--batch-size", "33")
    given += ("--arch", "preresnet18", "--option", "width=4", "--learning-rate", "0.003")
    assert main(arguments(pack, tmp_path / "one", *given)) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "3", "-m", "worlds.commands.train", "--"]
    subprocess.run(
        [*torchrun, *arguments(pack, tmp_path / "three", *given)], check=True, timeout=120
    )
    a, b = (read_run(tmp_path / name / "ideal-0") for name in ("one", "three"))
    assert (a.description.ranks, b.description.ranks) == (1, 3)
    assert len(a.rows) == len(b.rows) == 2
    for x, y in zip(a.rows, b.rows, strict=True):
        assert x["test_loss"] == pytest.approx(y["test_loss"], rel=1e-4)
    weights = [
        torch.load(tmp_path / name / "ideal-0" / "checkpoint.pt", weights_only=True)["stepper"]
        for name in ("one", "three")
    ]
    for name, value in weights[0]["model"].items():
        torch.testing.assert_close(weights[1]["model"][name], value, rtol=1e-3, atol=1e-5)


def test_a_store_without_a_test_split_is_refused(tmp_path, capsys):
    data = small_data()
    images = data.train.gather(range(50))
    write_pack([ArrayStore(images, data.train.labels[:50]).train], tmp_path / "pack")
    assert main(arguments(tmp_path / "pack", tmp_path / "runs")) == 2
    assert "has no test split" in capsys.readouterr().err


def test_measuring_takes_at_most_a_quarter_of_the_cost_unless_the_options_say_otherwise(
    pack, tmp_path, capsys
):
    run = ["--arch", "mlp_3x16", "--data", str(pack), "--out", str(tmp_path / "runs"), "--dry-run"]
    size = ["--n", "300", "--steps", "2000", "--batch-size", "32", "--world", "real"]
    assert main([*run, *size]) == 0
    share = re.search(r"^real: .* images \((\d+)% of", capsys.readouterr().out, re.MULTILINE)
    assert share is not None
    assert int(share[1]) <= 25
    assert main([*run, *size, "--log", "paper"]) == 0
    chosen = capsys.readouterr().out
    assert "  log=paper  test_eval=400  " in chosen


def test_data_without_a_test_split_is_measured_on_that_of_another_store(pack, tmp_path, capsys):
    write_pack([small_data().train], tmp_path / "untested")
    assert main(arguments(tmp_path / "untested", tmp_path / "runs")) == 2
    assert "--test" in capsys.readouterr().err
    found = []
    for data in (tmp_path / "untested", pack):
        out = tmp_path / f"runs-of-{data.name}"
        assert main(arguments(data, out, "--test", str(pack), "--world", "real")) == 0
        found.append(read_run(out / "real-0").final["test_error"])
    assert found[0] == found[1]
