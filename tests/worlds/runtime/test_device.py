"""Devices and precisions."""

import pytest
import torch

from worlds.runtime import device as module
from worlds.runtime.device import (
    check_device,
    cuda_versions,
    device_name,
    float32_products,
    in_precision,
    pick_device,
)

CPU = torch.device("cpu")
NEW = hasattr(torch.backends.cuda.matmul, "fp32_precision")


@pytest.fixture(autouse=True)
def _restored():
    before = module._read_flags()
    yield
    module._write_flags(before)


def flags() -> tuple[str, ...]:
    return module._read_flags()


@pytest.mark.parametrize(
    "count, local_rank, name, expected",
    [
        (0, 3, "auto", "cpu"),
        (0, 0, "cpu", "cpu"),
        (2, 0, "auto", "cuda:0"),
        (2, 3, "auto", "cuda:1"),
        (2, 1, "cuda", "cuda:1"),
        (2, 1, "cuda:0", "cuda:0"),
        (2, 1, "cpu", "cpu"),
    ],
)
def test_a_rank_takes_its_own_gpu(count, local_rank, name, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert pick_device(name, local_rank) == torch.device(expected)


@pytest.mark.parametrize("name", ["tpu", "mps", None, "cuda:x", "cuda:77", "cpu:x"])
def test_a_device_that_is_not_here_is_refused_by_name(name):
    with pytest.raises(ValueError, match=str(name)):
        check_device(name)


def test_the_cpu_is_named_by_its_type():
    assert device_name(CPU) == "cpu"


@pytest.mark.parametrize("precision, value", [("tf32", "tf32"), ("fp32", "ieee"), ("bf16", "ieee")])
def test_products_have_the_precision_within_the_job_and_the_former_one_after(precision, value):
    before = flags()
    with float32_products(precision):
        assert set(flags()) == {value}
        with in_precision(precision, CPU):
            assert set(flags()) == {value}
            assert torch.is_autocast_enabled("cpu") == (precision == "bf16")
        assert set(flags()) == {value}
    assert flags() == before


def test_calls_within_a_job_set_no_flag_again(monkeypatch):
    written = []
    write = module._write_flags
    monkeypatch.setattr(
        module, "_write_flags", lambda values: (written.append(values), write(values))
    )
    with float32_products("tf32"):
        for _ in range(3):
            with in_precision("tf32", CPU):
                pass
    assert len(written) == 2


@pytest.mark.skipif(not NEW, reason="torch 2.9 and later")
def test_flags_that_the_user_set_by_either_api_are_kept():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    with in_precision("fp32", CPU):
        assert set(flags()) == {"ieee"}
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = True
    with in_precision("tf32", CPU):
        assert set(flags()) == {"tf32"}
    assert torch.backends.cuda.matmul.allow_tf32 is False
    assert torch.backends.cudnn.allow_tf32 is True


def test_an_error_within_a_job_restores_the_flags():
    before = flags()
    with pytest.raises(KeyError), float32_products("tf32"):
        raise KeyError
    assert flags() == before


def test_a_network_in_a_precision_takes_no_timed_algorithms():
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    with in_precision("bf16", torch.device("cpu")):
        assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
    assert (cudnn.deterministic, cudnn.benchmark) == before


def test_the_versions_of_cuda_are_named_only_if_torch_has_it(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert cuda_versions() == {}
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert cuda_versions()["cuda"] == "12.8"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert device_name(torch.device("cuda")).startswith("NVIDIA H200, driver ")
