"""The generator's fast paths, with failures injected, on the CPU in place of a GPU."""

import pytest
import torch

from cifar5m.sampling import noise, unet
from cifar5m.sampling.noise import image_noise
from cifar5m.sampling.unet import Generator, compile_network, keep_channels_last, load_unet
from cifar5m.weights.sources import find_generator
from worlds.runtime import selfcheck

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEP_BOOTSTRAP_CACHE", str(tmp_path))
    monkeypatch.setattr(selfcheck, "_known", {})


@pytest.fixture(scope="module")
def network():
    return load_unet(find_generator("tiny"))


def unchosen(network):
    """A generator as it is on a GPU before its first batch."""
    generator = Generator(network, CPU, "fp32")
    generator._call = None
    return generator


def test_a_network_is_compiled_without_choices_by_timing(monkeypatch):
    config = pytest.importorskip("torch._inductor.config")
    if not hasattr(config, "deterministic"):
        pytest.skip("an older torch")
    asked = []
    monkeypatch.setattr(torch, "compile", lambda network, **options: asked.append(options))
    compile_network(torch.nn.Identity())
    assert asked == [{"options": {"deterministic": True}}]


def test_a_compiled_network_that_agrees_is_taken(network, monkeypatch):
    generator, plain, calls = unchosen(network), Generator(network, CPU, "fp32"), []

    def compiled(*arguments, **options):
        calls.append(1)
        return (network(*arguments, **options)[0] * (1 + 1e-6),)

    monkeypatch.setattr(unet, "compile_network", lambda network: compiled)
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(generator(x, 500), plain(x, 500), rtol=1e-4)
    assert generator._call is compiled
    assert len(calls) == 3  # the check, one that compiles where the check is remembered, the batch


def raises(*arguments, **options):
    raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")


def differs(*arguments, **options):
    return (torch.zeros(2, 3, 32, 32),)


@pytest.mark.parametrize("compiled, reason", [(raises, "C compiler"), (differs, "differs")])
def test_a_compiled_network_that_fails_gives_way_to_the_plain_one(
    compiled, reason, network, monkeypatch
):
    generator, plain = unchosen(network), Generator(network, CPU, "fp32")
    monkeypatch.setattr(unet, "compile_network", lambda network: compiled)
    x = torch.randn(2, 3, 32, 32)
    with pytest.warns(RuntimeWarning, match=f"the network uncompiled is used: .*{reason}") as told:
        assert torch.equal(generator(x, 500), plain(x, 500))
    assert torch.equal(generator(x, 100), plain(x, 100))
    assert len(told) == 1


def test_a_record_says_that_a_gpu_s_network_was_not_compiled(network, monkeypatch):
    generator = Generator(network, CPU, "fp32")
    assert generator.device_name == "cpu"
    monkeypatch.setattr(unet, "device_name", lambda device: "NVIDIA H200, driver 570.1")
    generator.device = torch.device("cuda")
    assert generator.device_name == "NVIDIA H200, driver 570.1, uncompiled"


def test_upsampling_of_large_batches_keeps_channels_last():
    copy, plain, seen = (load_unet(find_generator("tiny")) for _ in range(2)), None, []
    copy, plain = (module.eval().to(memory_format=torch.channels_last) for module in copy)
    keep_channels_last(copy)
    changed = [module for module in copy.modules() if type(module).__name__ == "Upsample"]
    for module in changed:
        module.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(64, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        found, expected = (net(x, 500, return_dict=False)[0] for net in (copy, plain))
    assert changed
    assert all(entered.is_contiguous(memory_format=torch.channels_last) for entered in seen)
    assert torch.allclose(found, expected, atol=1e-4)
    assert copy.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("broken", [raises, lambda *a: noise._image_noise(*a) + 1])
def test_compiled_noise_that_fails_gives_way_to_the_same_bits(broken, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: broken)
    noise._fastest.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="compiled noise failed its check"):
            assert noise._fastest(CPU) is noise._image_noise
    finally:
        noise._fastest.cache_clear()


def test_a_step_s_noise_copies_nothing_from_the_host(monkeypatch):
    index = torch.arange(3)
    expected = image_noise(5, index, 10), image_noise(5, index, 11)
    monkeypatch.setattr(noise.torch, "tensor", raises)  # a copy would wait for the GPU
    for step, noised in zip((10, 11), expected, strict=True):
        assert torch.equal(image_noise(5, index, step), noised)
