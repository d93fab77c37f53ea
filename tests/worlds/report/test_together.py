"""What runs say together, against definitions: CKA by kernels, ensembles and agreement by hand."""

from dataclasses import replace

import numpy as np
import pytest

from tests.worlds.made_runs import config, write_run
from tests.worlds.small_runs import small, small_data
from worlds.experiments.spec import QUANTITIES, Experiment, Group
from worlds.report.analysis import endings
from worlds.report.collect import collect
from worlds.report.measure import measure
from worlds.report.together import agreements, cka, matched_calibration
from worlds.training.run_folder import PREDICTIONS
from worlds.training.train import train


def write_predictions(root, name, called, sure=3.0, features=None):
    """A run that calls test image i the class called[i]; the targets are all 0."""
    logits = np.zeros((1, len(called), 3), np.float16)
    logits[0, np.arange(len(called)), called] = sure
    run = write_run(root / name, config(compared=len(called)), lambda step: {})
    more = {} if features is None else {"features": features}
    zeros = np.zeros(len(called), np.int64)
    arrays = {"steps": zeros[:1], "indices": zeros, "targets": zeros, "logits": logits}
    np.savez(run.folder / PREDICTIONS, **arrays, **more)
    return run


def test_cka_is_the_normalized_hsic_of_linear_kernels():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(40, 8)) + 2
    center = np.eye(40) - 1 / 40

    def hsic(a, b):
        return np.trace(a @ a.T @ center @ b @ b.T @ center)

    assert cka(x, y) == pytest.approx(hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y)))
    turned = x @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert cka(x, 3 * turned + 1) == pytest.approx(1)  # a rotation, a scale and a shift
    assert cka(np.ones((40, 2)), x) == 0  # features that never change are like no others


def test_networks_of_neighboring_trials_are_compared(tmp_path):
    called = {"real": [[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]], "ideal": [[0, 0, 0, 2]] * 3}
    real, ideal = (
        [write_predictions(tmp_path, f"{world}{k}", row) for k, row in enumerate(rows)]
        for world, rows in called.items()
    )
    found = agreements(real, ideal)
    assert found["agreement_real"] == [0.75, 0.25, 0.5]  # 0 and 1, 1 and 2, 2 and 0
    assert found["agreement_ideal"] == [1.0, 1.0, 1.0]
    assert found["agreement_between"] == [0.5, 0.25, 0.75]
    assert found["agreement_gap"] == pytest.approx([-0.25, 0, 0.25])
    assert "cka_real" not in found  # no features were kept
    assert "agreement_real" not in agreements(real[:1], ideal)


def test_an_ensemble_leaves_one_network_out_and_averages_softmax(tmp_path):
    rows = ([0, 1, 0, 1], [0, 0, 1, 1], [1, 0, 0, 1])  # each wrong in 2 of 4, all in the last
    runs = [write_predictions(tmp_path, str(k), row, sure=0.7) for k, row in enumerate(rows)]
    surer = write_predictions(tmp_path, "surer", [0, 0, 0, 0], sure=9.0)
    found = agreements([*runs, surer], [])
    assert found["member_real"] == [0.5, 0.5, 0.5, 0.0]
    assert found["ensemble_real"] == [0.0, 0.0, 0.0, 0.25]  # one sure vote outweighs two
    assert found["gain_real"] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.25])


def test_calibration_is_compared_at_equal_soft_error(tmp_path):
    """The Ideal World's calibration error is half its soft-error, the Real World's 0.1 more."""

    def row(world):
        return lambda step: {
            "test_soft_error": (soft := 0.9 - step / (1_000 if world == "real" else 500)),
            "test_ece": soft / 2 + 0.1 * (world == "real"),
        }

    real, ideal = (
        [write_run(tmp_path / world, config(world=world), row(world))]
        for world in ("real", "ideal")
    )
    ends = endings(real, ideal)
    assert matched_calibration(real, ideal, ends) == pytest.approx([0.1])


def test_compared_runs_are_measured_together(tmp_path):
    """Real runs at tiny size: what the report says is what their predictions say."""
    data, own = small_data(), small(compared=120)
    runs = {
        world: [
            train(replace(own, world=world, trial=k), data, tmp_path / f"{world}{k}")
            for k in range(2)
        ]
        for world in ("real", "ideal")
    }
    group = Group("net", *(tuple(run.config for run in own) for own in runs.values()))
    made = Experiment("fig", "A figure", "curves", (group,), metric="ece")
    (one,) = measure(made, collect(made, [*runs["real"], *runs["ideal"]]))
    a, b = (run.predictions for run in runs["real"])
    same = (a.logits[-1].argmax(1) == b.logits[-1].argmax(1)).mean()
    assert one.values["agreement_real"] == [same, same]
    assert one.get("cka_real") == pytest.approx(cka(a.features, b.features))
    assert one.get("final_real") == pytest.approx(
        np.median([run.final["test_ece"] for run in runs["real"]])
    )
    assert {"matched_ece", "gap", "ensemble_ideal", "cka_gap"} <= set(one.values)
    names = {name.rpartition(":")[2] for name in one.values}
    assert names <= set(QUANTITIES)
