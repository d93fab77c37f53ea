"""The trainer: that its worlds differ in the loader alone, and that nothing is lost or forked."""

import io
import json
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.processes import Forked
from tests.worlds.small_runs import SMALL, numbers, small, small_data
from worlds import ArrayStore, IdealLoader
from worlds.models import create
from worlds.report.analysis import endings
from worlds.training.build import Data, training_seed
from worlds.training.metrics import cross_entropy
from worlds.training.run_folder import find_runs, read_run
from worlds.training.stepper import NotFinite
from worlds.training.train import train

DATA = small_data()


def weights(folder):
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    return state["stepper"]["model"]


def equal_weights(one, other):
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_worlds_are_equal_to_the_bit_when_n_is_the_pool_and_nothing_is_used_twice(tmp_path):
    whole = small(n=1200, steps=1200 // 32, arch="myrtle5", options={"width": 2}, log=4)
    real = train(whole, DATA, tmp_path / "real")
    ideal = train(replace(whole, world="ideal"), DATA, tmp_path / "ideal")
    assert len(real.rows) == 10
    for one, other in zip(real.rows, ideal.rows, strict=True):
        for name in ("test_loss", "test_error", "test_soft_error"):
            assert one[name] == other[name]
    assert equal_weights(tmp_path / "real", tmp_path / "ideal")


def test_the_worlds_part_once_samples_are_used_again(tmp_path):
    real = train(SMALL, DATA, tmp_path / "real")
    ideal = train(replace(SMALL, world="ideal"), DATA, tmp_path / "ideal")
    assert real.rows[0]["test_loss"] != ideal.rows[0]["test_loss"]  # other samples from the start
    assert set(ideal.rows[0]) < set(real.rows[0])  # the Ideal World has no train error


def test_the_trainer_is_plain_sgd_on_the_loaders_batches(tmp_path):
    config = small(world="ideal", steps=5)
    train(config, DATA, tmp_path)
    torch.manual_seed(training_seed(config))
    model = create("mlp_3x16", 10, 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    loader = IdealLoader(DATA.train, 32, 5, augment="crop+flip")
    for step, (x, y) in enumerate(loader):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + np.cos(np.pi * step / 5)) / 2
        optimizer.zero_grad()
        cross_entropy(model(x), y).mean().backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights(tmp_path)[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "nesterov"},
        {"optimizer": "adam", "momentum": 0.0, "learning_rate": 1e-3},
        {"optimizer": "adamw", "momentum": 0.0, "learning_rate": 1e-3, "weight_decay": 0.1},
        {"optimizer": "rmsprop", "momentum": 0.5, "learning_rate": 1e-4},
        {"loss": "mse", "learning_rate": 2e-3},
        {"precision": "bf16"},
        {"schedule": "3step"},
        {
            "arch": "dconv",
            "options": {"base": 4},
            "learning_rate": 0.01,
        },  # dropout: torch's generator is part of the state
        {"world": "ideal"},
        {"label_noise": "symmetric:0.4", "augment": None},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_a_run_left_in_the_middle_and_taken_up_again_equals_the_unbroken_one(tmp_path, changes):
    config = small(steps=20, **changes)
    whole = train(config, DATA, tmp_path / "whole")

    def leave(updates):
        if updates == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, DATA, tmp_path / "broken", on_step=leave)
    assert not read_run(tmp_path / "broken").finished
    resumed = train(config, DATA, tmp_path / "broken")
    assert resumed.finished
    assert numbers(resumed) == numbers(whole)
    assert equal_weights(tmp_path / "whole", tmp_path / "broken")


def slow_run(folder):
    """A run that takes some seconds and saves at every step."""
    config = small(steps=120)
    train(config, DATA, folder, checkpoint_seconds=0, on_step=lambda _: time.sleep(0.005))


def test_a_killed_run_ends_equal_to_the_bit(tmp_path):
    train(small(steps=120), DATA, tmp_path / "whole")
    for enough in (2, 8):
        process = Forked(slow_run, tmp_path / "killed")
        metrics = tmp_path / "killed" / "metrics.jsonl"
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < enough:
            time.sleep(0.005)
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    slow_run(tmp_path / "killed")
    whole, killed = read_run(tmp_path / "whole"), read_run(tmp_path / "killed")
    assert numbers(killed) == numbers(whole)
    assert equal_weights(tmp_path / "whole", tmp_path / "killed")
    assert killed.summary.updates == 120
    assert not list((tmp_path / "killed").glob("*.tmp"))


def test_a_finished_run_is_read_not_trained_again(tmp_path):
    train(SMALL, DATA, tmp_path)
    before = (tmp_path / "checkpoint.pt").stat().st_mtime_ns
    again = train(SMALL, DATA, tmp_path, on_step=lambda _: pytest.fail("trained again"))
    assert again.finished
    assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns == before


def test_trials_differ_in_weights_and_samples_and_repeat_themselves(tmp_path):
    runs = [train(small(trial=t), DATA, tmp_path / f"{k}") for k, t in enumerate((0, 1, 0))]
    assert numbers(runs[0]) == numbers(runs[2]) != numbers(runs[1])


def test_training_leaves_torchs_generator_as_it_was(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(small(steps=2), DATA, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_a_row_holds_the_metrics_of_the_saved_weights(tmp_path):
    run = train(small(augment=None, train_eval=None), DATA, tmp_path)
    model = create("mlp_3x16", 10, 32)
    model.load_state_dict(weights(tmp_path))
    model.eval()
    with torch.no_grad():
        images = torch.from_numpy(DATA.test.gather(range(150))).permute(0, 3, 1, 2)
        logits = model((2.0 * images - 255) / 255)
    labels = torch.from_numpy(DATA.test.labels[:150])
    p = logits.softmax(1)[torch.arange(150), labels]
    assert run.final["step"] == 29
    assert run.final["test_soft_error"] == pytest.approx(float((1 - p).mean()), abs=1e-6)
    assert run.final["test_error"] == pytest.approx(
        float((logits.argmax(1) != labels).double().mean())
    )
    assert run.final["train_error"] == run.final["train_clean_error"]


def test_label_noise_is_on_the_train_labels_alone_and_told_apart(tmp_path):
    memorized = small(
        label_noise="symmetric:0.5", augment=None, n=40, steps=200, train_eval=None, log=100
    )
    row = train(memorized, DATA, tmp_path).final
    assert row["train_error"] == 0  # it knows the labels it was given by heart
    assert row["train_corrupted_error"] == 0
    assert row["train_corrupted_true_error"] == 1
    assert 0.2 < row["train_true_error"] < 0.8
    assert row["test_error"] < 1


def test_the_share_of_a_noisy_class_called_its_partner_is_measured(tmp_path):
    learned = small(n=1200, steps=300, learning_rate=0.02, log=299, label_noise="pairs:1.0:9>0")
    row = train(learned, DATA, tmp_path).final
    assert row["test_partner_share"] > 0.5


def test_stop_at_train_error_ends_both_worlds_at_t0_of_the_real_one(tmp_path):
    config = small(
        n=40, augment=None, steps=400, unit=400, log=10, stop="train_error", train_eval=None
    )
    real = train(config, DATA, tmp_path / "real")
    assert real.summary.ended == "train_error"
    assert real.summary.t0 == real.stopping_step == real.final["step"] < 399
    ideal_config = replace(config, world="ideal", batch_size=2)
    ideal = train(ideal_config, DATA, tmp_path / "ideal", last_step=real.stopping_step)
    assert (ideal.summary.ended, ideal.final["step"]) == ("asked", real.stopping_step)
    (end,) = endings([real], [ideal])
    assert end.step == real.stopping_step
    longer = train(ideal_config, DATA, tmp_path / "ideal")
    assert (longer.summary.ended, longer.final["step"]) == ("schedule", 399)


def test_patience_ends_a_run_that_does_not_get_better(tmp_path):
    config = small(steps=200, learning_rate=1e-9, log=5, stop="patience", patience=3)
    run = train(config, DATA, tmp_path)
    assert run.summary.ended == "patience"
    assert run.summary.updates < 200
    curve = [row["test_soft_error"] for row in run.rows]
    assert len(curve) - 1 - curve.index(min(curve)) == 3


def test_worlds_are_compared_at_t0_or_at_the_end(tmp_path):
    config = small(arch="mlp_3x64", n=20, augment=None, steps=140, batch_size=8, unit=200)
    real = train(config, DATA, tmp_path / "real")
    ideal = train(replace(config, world="ideal"), DATA, tmp_path / "ideal")
    (found,) = endings([real], [ideal])
    assert found.reached
    assert found.step == real.stopping_step < 139
    at = {row["step"]: row["test_soft_error"] for row in ideal.rows}[found.step]
    assert found.gap == found.real - at


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    config = small(learning_rate=1e18, loss="mse", log=1, arch="mlp_3x16")
    with pytest.raises(NotFinite) as caught:
        train(config, DATA, tmp_path, checkpoint_seconds=0)
    run = read_run(tmp_path)
    assert run.summary.ended == "not_finite"
    assert run.summary.bad_step == caught.value.step
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["updates"] <= caught.value.step
    assert len(run.rows) <= caught.value.step


def other_data():
    return small_data(pool=1300)


@pytest.mark.parametrize(
    ("config", "data", "message"),
    [
        (small(n=301), DATA, r"holds another run \(n = 300 there, 301 here\)"),
        (small(arch="mlp_3x17"), DATA, "arch = 'mlp_3x16' there, 'mlp_3x17' here"),
        (SMALL, other_data(), "pool = 1200 there, 1300 here"),
    ],
)
def test_a_folder_with_another_run_is_refused_by_field(tmp_path, config, data, message):
    train(small(steps=30), DATA, tmp_path)
    with pytest.raises(ValueError, match=message):
        train(config, data, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "preresnt18"}, "did you mean preresnet18"),
        ({"arch": "sconv33"}, "takes images of 224 px"),
        ({"n": 1201}, "n must be between 1 and the 1,200 samples at hand"),
        ({"world": "ideal", "steps": 38}, "the largest possible is 37 steps"),
        ({"world": "ideal", "disjoint": True, "steps": 29}, "the largest possible is 28 steps"),
        ({"options": {"depth": 3}}, "no option depth"),
    ],
)
def test_what_the_data_cannot_feed_is_refused_and_leaves_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(small(**changes), DATA, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_and_one_of_another_run_are_refused(tmp_path):
    def leave(updates):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SMALL, DATA, tmp_path, on_step=leave)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(good[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        train(SMALL, DATA, tmp_path)
    state = torch.load(io.BytesIO(good), weights_only=True)
    torch.save(state | {"fingerprint": "another"}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="belongs to another run"):
        train(SMALL, DATA, tmp_path)


def test_lost_rows_are_told_and_not_taken_for_a_shorter_run(tmp_path):
    train(SMALL, DATA, tmp_path)
    metrics, whole = tmp_path / "metrics.jsonl", (tmp_path / "metrics.jsonl").read_bytes()
    for _ in ("finished", "not finished"):
        for kept in (None, b"", whole[: whole.index(b"\n") + 1]):
            metrics.unlink(missing_ok=True)
            if kept is not None:
                metrics.write_bytes(kept)
            with pytest.raises(ValueError, match=r"rows are lost; delete .* to begin again"):
                train(SMALL, DATA, tmp_path)
        (tmp_path / "summary.json").unlink(missing_ok=True)
    metrics.write_bytes(whole + b'{"step": 30, "upd')  # behind the checkpoint: measured again
    assert train(SMALL, DATA, tmp_path).summary.ended == "schedule"
    assert metrics.read_bytes() == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": ArrayStore(np.zeros((9, 4, 4, 3), np.uint8), range(9))}, "as Data.of"),
        ({"last_step": 30}, r"last_step must be in \[0, 30\), the steps, got 30"),
        ({"last_step": -1}, "last_step must be in"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds must be 0 or more, got nan"),
        ({"last_step": 4.5}, "last_step must be an integer, got 4.5"),
        ({"device": "gpu"}, 'device must be "cpu", "cuda" or "cuda:K", got \'gpu\''),
    ],
)
def test_what_train_cannot_take_is_refused_and_leaves_nothing(tmp_path, options, message):
    given = {"config": SMALL, "data": DATA, "folder": tmp_path / "run"} | options
    with pytest.raises(ValueError, match=message):
        train(**given)
    assert not (tmp_path / "run").exists()


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    def second(updates):
        with pytest.raises(ValueError, match="another process is training"):
            train(SMALL, DATA, tmp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SMALL, DATA, tmp_path, on_step=second)


def test_test_sets_of_other_classes_are_refused():
    pixels = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    store = ArrayStore(pixels, np.arange(4), pixels, np.arange(4))
    with pytest.raises(ValueError, match="the test split has 10 classes, the training split 4"):
        Data.of(store, DATA.test)
    with pytest.raises(ValueError, match="no test split"):
        Data.of(ArrayStore(pixels, np.arange(4)))


def test_runs_are_found_and_a_row_cut_off_in_the_writing_is_left_out(tmp_path):
    train(small(steps=9), DATA, tmp_path / "a" / "real-0")
    train(small(steps=9, world="ideal"), DATA, tmp_path / "a" / "ideal-0")
    with (tmp_path / "a" / "real-0" / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"step": 99, "upd')
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text(json.dumps({"something": "else"}))
    runs = find_runs(tmp_path)
    assert [run.folder.name for run in runs] == ["ideal-0", "real-0"]
    assert [row["step"] for row in runs[1].rows] == [0, 8]


def test_batch_norm_statistics_are_not_moved_by_measuring(tmp_path):
    config = small(arch="myrtle5", options={"width": 4}, steps=6)
    train(replace(config, log=1), DATA, tmp_path / "often")
    train(replace(config, log=6), DATA, tmp_path / "seldom")
    assert any(isinstance(m, nn.BatchNorm2d) for m in create("myrtle5", 10, 32).modules())
    assert equal_weights(tmp_path / "often", tmp_path / "seldom")
