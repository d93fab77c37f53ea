"""The Triton kernel against the definition: on a GPU where there is one, else in Triton's
interpreter (where Triton is installed).
"""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from worlds import ArrayStore, Augment, BootstrapLoader, FixedReuseLoader, IdealLoader, RealLoader
from worlds.loaders.augment import parse_augment
from worlds.loaders.blocks import Block, fill_plain, name_of, value_table
from worlds.loaders.cuda import Resident, makes_the_cpus_batches
from worlds.loaders.normalize import range_function
from worlds.loaders.pipelines import Form

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
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
GPUS = [80, 89, 90, 100, 120]  # compute capabilities: A100, L40, H100 and H200, B200, RTX 5090


def on(values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype, device=DEVICE)


def listed():
    places = on([19, 7, 7])
    return Block(3, places, places, on([0, 2**33 + 1, 9], torch.int64))


def over_a_border(count=4, start=18, first=2**33 - 2):
    """A row of positions that begins in one pass over 20 samples and ends in the next."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(20, generator=generator).int().to(DEVICE) for _ in range(2)]
    return Block(count, *orders, None, first, start, 20)


def check_fill(block, augment, dtype, channels_last, normalize="symmetric", seed=1, size=(32, 32)):
    """The kernel's block and the definition's."""
    from worlds.loaders.fused import fill

    pool = torch.randint(0, 256, (20, *size, 3), dtype=torch.uint8, device=DEVICE)
    labels = torch.arange(20, device=DEVICE) * 3
    to_range = range_function(normalize, 3, DEVICE)
    table = value_table(range_function(normalize, 3, torch.device("cpu")), dtype)
    table = None if table is None else table.to(DEVICE)
    layout, name = (dtype, channels_last), name_of(seed, 3, DEVICE)
    found, found_labels = fill(pool, labels, block, name, augment, table, *layout)
    expected, expected_labels = fill_plain(
        pool, labels, block, (seed, 3), augment, to_range, *layout
    )
    assert torch.equal(found_labels, expected_labels)
    assert found.stride() == expected.stride()
    assert found.dtype == expected.dtype
    if dtype == torch.bfloat16 and table is None and not ON_GPU:
        # The interpreter rounds bfloat16 its own way.
        assert (found.float() - expected.float()).abs().max() <= 2**-8
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_kernel_equals_the_definition(augment, dtype, channels_last):
    seed = [0, 1, 2**63 + 12345][DTYPES.index(dtype)]
    check_fill(listed(), augment, dtype, channels_last, seed=seed)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(9, 13), (12, 20), (8, 8), (40, 48)])
def test_the_kernel_takes_images_of_any_size(size, channels_last):
    for augment in AUGMENTS[2:]:
        check_fill(listed(), augment, torch.float32, channels_last, size=size)


@pytest.mark.parametrize("block", [over_a_border(), over_a_border(5, 2), over_a_border(3, 17, 17)])
def test_a_row_of_positions_may_go_over_the_border_of_a_pass(block):
    check_fill(block, AUGMENTS[3], torch.float32, True)


RANGES = ["unit", "cifar10", "imagenet", (0.4, (0.1, 0.2, 0.3)), None]


@pytest.mark.parametrize("normalize", RANGES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_kernel_rounds_a_range_as_pytorch_does(normalize, dtype, channels_last):
    block, augment = (over_a_border(), AUGMENTS[3]) if channels_last else (listed(), AUGMENTS[1])
    check_fill(block, augment, dtype, channels_last, normalize)


POOL_RNG = np.random.default_rng(0)
POOL = ArrayStore(
    POOL_RNG.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), POOL_RNG.integers(0, 10, 40)
).train


@pytest.mark.skipif(ON_GPU, reason="the tests below run the same on a GPU")
@pytest.mark.parametrize("fused", [True, False], ids=["Triton", "PyTorch"])
@pytest.mark.parametrize(
    "world, world_size",
    [*((w, 1) for w in ("real", "short", "drop", "reuse", "ideal", "bootstrap")), ("real", 2)],
)
def test_a_resident_pool_yields_the_batches_of_the_cpu(world, world_size, fused):
    options = {"augment": "crop+flip", "seed": 4, "trial": 1, "normalize": "imagenet"}
    options |= {"rank": world_size - 1, "world_size": world_size}
    make = {
        "real": lambda: RealLoader(POOL, 10, 4, 9, **options),
        "short": lambda: RealLoader(POOL, 10, 4, 9, remainder="short", **options),
        "drop": lambda: RealLoader(POOL, 10, 4, 9, remainder="drop", **options),
        "reuse": lambda: FixedReuseLoader(POOL, 30, 4, reuse=2, **options),
        "ideal": lambda: IdealLoader(POOL, 4, **options),
        "bootstrap": lambda: BootstrapLoader(POOL, 10, 4, 9, **options),
    }[world]
    cpu, gpu = make(), make()
    gpu._pipeline = Resident(POOL, gpu.sampler, replace(gpu.form, device=DEVICE), fused)
    gpu._pipeline.block_samples = 12  # three batches to a launch
    made = list(gpu)
    assert len(made) == len(cpu)
    for (x, y), (u, v) in zip(cpu, made, strict=True):
        assert torch.equal(u, x)
        assert torch.equal(v, y)


@pytest.mark.parametrize("fused", [True, False], ids=["Triton", "PyTorch"])
def test_the_check_of_a_resident_pool_passes(fused):
    form = Form(AUGMENTS[3], "unit", channels_last=True, device=DEVICE)
    assert makes_the_cpus_batches(Resident, (32, 32, 3), form, fused)


@pytest.mark.gpu
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("batch", [32, 10_000])
@pytest.mark.parametrize("normalize", ["symmetric", "imagenet"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gpu_makes_the_batches_of_the_cpu(resident, batch, normalize, dtype):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    pool = ArrayStore(images, rng.integers(0, 10, 300)).train
    options = {"augment": "crop+flip+cutout", "seed": 4, "trial": 1, "normalize": normalize}
    options |= {"dtype": dtype, "channels_last": True}
    cpu = RealLoader(pool, 90, batch, 20, **options)
    gpu = RealLoader(pool, 90, batch, 20, device="cuda", resident=resident, **options)
    for (x, y), (u, v) in zip(cpu, gpu, strict=True):
        assert u.is_cuda
        assert torch.equal(u.cpu(), x)
        assert torch.equal(v.cpu(), y)


def test_the_kernel_compiles_for_gpus_that_are_not_here():
    """To machine code, in both layouts and precisions, by a process of its own."""
    code = f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from worlds.loaders.fused import _fill, _GROUPS, _TURNS
for channels_last in (True, False):
    for out, mapped in (("bf16", False), ("fp32", False), ("fp32", True), ("u8", True)):
        constants = dict(height=32, width=32, pad=4, reflect=False, can_flip=True, cutout=16,
                         mapped=mapped, channels_last=channels_last, listed=False, vector=8,
                         groups=_GROUPS, turns=_TURNS)
        signature = dict(pool="*u8", labels="*i64", order="*i32", next_order="*i32",
                         positions="*i64", name="*i64", table="*" + out, out="*" + out,
                         out_labels="*i64", scale="fp32", first="i64", start="i64",
                         pass_size="i64") | dict.fromkeys(constants, "constexpr")
        aligned = {{(k,): [["tt.divisibility", 16]] for k in range(9)}}
        source = ASTSource(fn=_fill, signature=signature, constexprs=constants, attrs=aligned)
        options = dict(num_warps=_GROUPS // 32, enable_fp_fusion=False)
        wide = 8 if out == "u8" else 16  # bytes of a thread that are written at once
        for gpu in {GPUS}:
            compiled = triton.compile(source, target=GPUTarget("cuda", gpu, 32), options=options)
            assert "cubin" in compiled.asm
            print(compiled.asm["ptx"].count("st.global.v4" if wide == 16 else "st.global.v2"))
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(int(line) for line in done.stdout.split())
