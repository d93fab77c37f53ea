"""Generation on a GPU: `make test-gpu`."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch

from cifar5m.commands.generate import main
from cifar5m.sampling.unet import Generator, load_unet
from cifar5m.weights.sources import find_generator
from worlds.formats.plan import load_plan

pytestmark = pytest.mark.gpu
CODE = """
import hashlib, torch
from cifar5m.sampling.diffusion import SamplerConfig, linear_schedule, sample, to_uint8
from cifar5m.sampling.noise import image_noise
from cifar5m.sampling.unet import Generator, load_unet
from cifar5m.weights.sources import find_generator
index = torch.arange(64, device="cuda")
generator = Generator(load_unet(find_generator("tiny")), torch.device("cuda"), "{precision}")
x = sample(SamplerConfig("ancestral", steps=200), generator,
           lambda step: image_noise(0, index, step), linear_schedule())
print(hashlib.sha256(to_uint8(x).cpu().numpy().tobytes()).hexdigest())
"""


def run_with_empty_cache(folder, precision):
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder)}
    command = [sys.executable, "-c", CODE.format(precision=precision)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "bf16-weights"])
@pytest.mark.parametrize("together", [False, True])
def test_processes_with_empty_caches_make_equal_bytes(tmp_path, precision, together):
    """Alone one after the other, or together, which disturbs whatever is timed."""
    found = set()
    for turn in range(2):
        started = []
        for number in range(3):
            started.append(run_with_empty_cache(tmp_path / f"{turn} {number}", precision))
            if not together:
                started[-1].wait()
        found |= {process.communicate()[0] for process in started}
    assert len(found) == 1
    assert "" not in found


def test_a_compiled_network_follows_the_precision():
    """TF32, float32, TF32 in one process: the flags are guards of the compiled graph."""
    x, device = torch.randn(8, 3, 32, 32, device="cuda"), torch.device("cuda")
    networks = {
        p: Generator(load_unet(find_generator("tiny")), device, p) for p in ("tf32", "fp32")
    }
    first, exact, again = (networks[p](x, 500) for p in ("tf32", "fp32", "tf32"))
    assert torch.equal(first, again)
    assert (first - exact).norm() < 5e-3 * exact.norm()


def test_half_weights_take_the_kernel_and_predict_what_float32_does():
    x, device = torch.randn(8, 3, 32, 32, device="cuda"), torch.device("cuda")
    half, exact = (
        Generator(load_unet(find_generator("tiny")), device, p) for p in ("bf16-weights", "fp32")
    )
    assert (half(x, 500) - exact(x, 500)).norm() < 3e-2 * exact(x, 500).norm()
    assert "plain" not in half.device_name  # what the records of its shards say
    assert "uncompiled" not in half.device_name


@pytest.mark.parametrize("precision", ["tf32", "bf16-weights"])
def test_a_set_is_made_on_a_gpu_and_again_with_streams(tmp_path, precision):
    tars = []
    for name in ("one", "two"):
        options = ["--recipe", "tiny", "--n", "60", "--shard-size", "20", "--device", "cuda"]
        options += ["--precision", precision, "--micro-batch", "5"]
        options += ["--streams", "2"] if name == "two" else []
        assert main([*options, "--out", str(tmp_path / name)]) == 0
        plan = load_plan(tmp_path / name)
        tars.append([(tmp_path / name / shard.tar).read_bytes() for shard in plan.shards])
    assert [hashlib.sha256(tar).hexdigest() for tar in tars[0]] == [
        hashlib.sha256(tar).hexdigest() for tar in tars[1]
    ]
