"""How a process joins the others, with torch's own calls recorded."""

import pytest
import torch
from torch import distributed

from worlds.training.distributed import Replicas, join


@pytest.fixture
def two_gpus(monkeypatch):
    """torchrun's variables, and a machine of two GPUs; yields what torch is asked."""
    asked = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(
        distributed, "init_process_group", lambda *a, **options: asked.append((*a, options))
    )
    return asked


def test_a_process_names_its_gpu_to_nccl(two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    second = torch.device("cuda:1")
    assert join(torch.device("cuda")) == (Replicas(1, 2), second)
    assert two_gpus == [second, ("nccl", {"device_id": second})]


def test_more_processes_than_gpus_are_refused(two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match=r"cuda:2.*2 usable GPUs"):
        join(torch.device("cuda"))
    assert not two_gpus


def test_buffers_are_sent_at_log_points_and_not_at_every_step(monkeypatch):
    wrapped = []
    monkeypatch.setattr(
        torch.nn.parallel, "DistributedDataParallel", lambda *a, **options: wrapped.append(options)
    )
    Replicas(0, 2).wrap(torch.nn.Linear(1, 1))
    assert wrapped == [{"broadcast_buffers": False}]
