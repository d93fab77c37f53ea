"""Which way of making batches a GPU gets, with failures injected, on the CPU in its place."""

import gc
import os
import sys
import threading
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worlds import ArrayStore, IdealLoader, RealLoader
from worlds.loaders import cuda, nvjpeg
from worlds.loaders.cuda import Copied, Resident, Streamed, cuda_pipeline, free_memory
from worlds.runtime import selfcheck

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
CPU, GIB = torch.device("cpu"), 1 << 30


class FakeStream:
    """Notes what is asked of it."""

    def __init__(self, device=None):
        self.asked = []

    def record_event(self):
        return self

    def wait_event(self, event):
        self.asked.append(event)

    def synchronize(self):
        self.asked.append("synchronize")


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Where it is kept what has passed: Triton's interpreter takes seconds for a check."""
    return tmp_path_factory.mktemp("checked")


@pytest.fixture
def unchecked(tmp_path, monkeypatch):
    """For a test that breaks what others have checked."""
    monkeypatch.setenv("DEEP_BOOTSTRAP_CACHE", str(tmp_path))


@pytest.fixture(autouse=True)
def machine(checked, monkeypatch):
    """A CPU that stands for a GPU: streams that do nothing, memory enough."""
    monkeypatch.setenv("DEEP_BOOTSTRAP_CACHE", str(checked))
    monkeypatch.setattr(selfcheck, "_known", {})
    monkeypatch.setattr(cuda, "free_memory", lambda device: 8 * GIB)
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", FakeStream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    pin = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **o: pin(*a, **o))


@pytest.fixture
def pool():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    return ArrayStore(images, rng.integers(0, 10, 60)).train


def chosen(pool, resident=None, n=20):
    """The pipeline, after its batches were found to be the CPU's, in a pass and a half."""
    loader = RealLoader(pool, n, 4, 8, augment="crop+flip", normalize="unit")
    expected = list(RealLoader(pool, n, 4, 8, augment="crop+flip", normalize="unit"))
    loader._pipeline = cuda_pipeline(pool, loader.sampler, loader.form, resident)
    for (x, y), (u, v) in zip(loader, expected, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    return loader._pipeline


def raises(*args, **kwargs):
    raise RuntimeError("PassManager::run failed\nwith a long report")


def wrong_fill(*arguments):
    images, labels = FILL(*arguments)
    return images + 1, labels


FILL = cuda.fill_plain  # before it is broken


@pytest.mark.parametrize("resident, kind", [(None, Resident), (True, Resident), (False, Streamed)])
def test_the_fastest_way_is_chosen_without_a_word(resident, kind, pool):
    pytest.importorskip("triton")
    found = chosen(pool, resident)
    assert (type(found), found.fused) == (kind, True)


@pytest.mark.parametrize("resident, kind", [(None, Resident), (False, Streamed)])
def test_without_triton_pytorch_makes_the_same_batches(
    resident, kind, pool, monkeypatch, unchecked
):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "worlds.loaders.fused", raising=False)
    with pytest.warns(RuntimeWarning, match="by Triton, .* PyTorch is used: .*triton") as told:
        found = chosen(pool, resident)
    assert (type(found), found.fused, len(told)) == (kind, False, 1)


@pytest.mark.parametrize("broken", [raises, wrong_fill])
def test_a_broken_kernel_gives_way_to_pytorch(broken, pool, monkeypatch, unchecked):
    pytest.importorskip("triton")
    from worlds.loaders import fused

    right = fused.fill
    wrong = raises if broken is raises else lambda *a: (right(*a)[0] + 1, right(*a)[1])
    monkeypatch.setattr(fused, "fill", wrong)
    with pytest.warns(RuntimeWarning, match="Resident pool by Triton") as told:
        found = chosen(pool)
    assert (type(found), found.fused, len(told)) == (Resident, False, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not chosen(pool).fused


@pytest.mark.parametrize("resident", [True, False])
def test_where_nothing_passes_the_cpus_batches_are_copied(resident, pool, monkeypatch, unchecked):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "worlds.loaders.fused", raising=False)
    monkeypatch.setattr(cuda, "fill_plain", wrong_fill)
    with pytest.warns(RuntimeWarning, match="failed its check") as told:
        assert type(chosen(pool, resident)) is Copied
    for warning, instead in zip(told, ("PyTorch", "the CPU"), strict=True):
        assert f"{instead} is used" in str(warning.message)


def test_a_pool_that_finds_no_room_after_all_is_streamed(pool, monkeypatch):
    uploaded = Resident._uploaded

    def full(self, samples):
        if self.split is pool:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return uploaded(self, samples)

    monkeypatch.setattr(Resident, "_uploaded", full)
    with pytest.warns(UserWarning, match="no room for the pool: it is streamed"):
        assert type(chosen(pool)) is Streamed
    with pytest.raises(torch.OutOfMemoryError):
        chosen(pool, resident=True)


def test_memory_that_torch_holds_for_reuse_counts_as_free(monkeypatch):
    numbers = {"mem_get_info": (3, 80), "memory_reserved": 20, "memory_allocated": 5}
    for name, value in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory(CPU) == 18


@pytest.mark.parametrize("free, kind", [(4 * GIB + 20 * 192, Resident), (4 * GIB, Streamed)])
def test_a_pool_is_resident_where_it_fits_beside_the_reserve(free, kind, pool, monkeypatch):
    monkeypatch.setattr(cuda, "free_memory", lambda device: free)
    assert type(chosen(pool)) is kind
    if kind is Streamed:
        with pytest.raises(ValueError, match=r"20 samples need .* beside 4\.3 GB for the network"):
            chosen(pool, resident=True)


def test_the_runs_of_a_process_share_a_whole_pool(pool, monkeypatch):
    one = chosen(pool, n=60)
    monkeypatch.setattr(cuda, "free_memory", lambda device: 0)  # it is there already
    two = chosen(pool, n=60)
    assert one._pool.data_ptr() == two._pool.data_ptr()
    assert pool.images in cuda._pools
    kept = len(cuda._pools)
    del one, two, pool.__dict__["images"]
    gc.collect()
    assert len(cuda._pools) == kept - 1


def test_a_large_pool_is_sent_in_parts(monkeypatch, pool):
    monkeypatch.setattr(cuda, "_UPLOAD", 7)
    found = chosen(pool)
    assert np.array_equal(found._pool.numpy(), pool.gather(found.sampler.samples))


def test_a_thread_makes_the_next_pass_s_order(monkeypatch, pool):
    asked, order = [], cuda.pass_order

    def note(n, seed, trial, epoch):
        asked.append((epoch, threading.current_thread() is threading.main_thread()))
        return order(n, seed, trial, epoch)

    monkeypatch.setattr(cuda, "_MADE_AHEAD", 1)
    monkeypatch.setattr(cuda, "pass_order", note)
    loader = IdealLoader(pool, 8, 14, passes=2)
    loader._pipeline = Resident(pool, loader.sampler, loader.form, False)
    list(loader)
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    assert sorted(asked) == [(0, True), (1, False), (1, True)]  # and none for a third pass


def test_every_thread_copies_on_a_stream_of_its_own(pool):
    loader = RealLoader(pool, 40, 8, 5)
    pipeline = Streamed(pool, loader.sampler, loader.form, False)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append((pipeline._stream(), pipeline._stream())))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
        thread.join()
    assert all(first is second for first, second in found)
    assert len({id(first) for first, _ in found}) == 3


def test_the_decoder_waits_for_the_thread_and_the_thread_for_its_crops(monkeypatch):
    stream, images = FakeStream(), SimpleNamespace(members={0: b"one", 1: b"two"})
    images.members = SimpleNamespace(read=images.members.get)
    images.crop, images.shorter = 224, 256

    def decode(data, device):
        stream.asked.append("decode")
        return data

    def crop(decoded, drawn, *sizes):
        stream.asked.append("crop")
        return decoded

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(nvjpeg, "decode_on_gpu", decode)
    monkeypatch.setattr(nvjpeg, "crop_decoded", crop)
    made = nvjpeg.gather_on_gpu(images, np.arange(2), CPU, None)
    assert made == [b"one", b"two"]
    assert stream.asked == ["synchronize", "decode", "crop", "synchronize"]


def test_the_check_of_a_decoder_finds_other_pixels(monkeypatch):
    import simplejpeg

    def decode(data, device, shift=0):
        pixels = [torch.from_numpy(simplejpeg.decode_jpeg(one).copy()) for one in data]
        return [(one.permute(2, 0, 1).int() + shift).clamp(0, 255) for one in pixels]

    monkeypatch.setattr(nvjpeg, "decode_on_gpu", decode)
    assert nvjpeg.decodes_alike(CPU)
    monkeypatch.setattr(nvjpeg, "decode_on_gpu", lambda data, device: decode(data, device, 5))
    assert not nvjpeg.decodes_alike(CPU)
