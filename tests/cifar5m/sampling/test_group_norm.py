"""The half-precision network without a GPU: the kernel in Triton's interpreter, compiled for GPUs
that are not here, and the operator in a compiled network.
"""

import os
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cifar5m.sampling import group_norm, unet
from cifar5m.sampling.group_norm import FixedGroupNorm, fuse_norms
from cifar5m.sampling.unet import Generator, load_unet
from cifar5m.weights.sources import find_generator
from worlds.runtime import selfcheck

CPU = torch.device("cpu")
GPUS = [80, 89, 90, 100, 120]


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEP_BOOTSTRAP_CACHE", str(tmp_path))
    monkeypatch.setattr(selfcheck, "_known", {})


def tiny(precision="bf16-weights", source="tiny"):
    return Generator(load_unet(find_generator(source)), CPU, precision)


def run_code(code, **environment):
    """Run code in a process of its own: Triton's own functions are made for the interpreter, or
    not, when it is first imported.
    """
    pytest.importorskip("triton")
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_kernel_equals_the_definition_but_for_a_rounding():
    """Within one unit in the last place of bfloat16, and 1e-5 of float32."""
    code = """
import torch
from cifar5m.sampling.group_norm import normalize_plain
from cifar5m.sampling.group_norm_kernel import normalize_fused
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
sizes = (32, 8, 8), (128, 32, 16), (384, 32, 6), (512, 32, 4), (20, 5, 3)
for number, (channels, groups, side) in enumerate(sizes):
    for dtype, relative in ((torch.float32, 1e-5), (torch.bfloat16, 2**-7)):
        silu = (number + (dtype == torch.float32)) % 2 == 0
        x = (3 * torch.randn(3, channels, side, side) + 5).to(device, dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        given = x, *torch.randn(2, channels, device=device), groups, 1e-6, silu
        found, expected = normalize_fused(*given), normalize_plain(*given)
        assert (found.dtype, found.stride()) == (dtype, expected.stride())
        assert torch.allclose(found.float(), expected.float(), rtol=relative, atol=2e-5), given
"""
    run_code(code, **({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}))


def test_the_kernel_compiles_for_gpus_that_are_not_here():
    """To machine code, for the normalizations of Ho's network, by a process of its own."""
    code = f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cifar5m.sampling.group_norm_kernel import _normalize
for channels, lanes, tile in ((128, 4, 128), (384, 16, 32), (512, 16, 16)):
    constants = dict(channels=channels, size=channels // 32, groups=8, lanes=lanes, tile=tile,
                     silu=True)
    signature = dict(x="*bf16", weight="*fp32", bias="*fp32", out="*bf16", pixels="i32",
                     eps="fp32") | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=_normalize, signature=signature, constexprs=constants)
    options = dict(num_warps=4, enable_fp_fusion=False)
    for gpu in {GPUS}:
        compiled = triton.compile(source, target=GPUTarget("cuda", gpu, 32), options=options)
        assert "cubin" in compiled.asm, gpu
"""
    run_code(code)


def test_weights_are_cast_once_and_norms_keep_float32():
    network = tiny().network
    norms = [m for m in network.modules() if isinstance(m, torch.nn.GroupNorm)]
    of_norms = {id(p) for norm in norms for p in norm.parameters()}
    for name, parameter in network.named_parameters():
        expected = torch.float32 if id(parameter) in of_norms else torch.bfloat16
        assert parameter.dtype == expected, name
    assert all(type(norm) is FixedGroupNorm for norm in norms)
    assert network.conv_norm_out.silu
    assert not all(norm.silu for norm in norms)  # attention's is not followed by one


class Casts(TorchDispatchMode):
    """Count the casts of a call."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **options or {})
        if function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.to):
            self.count += result.dtype != arguments[0].dtype
        return result


def test_a_call_predicts_what_autocast_does_without_its_casts():
    x = torch.randn(2, 3, 32, 32)
    exact, automatic, half = (tiny(p) for p in ("fp32", "bf16", "bf16-weights"))
    assert fuse_norms(half.network, CPU)
    counts, found = [], []
    for generator in (automatic, half):
        with Casts() as casts:
            found.append(generator(x, 500))
        counts.append(casts.count)
    assert counts[1] == 4  # of the image, the time step, its embedding and the result
    assert counts[0] > 60
    expected = exact(x, 500)
    for prediction in found:
        assert prediction.dtype == torch.float32
        assert (prediction - expected).norm() < unet.TOLERANCES["bf16"] * expected.norm()


def test_a_compiled_network_keeps_the_operator(unet_folder):
    generator, graphs = tiny(source=str(unet_folder)), []
    unet.keep_channels_last(generator.network)  # as on a GPU
    assert fuse_norms(generator.network, CPU)

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    plain = generator(torch.ones(2, 3, 32, 32), 500)
    generator._call = torch.compile(generator.network, backend=backend)
    assert torch.equal(generator(torch.ones(2, 3, 32, 32), 500), plain)
    targets = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    norms = sum(isinstance(m, FixedGroupNorm) for m in generator.network.modules())
    assert sum("deep_bootstrap.group_norm" in target for target in targets) == norms
    assert not any("silu" in target and "group_norm" in target for target in targets)


def test_the_operator_is_registered_as_torch_asks():
    x = torch.randn(2, 8, 4, 4).bfloat16().contiguous(memory_format=torch.channels_last)
    tests = ("test_schema", "test_faketensor")
    given = (x, torch.ones(8), torch.zeros(8), 2, 1e-5, True)
    torch.library.opcheck(group_norm.normalize, given, test_utils=tests)


def test_norms_that_fail_their_check_give_way_to_the_same_result(monkeypatch):
    generator = tiny()
    monkeypatch.setattr(group_norm, "normalize", lambda x, *_: x)
    before = generator(torch.ones(2, 3, 32, 32), 500)
    with pytest.warns(RuntimeWarning, match="Triton group norm.* PyTorch is used: .*differs"):
        assert not fuse_norms(generator.network, CPU)
    assert torch.equal(generator(torch.ones(2, 3, 32, 32), 500), before)
