"""The Triton kernel against the definition: on a GPU where there is one, else in Triton's
interpreter (where Triton is installed).
"""

import os
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from worlds import ArrayStore, Augment, BootstrapLoader, IdealLoader, RealLoader
from worlds.loaders.augment import augment_batch, parse_augment

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

DEVICE = torch.device("cuda" if ON_GPU else "cpu")
AUGMENTS = [
    Augment(),
    parse_augment("flip"),
    parse_augment("crop+flip"),
    parse_augment("crop+flip+cutout"),
    Augment(pad=3, reflect=True, flip=True, cutout=8),
]


@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2**63 + 12345])
def test_the_kernel_equals_the_definition(augment, dtype, channels_last, seed):
    from worlds.loaders.cuda import fill, name_of

    pool = torch.randint(0, 256, (20, 32, 32, 3), dtype=torch.uint8, device=DEVICE)
    indices = torch.tensor([3, 19, 0, 7, 7], device=DEVICE)
    positions = torch.tensor([0, 5, 2**33 + 1, 9, 10], device=DEVICE)
    name = name_of(seed, 3, DEVICE)
    found = fill(pool, indices, positions, name, augment, dtype, channels_last)
    expected = augment_batch(pool[indices], augment, seed, 3, positions, dtype, channels_last)
    assert found.stride() == expected.stride()
    if dtype == torch.bfloat16 and not ON_GPU:  # the interpreter rounds bfloat16 its own way
        assert (found.float() - expected.float()).abs().max() <= 2**-8
    else:
        assert torch.equal(found, expected)


@pytest.mark.skipif(ON_GPU, reason="the tests below run the same on a GPU")
@pytest.mark.parametrize("world", ["real", "short", "ideal", "bootstrap"])
def test_a_resident_pool_yields_the_batches_of_the_cpu(world, monkeypatch):
    from worlds.loaders.cuda import Resident

    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(Resident, "_sent", lambda self, array: torch.from_numpy(array))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    pool = ArrayStore(images, rng.integers(0, 10, 40)).train
    options = {"augment": "crop+flip", "seed": 4, "trial": 1, "rank": 1, "world_size": 2}
    make = {
        "real": lambda: RealLoader(pool, 10, 4, 9, **options),
        "short": lambda: RealLoader(pool, 10, 4, 9, remainder="short", **options),
        "ideal": lambda: IdealLoader(pool, 4, **options),
        "bootstrap": lambda: BootstrapLoader(pool, 10, 4, 9, **options),
    }[world]
    cpu, gpu = make(), make()
    arguments = (pool, gpu.sampler, gpu.augment, torch.float32, False, DEVICE)
    gpu._pipeline = Resident(*arguments)
    gpu._pipeline.block_samples = 12  # three batches to a launch
    made = list(gpu)
    assert len(made) == len(cpu)
    for (x, y), (u, v) in zip(cpu, made, strict=True):
        assert torch.equal(u, x)
        assert torch.equal(v, y)


@pytest.mark.gpu
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("batch", [32, 10_000])
def test_a_gpu_makes_the_batches_of_the_cpu(resident, batch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    pool = ArrayStore(images, rng.integers(0, 10, 300)).train
    options = {"augment": "crop+flip+cutout", "seed": 4, "trial": 1}
    cpu = RealLoader(pool, 90, batch, 20, **options)
    gpu = RealLoader(pool, 90, batch, 20, device="cuda", resident=resident, **options)
    for (x, y), (u, v) in zip(cpu, gpu, strict=True):
        assert u.is_cuda
        assert torch.equal(u.cpu(), x)
        assert torch.equal(v.cpu(), y)


@pytest.mark.gpu
def test_a_pool_too_large_for_the_gpu_is_refused(monkeypatch):
    pool = ArrayStore(np.zeros((300, 32, 32, 3), dtype=np.uint8), np.zeros(300, dtype=int)).train
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1000))
    with pytest.raises(ValueError, match="too large for cuda"):
        RealLoader(pool, 90, 32, 5, device="cuda", resident=True)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_kernel_compiles_for_a_gpu_that_is_not_here(channels_last):
    """To machine code of compute capability 9.0 (H100, H200), by a process of its own."""
    code = f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from worlds.loaders.cuda import _fill
constants = dict(height=32, width=32, pad=4, reflect=False, can_flip=True, cutout=16,
                 channels_last={channels_last}, block=1024)
signature = dict(pool="*u8", indices="*i64", positions="*i64", name="*i64", out="*bf16",
                 scale="fp32") | dict.fromkeys(constants, "constexpr")
aligned = {{(k,): [["tt.divisibility", 16]] for k in range(5)}}
source = ASTSource(fn=_fill, signature=signature, constexprs=constants, attrs=aligned)
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
assert "cubin" in compiled.asm
print(compiled.asm["ptx"].count("st.global.v4"))
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1  # 16 bytes at a time are written
