"""The trainer on a GPU: `make test-gpu`."""

import numpy as np
import pytest
import torch

from tests.worlds.small_runs import small, small_data
from worlds import ArrayStore
from worlds.loaders import cuda
from worlds.models import create
from worlds.training.evaluation import evaluation_batch
from worlds.training.stepper import Stepper
from worlds.training.train import train

pytestmark = pytest.mark.gpu
OPTIMIZERS = ["sgd", "nesterov", "adam", "adamw", "rmsprop"]
NET = {"arch": "myrtle5", "options": {"width": 16}, "steps": 30, "log": 10}


@pytest.fixture(scope="module")
def data():
    return small_data()


def config_of(optimizer, **changes):
    momentum = 0.9 if optimizer in ("sgd", "nesterov") else 0.0
    return small(**NET, optimizer=optimizer, momentum=momentum, learning_rate=1e-3, **changes)


def stop_at(last):
    def leave(updates):
        if updates == last:
            raise KeyboardInterrupt

    return leave


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_every_gpu_captures_and_trains(data, tmp_path, device):
    if int(device[-1]) >= torch.cuda.device_count():
        pytest.skip("needs a second GPU")
    run = train(config_of("sgd"), data, tmp_path / "run", device=device)
    assert run.final["test_loss"] < run.rows[0]["test_loss"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_replay_of_a_graph_moves_the_weights(optimizer):
    config, device = config_of(optimizer), torch.device("cuda")
    torch.manual_seed(0)
    model = create("myrtle5", 10, 32, width=16).to(device, memory_format=torch.channels_last)
    stepper = Stepper(config, model, device, graph=True)
    x, y = torch.randn(32, 3, 32, 32, device=device), torch.arange(32, device=device) % 10
    for step in range(8):
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        stepper.step(x, y, 1e-3)
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert not torch.equal(before, after), f"step {step}"
    assert stepper._captured != stepper._update


@pytest.mark.parametrize("turn", range(20))
def test_a_capture_takes_no_harm_from_threads_that_load(data, tmp_path, turn, monkeypatch):
    monkeypatch.setattr(cuda, "_fits", lambda *arguments: False)
    expected = train(config_of("sgd"), data, tmp_path / "eager", device="cuda", graph=False)
    run = train(config_of("sgd"), data, tmp_path / "graph", device="cuda")
    assert run.final["test_loss"] == pytest.approx(expected.final["test_loss"], rel=1e-2)


WAYS = {"eager": ("cuda", False), "graph": ("cuda", True), "cpu": ("cpu", False)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("ways", ["eager graph eager", "graph eager graph", "graph cpu graph"])
def test_a_run_goes_from_one_way_of_stepping_to_another(data, tmp_path, optimizer, ways):
    config = config_of(optimizer)
    whole = train(config, data, tmp_path / "whole", device="cuda", graph=False)
    for way, last in zip(ways.split(), (8, 19, None), strict=True):
        device, graph = WAYS[way]
        options = {"device": device, "graph": graph}
        if last is None:
            run = train(config, data, tmp_path / "broken", **options)
            break
        with pytest.raises(KeyboardInterrupt):
            train(config, data, tmp_path / "broken", on_step=stop_at(last), **options)
    assert run.final["test_loss"] == pytest.approx(whole.final["test_loss"], rel=2e-2)


def test_a_second_run_of_a_process_is_resident_too(data, tmp_path):
    for name in ("one", "two"):
        train(config_of("sgd", world="ideal"), data, tmp_path / name, device="cuda")
        held = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        free, _ = torch.cuda.mem_get_info()
        assert cuda.free_memory(torch.device("cuda")) >= free + held


@pytest.mark.parametrize("arch", ["vgg16", "resnet50", "densenet121"])
def test_the_first_log_point_of_photographs_fits_24_gb(arch):
    device = torch.device("cuda")
    pool = ArrayStore(np.zeros((1, 224, 224, 3), np.uint8), [0]).train
    model = create(arch, 10, 224).to(device, memory_format=torch.channels_last).eval()
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        model(torch.empty(evaluation_batch(device, pool), 3, 224, 224, device=device))
    assert torch.cuda.max_memory_allocated() < 12e9


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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_graph_and_a_folded_copy_say_what_eager_steps_do(data, tmp_path, precision):
    config = small(**NET, precision=precision)
    runs = [
        train(config, data, tmp_path / str(graph), device="cuda", graph=graph)
        for graph in (False, "compiled")
    ]
    losses = [run.final["test_loss"] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=5e-2)


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

    with pytest.raises(KeyboardInterrupt):
        train(config, data, tmp_path / "broken", device="cuda", on_step=stop_at(17))
    resumed = train(config, data, tmp_path / "broken", device="cuda")
    assert [row["step"] for row in resumed.rows] == [row["step"] for row in whole.rows]
    assert resumed.final["test_loss"] == pytest.approx(whole.final["test_loss"], rel=1e-2)
