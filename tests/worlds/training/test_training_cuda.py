"""The trainer on a GPU: `make test-gpu`."""

import pytest

from tests.worlds.small_runs import small, small_data
from worlds.training.train import train

pytestmark = pytest.mark.gpu
NET = {"arch": "myrtle5", "options": {"width": 16}, "steps": 30, "log": 10}


@pytest.fixture(scope="module")
def data():
    return small_data()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_a_captured_step_trains_as_an_eager_one(data, tmp_path, optimizer):
    momentum = 0.9 if optimizer == "sgd" else 0.0
    config = small(**NET, optimizer=optimizer, momentum=momentum, learning_rate=1e-3)
    graph, eager = (
        train(config, data, tmp_path / str(graph), device="cuda", graph=graph)
        for graph in (True, False)
    )
    for one, other in zip(graph.rows, eager.rows, strict=True):
        assert one["test_loss"] == pytest.approx(other["test_loss"], rel=1e-2)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_lower_precisions_learn_what_float32_learns(data, tmp_path, precision):
    runs = [
        train(small(**NET, precision=p), data, tmp_path / p, device="cuda")
        for p in ("fp32", precision)
    ]
    first, last = runs[1].rows[0]["test_loss"], runs[1].final["test_loss"]
    assert last < first
    assert last == pytest.approx(runs[0].final["test_loss"], rel=0.2)


def test_a_run_left_on_a_gpu_goes_on_there(data, tmp_path):
    config = small(**NET)
    whole = train(config, data, tmp_path / "whole", device="cuda")

    def leave(updates):
        if updates == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, data, tmp_path / "broken", device="cuda", on_step=leave)
    resumed = train(config, data, tmp_path / "broken", device="cuda")
    assert [row["step"] for row in resumed.rows] == [row["step"] for row in whole.rows]
    assert resumed.final["test_loss"] == pytest.approx(whole.final["test_loss"], rel=1e-2)
