"""The captured step without a GPU: recorders in place of torch.cuda, and state that goes between
devices.
"""

from contextlib import contextmanager

import pytest
import torch

from tests.worlds.small_runs import small
from worlds.runtime import selfcheck
from worlds.training import stepper as module
from worlds.training.distributed import ALONE
from worlds.training.parts import OWN_NOTHING
from worlds.training.stepper import Stepper, graph_trains

CPU, SECOND = torch.device("cpu"), torch.device("cuda:1")
OPTIMIZERS = ["sgd", "nesterov", "adam", "adamw", "rmsprop"]
BATCH = torch.randn(8, 6), torch.arange(8) % 3


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEP_BOOTSTRAP_CACHE", str(tmp_path))
    monkeypatch.setattr(selfcheck, "_known", {})


def config_of(optimizer):
    momentum = 0.9 if optimizer in ("sgd", "nesterov") else 0.0
    return small(optimizer=optimizer, momentum=momentum, learning_rate=0.01)


def make_stepper(optimizer="sgd"):
    torch.manual_seed(0)
    return Stepper(config_of(optimizer), torch.nn.Linear(6, 3), CPU)


class Recorder:
    """Stands for torch.cuda: notes streams and captures, and runs nothing on a device."""

    def __init__(self, monkeypatch, fails=False):
        self.graphs, self.streams, self.synchronized, self.fails = [], [], [], fails
        self.now = "the default stream"
        cuda = torch.cuda
        monkeypatch.setattr(cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(cuda, "graph", self.graph)
        monkeypatch.setattr(cuda, "stream", self.stream)
        monkeypatch.setattr(cuda, "device", self.stream)
        monkeypatch.setattr(cuda, "current_stream", lambda device: self.now)
        monkeypatch.setattr(cuda, "synchronize", self.synchronized.append)

    @contextmanager
    def stream(self, stream):
        before, self.now = self.now, stream
        self.streams.append(stream)
        try:
            yield
        finally:
            self.now = before

    @contextmanager
    def graph(self, graph, **options):
        self.graphs.append(options)
        self.now = options["stream"]  # as torch leaves it where a capture fails
        yield
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")

    def replay(self):
        pass


def test_a_capture_takes_the_device_and_stream_of_the_run(monkeypatch):
    recorder, stepper = Recorder(monkeypatch), make_stepper()
    stepper.device, stepper._side = SECOND, "a stream of cuda:1"
    stepper._capture(*BATCH)
    expected = {"stream": "a stream of cuda:1", "capture_error_mode": "thread_local"}
    assert recorder.graphs == [expected]
    assert recorder.streams[0] == SECOND


def test_the_eager_steps_before_a_capture_take_its_stream(monkeypatch):
    class Stream(str):
        def wait_stream(self, other):
            waits.append((self, other))

    waits, recorder, stepper = [], Recorder(monkeypatch), make_stepper()
    recorder.now, stepper._side = Stream("default"), Stream("side")
    stepper._warmup_step(*BATCH)
    assert waits == [("side", "default"), ("default", "side")]
    assert recorder.streams == ["side"]


def test_a_failed_capture_is_said_once_and_training_goes_on(monkeypatch):
    recorder, stepper, eager = Recorder(monkeypatch, fails=True), make_stepper(), make_stepper()
    stepper.device, stepper._side, stepper._eager_left = SECOND, "side", 0
    stepper._rate = torch.zeros(())
    stepper.optimizer.param_groups[0]["lr"] = 0.1
    with pytest.warns(RuntimeWarning, match=r"on cuda:1: .* capturing; .* without a graph"):
        stepper._captured = stepper._capture(*BATCH) or stepper._update
    assert recorder.synchronized == [SECOND]
    assert recorder.now == "the default stream"
    # The recorder ran the failed capture's step on the CPU: one more than a device would have made.
    for _ in range(3):
        eager.step(*BATCH, 0.1)
    for _ in range(2):
        stepper._captured(*BATCH)
    assert torch.allclose(stepper.model.weight, eager.model.weight)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_checkpoint_of_a_graph_goes_on_without_one_and_back(optimizer):
    plain, graphed = make_stepper(optimizer), make_stepper(optimizer)
    for stepper in (plain, graphed):
        stepper.step(*BATCH, 0.01)
    rate = torch.tensor(0.01)
    for group in graphed.optimizer.param_groups:  # as a run with a graph holds them
        group |= {"lr": rate, "capturable": True} if "capturable" in group else {"lr": rate}
    saved = graphed.state_dict()
    assert [group["lr"] for group in saved["optimizer"]["param_groups"]] == [pytest.approx(0.01)]
    resumed = make_stepper(optimizer)
    flags = [set(group.items()) - {("lr", group["lr"])} for group in bare(plain)]
    resumed.load_state_dict(saved)
    assert [set(group.items()) - {("lr", group["lr"])} for group in bare(resumed)] == flags
    resumed.step(*BATCH, 0.01)
    plain.step(*BATCH, 0.01)
    assert torch.equal(resumed.model.weight, plain.model.weight)
    # And back: the graph's own rate and flags stay when a plain checkpoint is read.
    graphed.load_state_dict(plain.state_dict())
    group = graphed.optimizer.param_groups[0]
    assert group["lr"] is rate
    assert group.get("capturable", True) is True


def bare(stepper):
    return [{k: v for k, v in g.items() if k != "params"} for g in stepper.optimizer.param_groups]


def on_a_gpu(monkeypatch):
    """Let the CPU capture; returns what is compiled."""
    compiled = []
    monkeypatch.setattr(module, "can_capture", lambda *arguments: True)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: "side")
    monkeypatch.setattr(module.Stepper, "_warmup_step", module.Stepper._update)
    monkeypatch.setattr(module.Stepper, "_capture", lambda self, x, y: self._update)

    def compile_network(network):
        compiled.append(network)
        return lambda x: network(x) * (1 + 1e-4)

    monkeypatch.setattr(torch, "compile", compile_network)
    return compiled


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_checkpoint_of_a_channels_last_network_goes_on_in_another_layout(optimizer):
    """As from a GPU to a CPU: fused optimizers walk through memory, whatever its order means."""
    x, y = torch.randn(8, 4, 5, 5), torch.arange(8) % 3

    def made(layout):
        torch.manual_seed(0)
        layers = torch.nn.Conv2d(4, 8, 3), torch.nn.Flatten(), torch.nn.Linear(72, 3)
        network = torch.nn.Sequential(*layers).to(memory_format=layout)
        return Stepper(config_of(optimizer), network, CPU)

    left, whole = made(torch.channels_last), made(torch.contiguous_format)
    resumed = made(torch.contiguous_format)
    for _ in range(3):
        left.step(x, y, 0.01)
        whole.step(x, y, 0.01)
    resumed.load_state_dict(left.state_dict())
    for stepper in (resumed, whole):
        stepper.step(x, y, 0.01)
    for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_compiled_graph_trains_through_the_compiled_network(monkeypatch):
    compiled, plain = on_a_gpu(monkeypatch), config_of("sgd")
    assert module.choose_graph("compiled", plain, CPU, ALONE, OWN_NOTHING) == "compiled"
    assert len(compiled) == 1  # the check's
    torch.manual_seed(0)
    stepper = Stepper(plain, torch.nn.Linear(6, 3), CPU, "compiled")
    for _ in range(5):
        stepper.step(*BATCH, 0.1)
    assert compiled[1] is stepper.model
    eager = make_stepper()
    for _ in range(5):
        eager._update(*BATCH)
    assert not torch.equal(stepper.predict(BATCH[0]), eager.predict(BATCH[0]))
    assert "_orig_mod" not in "".join(stepper.state_dict()["model"])


def test_a_compiled_network_that_fails_gives_way_to_the_plain_graph(monkeypatch):
    on_a_gpu(monkeypatch)
    monkeypatch.setattr(torch, "compile", lambda network: lambda x: network(x) * 2)
    with pytest.warns(RuntimeWarning, match="compiled CUDA graph .* the graph of plain steps"):
        chosen = module.choose_graph("compiled", config_of("sgd"), CPU, ALONE, OWN_NOTHING)
    assert chosen is True
    assert module.choose_graph(True, config_of("sgd"), CPU, ALONE, OWN_NOTHING) is True
    assert module.choose_graph(False, config_of("sgd"), CPU, ALONE, OWN_NOTHING) is False


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_check_of_a_graph_finds_one_that_trains_nothing(optimizer, monkeypatch):
    assert graph_trains(config_of(optimizer), CPU)

    class EmptyGraph(Stepper):
        def __init__(self, config, model, device, graph):
            super().__init__(config, model, device)
            self.empty = graph

        def step(self, x, y, rate):
            if not self.empty or self._eager_left:
                self._eager_left -= 1
                super().step(x, y, rate)

    monkeypatch.setattr(module, "Stepper", EmptyGraph)
    assert not graph_trains(config_of(optimizer), CPU)
