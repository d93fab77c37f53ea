"""Several micro-batches at a time without a GPU: streams and graphs are recorded, a replay runs the
function again.
"""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from cifar5m.sampling import job as prepare
from cifar5m.sampling import together
from cifar5m.sampling.generate import make_shard
from cifar5m.sampling.job import Options
from tests.cifar5m.tiny_networks import save_unet
from worlds.formats.layout import Layout
from worlds.runtime import device as device_module
from worlds.runtime import selfcheck


class Stream:
    """A stream that notes for which ones it waits."""

    def __init__(self, device=None):
        self.waits = []

    def wait_stream(self, other):
        self.waits.append(other)


class Graph:
    """A graph whose replay writes the captured result anew."""

    def __init__(self, run, wrong=0.0):
        self.run, self.result, self.wrong = run, run().clone(), wrong

    def replay(self):
        self.result.copy_(self.run() + self.wrong)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """What was captured: (stream, device) of each graph."""
    monkeypatch.setenv("DEEP_BOOTSTRAP_CACHE", str(tmp_path))
    monkeypatch.setattr(selfcheck, "_known", {})
    current, captures = Stream(), []
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)

    def capture(run, device, stream):
        captures.append((stream, device))
        graph = Graph(run)
        return graph, graph.result

    monkeypatch.setattr(device_module, "capture", capture)
    return captures


def job_of(**changes):
    options = Options(n=20, recipe="tiny", steps=2, micro_batch=3, shard_size=8, **changes)
    sources = prepare.find_sources(options)
    return prepare.load_job(options, sources, prepare.plan_of(options, sources), "cpu")


@pytest.mark.parametrize("streams, conditional", [(2, False), (3, True)])
def test_streams_change_no_byte_of_a_shard(
    recorded, labeler_folder, tmp_path, streams, conditional
):
    """Of 8 images in micro-batches of 3: with two at a time the last comes alone."""
    classes = {"num_class_embeds": 11} if conditional else {}
    unet = save_unet(tmp_path / "unet", **classes)
    networks = {"generator": str(unet), "labeler": str(labeler_folder)}
    job = job_of(**networks, guidance=2.0 if conditional else None)
    [shard, *_] = Layout((("train", 20),), 8).shards()
    alone = make_shard(job, shard)
    assert recorded == []
    some = make_shard(replace(job, streams=streams), shard)
    np.testing.assert_array_equal(some.images, alone.images)
    np.testing.assert_array_equal(some.probabilities, alone.probabilities)
    assert len({stream for stream, _ in recorded}) == len(recorded) == streams


def test_a_call_waits_for_its_input_and_is_waited_for(recorded):
    x = torch.randn(4, 3)
    predictors = [lambda x, t: x * t, lambda x, t: x + t]
    predict = together.side_by_side(predictors, x, "two functions")
    [first, second] = [stream for stream, _ in recorded]
    current = torch.cuda.current_stream(x.device)
    for stream in (first, second):
        stream.waits.clear()
    current.waits.clear()
    assert torch.equal(predict(x, 7), torch.cat([x[:2] * 7, x[2:] + 7]))
    assert first.waits == second.waits == [current]
    assert current.waits == [first, second]


def test_streams_that_make_other_bits_give_way_to_one(recorded, monkeypatch):
    def capture(run, device, stream):
        graph = Graph(run, wrong=1e-3)
        return graph, graph.result

    monkeypatch.setattr(device_module, "capture", capture)
    predictors = [lambda x, t: x * t] * 2
    with pytest.warns(RuntimeWarning, match="2 streams, f failed its check .* one stream is used"):
        predict = together.side_by_side(predictors, torch.ones(4, 3), "f")
    assert torch.equal(predict(torch.ones(4, 3), 5), torch.full((4, 3), 5.0))
