"""cifar5m-finetune-labeler on networks so small that a step takes milliseconds."""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cifar5m.commands.finetune_labeler import main
from cifar5m.commands.generate import main as generate
from cifar5m.commands.label import main as label
from cifar5m.labels.calibration import evaluation
from cifar5m.labels.finetune import Trainer, finetune
from cifar5m.labels.finetune_cost import saved_bytes
from cifar5m.labels.finetune_plan import Options, finetune_plan, pretrained_network
from cifar5m.labels.hyperrule import augmented, draws, learning_rate, mixed, mixed_loss, schedule_of
from cifar5m.labels.labeler import load_classifier
from cifar5m.weights.sources import find_labeler
from tests.cifar5m.small_set import make_set
from tests.cifar5m.tiny_networks import save_labeler
from worlds import open_store
from worlds.formats.layout import CIFAR10_CLASSES

REPO = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("finetune") / "data")


@pytest.fixture
def command(data, labeler_folder) -> list[str]:
    options = ["--batch", "6", "--steps", "10", "--size", "32", "--device", "cpu", "--quiet"]
    return ["--data", str(data), "--model", str(labeler_folder), *options]


def trainer(data, labeler_folder, **changes) -> Trainer:
    options = Options(model=str(labeler_folder), **{"batch": 6, "steps": 10, "size": 32} | changes)
    store, network = open_store(data), pretrained_network(options)
    return Trainer(finetune_plan(options, network, store), network, store.train, CPU)


@pytest.mark.parametrize(
    "images, steps, schedule",
    [
        (19_999, None, (100, 200, 300, 400, 500)),
        (20_000, None, (500, 3_000, 6_000, 9_000, 10_000)),
        (50_000, None, (500, 3_000, 6_000, 9_000, 10_000)),
        (500_000, None, (500, 6_000, 12_000, 18_000, 20_000)),
        (50_000, 200, (10, 60, 120, 180, 200)),
    ],
)
def test_the_schedule_is_the_published_one(images, steps, schedule):
    assert schedule_of(images, steps) == schedule


@pytest.mark.parametrize(
    "step, rate",
    [
        (0, 0.0),
        (1, 0.003 / 500),
        (250, 0.0015),
        (500, 0.003),
        (3_000, 0.003),
        (3_001, 0.0003),
        (6_000, 0.0003),
        (6_001, 0.00003),
        (9_001, 0.000003),
        (9_999, 0.000003),
    ],
)
def test_the_learning_rate_is_the_published_one(step, rate):
    assert learning_rate(step, 0.003, schedule_of(50_000)) == pytest.approx(rate, rel=1e-12)


def test_the_defaults_are_the_rule(data, labeler_folder):
    options = Options()
    assert (options.batch, options.learning_rate) == (512, 0.003)
    assert options.model == "resnetv2_152x2_bit.goog_in21k"
    network = pretrained_network(Options(model=str(labeler_folder)))
    plan = finetune_plan(Options(model=str(labeler_folder)), network, open_store(data))
    assert (plan.size, plan.mixup, plan.schedule[-1]) == (128, 0.0, 500)  # 14 images


def test_draws_are_of_their_step_alone():
    first, again, next_step = (
        draws(1, 7, 64, 32, 0.1),
        draws(1, 7, 64, 32, 0.1),
        draws(1, 8, 64, 32, 0.1),
    )
    assert (first.top == again.top).all()
    assert first.mix == again.mix != next_step.mix
    assert {*first.top, *first.left} <= set(range(33))
    assert sorted(first.other) == list(range(64))
    # Of 64,000 fair coins, 800 heads too many or too few come up once in 10^9 times.
    heads = sum(draws(0, step, 64, 32, 0.0).flip.sum() for step in range(1000))
    assert abs(heads - 32_000) < 800
    assert {draws(0, step, 4, 32, 0.0).mix for step in range(20)} == {1.0}


def test_augmentation_is_enlarge_crop_flip():
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    drawn = draws(0, 0, 3, 8, 0.0)
    found = augmented(images, drawn, 32, 8)
    whole = torch.nn.functional.interpolate(
        images.permute(0, 3, 1, 2) / 255.0, (40, 40), mode="bilinear", antialias=True
    )
    for k in range(3):
        top, left = int(drawn.top[k]), int(drawn.left[k])
        expected = whole[k, :, top : top + 32, left : left + 32]
        torch.testing.assert_close(found[k], expected.flip(2) if drawn.flip[k] else expected)


def test_mixup_mixes_images_and_losses_by_the_same_share():
    drawn = draws(3, 5, 8, 0, 0.1)
    x, logits = torch.rand(8, 3, 4, 4), torch.randn(8, 10)
    labels = torch.arange(8)
    other = torch.from_numpy(drawn.other)
    torch.testing.assert_close(mixed(x, drawn), drawn.mix * x + (1 - drawn.mix) * x[other])
    soft = torch.zeros(8, 10)
    soft[torch.arange(8), labels] += drawn.mix
    soft[torch.arange(8), labels[other]] += 1 - drawn.mix
    expected = -(soft * logits.log_softmax(1)).sum()
    torch.testing.assert_close(mixed_loss(logits, labels, labels[other], drawn.mix), expected)


def test_the_head_begins_at_zero_and_the_first_loss_is_that_of_chance(data, labeler_folder):
    found = trainer(data, labeler_folder)
    assert found.one_step(6).loss == pytest.approx(math.log(10), rel=1e-6)
    assert found.one_step(6).learning_rate > 0


def test_micro_batches_give_the_gradient_of_the_batch(data, tmp_path):
    args = {"channels": [128, 128, 128, 128], "stem_chs": 32}
    folder = save_labeler(tmp_path / "bit", architecture="resnetv2_50x1_bit", model_args=args)
    losses = {}
    for micro_batch in (6, 4):
        found = trainer(data, folder, mixup=0.5, learning_rate=0.01)
        losses[micro_batch] = [found.one_step(micro_batch).loss for _ in range(4)]
    np.testing.assert_allclose(losses[4], losses[6], rtol=1e-4)
    assert len({round(loss, 6) for loss in losses[6]}) > 2  # it learns


def test_micro_batches_are_refused_where_they_would_change_the_result(command, tmp_path, capsys):
    assert main([*command, "--out", str(tmp_path), "--micro-batch", "2"]) == 2
    assert "normalizes over batches" in capsys.readouterr().err


def test_the_folder_is_a_labeler_with_its_evaluation(command, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*command, "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        *("plan.json", "metrics.jsonl", "config.json", "model.safetensors", "evaluation.json")
    }
    found = json.loads((out / "evaluation.json").read_text())
    assert f"accuracy {found['accuracy']:.4f} on 5 test images" in capsys.readouterr().out
    _classifier, preprocessing = load_classifier(find_labeler(str(out)))
    assert preprocessing.size == (32, 32)
    assert found["weights_sha256"] == find_labeler(str(out)).sha256
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(10))
    assert label([str(data), "--labeler", str(out), "--quiet", "--device", "cpu"]) == 0
    shutil.rmtree(data / "labels")


def test_generated_sets_remember_the_evaluation(command, small_run, tmp_path):
    assert main([*command, "--out", str(tmp_path / "labeler")]) == 0
    options = [*small_run, "--labeler", str(tmp_path / "labeler"), "--n", "6"]
    assert generate([*options, "--out", str(tmp_path / "set")]) == 0
    plan = json.loads((tmp_path / "set" / "plan.json").read_text())
    saved = json.loads((tmp_path / "labeler" / "evaluation.json").read_text())
    assert plan["about"]["labeler_evaluation"] == saved


def test_the_same_command_again_only_tells(command, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*command, "--out", str(out)]) == 0
    first, before = capsys.readouterr().out, (out / "model.safetensors").stat().st_mtime_ns
    assert main([*command, "--out", str(out)]) == 0
    assert capsys.readouterr().out == first
    assert (out / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("stop_at", [1, 4, 5, 9])
def test_a_stopped_run_ends_in_the_same_bytes(stop_at, data, labeler_folder, tmp_path):
    options = {"mixup": 0.3, "learning_rate": 0.05}
    for _ in finetune(tmp_path / "whole", trainer(data, labeler_folder, **options)):
        pass
    with contextlib.closing(
        finetune(tmp_path / "two", trainer(data, labeler_folder, **options), save_every=4)
    ) as rows:
        for row in rows:
            if row.step == stop_at:
                break
    for _ in finetune(tmp_path / "two", trainer(data, labeler_folder, **options)):
        pass
    for name in ("model.safetensors", "metrics.jsonl", "config.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_a_killed_process_ends_in_the_same_bytes(command, tmp_path):
    assert main([*command, "--steps", "40", "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "killed"
    run = [sys.executable, "-m", "cifar5m.commands.finetune_labeler", *command, "--steps", "40"]
    run += ["--out", str(out), "--save-every", "5"]
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(run, env=environment)
    deadline = time.monotonic() + 60
    while not (out / "checkpoint.pt").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert main(run[3:]) == 0
    name = "model.safetensors"
    assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


BAD = {
    "another plan in the folder": (["--seed", "1"], "holds another plan; differing: seed is 0"),
    "no such model": (
        ["--model", "resnet_of_nobody"],
        "resnet_of_nobody could not be loaded",
    ),
    "no such weights": (["--weights", "nowhere.safetensors"], "bring its weights as --weights"),
    "no such data": (["--data", "nowhere"], "nowhere does not exist"),
    "batch": (["--batch", "0"], "--batch must be at least 1, got 0"),
    "learning rate": (["--lr", "0"], "--lr must be above 0, got 0.0"),
    "an endless learning rate": (["--lr", "inf"], "--lr must be above 0, got inf"),
    "mixup of nothing": (["--mixup", "nan"], "--mixup must be 0 or more, got nan"),
    "seed": (["--seed", "-1"], "seed must be in [0, 2^64)"),
    "mixup": (["--mixup", "-1"], "--mixup must be 0 or more, got -1.0"),
    "precision": (["--precision", "fp16"], "--precision must be one of fp32, tf32, bf16"),
    "saving": (["--save-every", "0"], "--save-every must be at least 1, got 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, command, data, labeler_folder, tmp_path, capsys):
    options, message = BAD[case]
    out = tmp_path / "out"
    if case == "another plan in the folder":
        with contextlib.closing(finetune(out, trainer(data, labeler_folder))) as rows:
            next(rows)
    assert main([*command, "--out", str(out), *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_another_model_needs_its_own_folder(command, capsys):
    assert main(command) == 2
    assert "--model needs --out" in capsys.readouterr().err


def test_a_network_from_scratch_does_not_land_where_the_papers_labeler_belongs(data, capsys):
    assert main(["--data", str(data), "--scratch"]) == 2
    assert "--scratch needs --out" in capsys.readouterr().err


def test_a_model_of_one_size_refuses_another(data, tmp_path, capsys):
    vit = ["--model", "vit_tiny_patch16_224", "--scratch", "--size", "64", "--device", "cpu"]
    assert main(["--data", str(data), "--out", str(tmp_path / "out"), *vit]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "--size: vit_tiny_patch16_224 takes images of 224 pixels, got 64" in line


@pytest.mark.parametrize("damaged", [b"", b"no checkpoint", b"\x80\x02", "cut", "other"])
def test_a_damaged_checkpoint_is_named(damaged, command, data, labeler_folder, tmp_path, capsys):
    with contextlib.closing(finetune(tmp_path, trainer(data, labeler_folder))) as rows:
        next(rows)
    path = tmp_path / "checkpoint.pt"
    if damaged == "other":
        torch.save({"weights": 1}, path)
    else:
        path.write_bytes(path.read_bytes()[:1000] if damaged == "cut" else damaged)
    assert main([*command, "--out", str(tmp_path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(f"{path} is damaged: delete it to begin anew")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"accuracy": 1}', None])
def test_a_lost_evaluation_is_measured_again_without_training(
    content, command, tmp_path, monkeypatch
):
    assert main([*command, "--out", str(tmp_path)]) == 0
    path = tmp_path / "evaluation.json"
    before = path.read_bytes()
    path.unlink() if content is None else path.write_text(content)
    monkeypatch.setattr(Trainer, "one_step", None)
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert path.read_bytes() == before


def test_weights_other_than_those_measured_are_not_called_a_labeler(command, tmp_path, capsys):
    assert main([*command, "--out", str(tmp_path)]) == 0
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    capsys.readouterr()
    assert main([*command, "--out", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{weights} is damaged or another one" in err
    weights.unlink()
    assert main([*command, "--out", str(tmp_path)]) == 0


def test_a_dry_run_writes_nothing(command, tmp_path, capsys):
    assert main([*command, "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "hours for 10 steps; nothing written" in out
    assert "memory of the device: at least" in out
    assert not (tmp_path / "out").exists()


def test_the_memory_of_a_step_is_what_its_backward_pass_reads():
    network = torch.nn.Linear(10, 20)
    x = torch.randn(4, 10)
    kept = saved_bytes(network, lambda: network(x).relu().sum().backward())
    assert kept == 4 * (4 * 10 + 4 * 20)  # the layer's input and the activation, in float32


def test_evaluation_against_numbers_worked_out_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    found = evaluation(probabilities, np.array([0, 1, 1, 1]))
    assert found["images"] == 4
    assert found["accuracy"] == 0.75
    assert found["mean_confidence"] == pytest.approx(0.775)
    # bins: 0.9 twice (one right), 0.6 (right) and 0.7 (right): (|1.8 - 1| + 0.4 + 0.3) / 4
    assert found["calibration_error"] == pytest.approx(0.375)
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.7]).mean())
    assert found["class_accuracy"] == [1.0, pytest.approx(2 / 3, abs=1e-6)]
    assert len(CIFAR10_CLASSES) == 10


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_backward_pass_runs_in_the_precision_of_the_forward_pass(
    data, labeler_folder, precision
):
    tuned, seen = trainer(data, labeler_folder, precision=precision), []

    def flags() -> tuple[str, str]:
        conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
        return conv.fp32_precision, matmul.fp32_precision

    def look(*_) -> None:
        seen.append(flags())

    tuned.network.register_forward_hook(look)
    next(tuned.network.parameters()).register_hook(look)
    before = flags()
    tuned.one_step(6)
    assert seen == [("tf32" if precision == "tf32" else "ieee",) * 2] * 2
    assert flags() == before


def test_a_dry_run_of_published_weights_needs_no_network(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    data = command[command.index("--data") + 1]
    given = ["--data", data, "--model", "test_resnet.r160_in1k", "--out", str(tmp_path / "out")]
    assert main([*given, "--size", "32", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "weights of test_resnet.r160_in1k: downloaded when the run begins" in out
    assert "initial_sha256" not in out
    assert not (tmp_path / "out").exists()
