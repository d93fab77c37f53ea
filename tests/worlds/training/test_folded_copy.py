"""The evaluation network of a GPU, on the CPU: folding, its check, and its graph by a recorder."""

from contextlib import nullcontext

import pytest
import torch

from tests.worlds.small_runs import small, small_data
from worlds.models import create, list_models
from worlds.runtime import device as device_module
from worlds.runtime import selfcheck
from worlds.training import evaluation
from worlds.training.evaluation import FoldedCopy, _foldable, is_foldable
from worlds.training.train import train

NETWORKS = {"preresnet18": (8, {"width": 8}), "resnet18": (20, {"width": 8}), "myrtle5": (4, {})}


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEP_BOOTSTRAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(selfcheck, "_known", {})


def trained(arch, options):
    """A network whose batch norms have seen something."""
    torch.manual_seed(0)
    model = create(arch, 10, 32, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * parameter.std().nan_to_num(1))
        for _ in range(3):
            model(torch.randn(16, 3, 32, 32) * 2 + 1)
    return model.eval()


@pytest.mark.parametrize("arch", NETWORKS)
@torch.no_grad()
def test_a_folded_copy_predicts_what_the_network_does_also_after_a_change(arch):
    pairs, options = NETWORKS[arch]
    model, x = trained(arch, options), torch.randn(8, 3, 32, 32)
    copy = FoldedCopy(model, torch.float32)
    assert len(_foldable(model)) == pairs
    for _ in range(2):
        copy.refresh()
        assert torch.allclose(copy(x), model(x), rtol=1e-3, atol=1e-4)
        model.train()(x + 1)  # moves the statistics
        for parameter in model.parameters():
            parameter.mul_(1.1)
        model.eval()
        assert not torch.allclose(copy(x), model(x), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_in_half_precision_it_is_close_and_casts_no_weight_in_a_call():
    model, x = trained("resnet18", {"width": 8}), torch.randn(8, 3, 32, 32)
    copy = FoldedCopy(model, torch.bfloat16)
    copy.refresh()
    found, expected = copy(x.bfloat16()), model(x)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 3e-2 * expected.norm()
    assert all(p.dtype == torch.bfloat16 for p in copy._copy.parameters())


@pytest.mark.parametrize("arch, expected", [("myrtle5", True), ("vit", False), ("mlp", False)])
def test_only_networks_of_batch_norms_are_folded(arch, expected):
    [name, *_] = [name for name in list_models(32) if name.startswith(arch)]
    with torch.device("meta"):
        assert is_foldable(create(name, 10, 32)) == expected


def in_half_precision(monkeypatch):
    """Let a CPU run evaluate as a GPU's in bf16 does."""
    plain = evaluation.Evaluation.__init__

    def begin(self, *arguments, **options):
        plain(self, *arguments, **options)
        self.folds = True

    monkeypatch.setattr(evaluation.Evaluation, "__init__", begin)


NET = {"arch": "myrtle5", "options": {"width": 8}, "steps": 6, "log": 2}


def test_a_run_measured_by_a_folded_copy_has_the_plain_one_s_rows(tmp_path, monkeypatch):
    config, data = small(**NET), small_data()
    plain = train(config, data, tmp_path / "plain")
    in_half_precision(monkeypatch)
    monkeypatch.setattr(evaluation, "HALF", torch.float32)  # as the CPU's batches
    folded = train(config, data, tmp_path / "folded")
    for one, other in zip(folded.rows, plain.rows, strict=True):
        assert one["test_loss"] == pytest.approx(other["test_loss"], rel=1e-4)
        assert one["train_error"] == pytest.approx(other["train_error"], abs=0.02)


def test_a_folded_copy_that_differs_gives_way_to_autocast(tmp_path, monkeypatch):
    config, data = small(**NET), small_data()
    plain = train(config, data, tmp_path / "plain")
    in_half_precision(monkeypatch)
    monkeypatch.setattr(FoldedCopy, "__call__", lambda self, x: torch.zeros(len(x), 10))
    with pytest.warns(RuntimeWarning, match="folded evaluation of myrtle5.* autocast is used"):
        run = train(config, data, tmp_path / "folded")
    assert [row["test_loss"] for row in run.rows] == [row["test_loss"] for row in plain.rows]


@torch.no_grad()
def test_a_graph_takes_whole_batches_and_keeps_no_result_of_the_last(monkeypatch):
    class Graph:
        def replay(self):
            self.result.copy_(self.run())

    def capture(run, device, stream):
        graph = Graph()
        graph.run, graph.result = run, run()
        captures.append(device)
        return graph, graph.result

    class Stream:
        def __init__(self, device):
            pass

        def wait_stream(self, other):
            pass

    captures = []
    monkeypatch.setattr(device_module, "capture", capture)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    model = trained("myrtle5", {"width": 8})
    copy = FoldedCopy(model, torch.float32)
    copy.refresh()
    one, two, rest = torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32), torch.randn(3, 3, 32, 32)
    copy._replay, copy._shape = copy._captured(one), one.shape
    found = [copy(x) for x in (one, two, rest)]
    assert captures == [one.device]
    for x, logits in zip((one, two, rest), found, strict=True):
        assert torch.allclose(logits, model(x), rtol=1e-3, atol=1e-4)
