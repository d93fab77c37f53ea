"""compare: anybody's model, optimizer, loss and data in both worlds, in ordinary run folders."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from tests.worlds.small_runs import numbers
from worlds import ArrayStore, Comparison, compare, find_runs
from worlds.commands.report import main as report

RNG = np.random.default_rng(0)


def arrays(count, classes=4):
    labels = RNG.integers(0, classes, count)
    noise = RNG.integers(0, 60, (count, 8, 8, 3))
    return (labels[:, None, None, None] * 40 + noise).astype(np.uint8), labels


STORE = ArrayStore(*arrays(400), *arrays(60))
SMALL = {"n": 40, "batch_size": 10, "steps": 40, "quiet": True}


def net(outputs=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, outputs))


class Points(Dataset):
    """Noisy points of a line, or of two classes."""

    def __init__(self, count, labels=False, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, 3, generator=generator)
        self.y = self.x.sum(1, keepdim=True)
        if labels:
            self.y = (self.y[:, 0] > 0).long()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


def line(outputs=1):
    return nn.Linear(3, outputs)


def first_order(step, steps):
    return 1 - step / steps


def test_a_function_and_a_store_are_compared_in_four_worlds(tmp_path, capsys):
    worlds = ("real", "ideal", "reuse:5", "bootstrap")
    found = compare(net, STORE, lr=0.05, worlds=worlds, trials=2, out=tmp_path, **SMALL)
    assert found.worlds == ("real", "bootstrap", "reuse:5", "ideal")
    assert len(found.runs) == 8
    assert [run.config.n for run in found.of_world("reuse:5")] == [80, 80]  # 400 uses, five each
    assert {run.config.arch for run in found.runs} == {f"{__name__}:net"}
    spread = found.bootstrap_error
    assert len(spread.values) == 2
    assert spread.low <= spread.median <= spread.high
    assert f"{spread.median:+.4f}" in str(found)
    assert len(found.to_frame()) == sum(len(run.rows) for run in found.runs)
    assert "<table>" in found._repr_html_()
    assert len(found.plot().lines) >= 5
    assert report([str(tmp_path), "--out", str(tmp_path / "report")]) == 0
    assert "reuse:5" in (tmp_path / "report" / "index.html").read_text()
    again = Comparison.of(tmp_path)
    assert str(again) == str(found)


def test_a_second_call_goes_on_with_what_is_there(tmp_path):
    whole = compare(net, STORE, out=tmp_path / "whole", worlds=("real",), **SMALL)
    calls = 0

    def breaking(step, steps):
        nonlocal calls
        calls += 1
        if calls == 25:
            raise KeyboardInterrupt
        return 1.0

    options = {"worlds": ("real",), "out": tmp_path / "cut", "checkpoint_seconds": 0.0, **SMALL}
    with pytest.raises(KeyboardInterrupt):
        compare(net, STORE, schedule=breaking, **options)
    made = [row["step"] for run in find_runs(tmp_path / "cut") for row in run.rows]
    assert made
    assert max(made) < 39
    cut = compare(net, STORE, schedule=breaking, **options)
    straight = compare(
        net, STORE, schedule="constant", out=tmp_path / "straight", worlds=("real",), **SMALL
    )
    scores = [[row["test_loss"] for row in run.runs[0].rows] for run in (cut, straight)]
    assert scores[0] == scores[1]
    again = compare(net, STORE, out=tmp_path / "whole", worlds=("real",), **SMALL)
    assert numbers(again.runs[0]) == numbers(whole.runs[0])


def test_a_regression_on_a_dataset_is_compared_in_its_loss():
    found = compare(
        line,
        Points(600),
        test=Points(50, seed=1),
        loss=nn.functional.mse_loss,
        optimizer=partial(torch.optim.Adam, betas=(0.9, 0.99)),
        lr=0.05,
        schedule=first_order,
        metrics={"mae": nn.functional.l1_loss},
        **SMALL,
    )
    assert found.metric == "loss"
    final = found.runs[0].final
    assert final["test_loss"] < found.runs[0].rows[0]["test_loss"] / 2
    assert final["test_mae"] > 0
    assert final["learning_rate"] == pytest.approx(0.05 / 40)
    assert found.t0 is None
    assert found.runs[0].config.optimizer.endswith(":Adam")


def test_labels_of_a_dataset_have_an_error_and_a_t0():
    found = compare(
        partial(line, 2), Points(600, labels=True), test=Points(50, labels=True, seed=1), **SMALL
    )
    assert found.metric == "soft_error"
    assert {"test_error", "train_error"} <= set(found.runs[0].final)


def test_a_file_given_as_test_is_measured_on_whatever_its_only_split_is_called(tmp_path):
    for name, count in (("a", 400), ("b", 80)):
        images, labels = arrays(count)
        np.savez(tmp_path / f"{name}.npz", X=images, Y=labels)
    a, b = (str(tmp_path / name) for name in ("a.npz", "b.npz"))
    found = compare(partial(net, 10), a, test=b, **SMALL)
    assert found.bootstrap_error is not None


def test_names_of_architectures_are_taken_too():
    found = compare("mlp_1x16", STORE, worlds=("real",), **SMALL)
    assert found.runs[0].config.arch == "mlp_1x16"


class Endless:
    def __getitem__(self, index):
        return index


class Mixed(Points):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return (x.double() if index % 2 else x), y


class Half(Points):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x.half(), y


class Outside(Points):
    def __getitem__(self, index):
        return self.x[index], 7


ONE = line()
LINE = {"test": Points(50), "loss": "mse"}
LABELS = {"test": Points(50, labels=True)}

BAD = [
    (net(), STORE, {}, "Sequential, already built: give a function without arguments"),
    (lambda: ONE, Points(600), LINE, "returns the same module twice"),
    (lambda: "net", STORE, {}, "must build a torch.nn.Module, got"),
    (partial(net, 5), STORE, {}, "gives 5 outputs, the data has 4 classes"),
    (line, STORE, {}, r"does not take a batch \(10, 3, 8, 8\): "),
    ("resnet99", STORE, {}, "unknown architecture 'resnet99'"),
    (net, Endless(), LINE, "Endless has no length or no items"),
    (net, "nowhere", {}, "nowhere does not exist"),
    (line, Points(600), {"loss": "mse"}, "no test split: give test, another dataset"),
    (line, Points(600), {**LINE, "loss": lambda x, y: (x - y) ** 2}, "loss must be one number"),
    (line, Points(600), {**LINE, "loss": "hinge"}, "loss must be one of cross_entropy, mse"),
    (line, Points(600), LINE | {"loss": "cross_entropy"}, "cross_entropy takes labels"),
    (line, Points(600), {**LINE, "metrics": {"r": lambda x, y: "?"}}, "metric r must be one num"),
    (line, Points(600), {**LINE, "metrics": {"r": 3}}, "metric r must be a function"),
    (line, Points(600), {**LINE, "optimizer": lambda p, lr: None}, "must give a torch optimizer"),
    (line, Points(600), {**LINE, "optimizer": 3}, "optimizer must be a name or a function, got 3"),
    (line, Mixed(600), LINE, "Mixed mixes torch.float32 and torch.float64 in one batch"),
    (line, Points(600), {**LINE, "test": Half(50)}, "alike, got torch.float32 .* torch.float16"),
    (line, Points(300), LINE, "40 steps of 10 need 400 samples.*largest possible is 30 steps"),
    (partial(line, 2), Outside(600), LABELS, r"labels must be in \[0, 2\).* got 7 to 7"),
    (net, STORE, {"worlds": "real"}, "worlds must be several"),
    (net, STORE, {"worlds": ("dream",)}, "world must be one of real, ideal, bootstrap, reuse:K"),
    (line, Points(600), {**LINE, "augment": "flip"}, "hands out its samples as they are"),
    (net, ArrayStore(*arrays(400)), {}, "has no test split"),
]


@pytest.mark.parametrize("model, data, options, says", BAD, ids=[case[-1] for case in BAD])
def test_what_does_not_fit_is_told_in_one_line_before_training(
    model, data, options, says, tmp_path
):
    with pytest.raises(ValueError, match=says) as caught:
        compare(model, data, out=tmp_path, **options, **SMALL)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("metrics.jsonl"))
