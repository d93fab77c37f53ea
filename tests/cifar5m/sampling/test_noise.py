"""The noise: its frozen values, the exactness of its map, and its statistics.

The statistical tests use fixed addresses, so they always give the same answer; the odds beside them
are those of a false alarm for noise as good as true normal numbers.
"""

import hashlib
import importlib.util
import math
import shutil
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch

from cifar5m.sampling import noise as noise_module
from cifar5m.sampling.noise import _normal_table, image_noise, to_normal

NORMAL = NormalDist()
TOOL = Path(__file__).resolve().parents[3] / "tools" / "make_normal_table.py"
TABLE = _normal_table(torch.device("cpu"))


def normals_of(words):
    return to_normal(torch.as_tensor(words), TABLE)


@pytest.fixture(scope="module")
def noise():
    """300 images, 921,600 numbers."""
    return image_noise(2024, torch.arange(300), 500)


# Every published image rests on these bits: the same (seed, image, step) must give them for ever,
# on every machine. If this test fails, the change that made it fail makes another dataset.
@pytest.mark.parametrize(
    "seed, index, step, first, sha256",
    [
        (
            0,
            0,
            0,
            "3e82fa50 be9bb4f1 bf385c81 bfa01e25 bd8e9df7 3eb4ac05",
            "dfc5f0cf35eb86df4198615ce69cf345b312b3b4de8fa0d1098abeec9cd19d05",
        ),
        (
            0,
            0,
            1000,
            "4035f2a4 3f08ea9d 3f060222 bf6ea2b3 bf0b7a29 bf2a7feb",
            "c9703b720b8a90eab95b1b0fe77271552b2f4572f517dfb37ae7115dd107c7b3",
        ),
        (
            0,
            5999999,
            999,
            "3fd17693 bf53046b 3fa3b518 3f857aa7 be8745a2 bec66e5d",
            "15e14158b7e0fc2d4cad1b17e3a32420b3481fece382907795ce1d1e155c0a6a",
        ),
        (
            18446744073709551615,
            8589934592,
            1,
            "bed82bd1 bf74ef53 bf70fd15 bee72f9d 3fc90e7c 402f77b9",
            "28b24bf0c2f31619943f8a827fd2a9e215a0dea5c032c911afeafb2cdf723707",
        ),
    ],
)
def test_the_noise_of_an_image_never_changes(seed, index, step, first, sha256):
    found = image_noise(seed, torch.tensor([index]), step)
    bits = found.flatten()[:6].view(torch.int32).tolist()
    assert " ".join(f"{word & 0xFFFFFFFF:08x}" for word in bits) == first
    assert hashlib.sha256(found.numpy().astype("<f4").tobytes()).hexdigest() == sha256


def test_the_table_is_what_its_tool_computes():
    spec = importlib.util.spec_from_file_location("make_normal_table", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    # The last digit of a coefficient may depend on the math library; that is why the file is kept.
    assert np.abs(tool.make_table() - TABLE.numpy()).max() <= 1


def test_the_map_is_the_inverse_of_the_normal_distribution():
    edges = {min(max(2**k + d, 0), 2**31 - 1) for k in range(32) for d in (-2, -1, 0, 1)}
    low = sorted(edges) + np.random.default_rng(0).integers(0, 2**31, 4000).tolist()
    exact = np.array([-NORMAL.inv_cdf((2 * word + 1) / 2**33) for word in low])
    tolerance = 4e-9 + 2.0**-24 * np.abs(exact)  # of the cubics, and of rounding to float32
    found = normals_of(low).double().numpy()
    assert (np.abs(found - exact) <= tolerance).all()
    assert torch.equal(normals_of([word | 1 << 31 for word in low]).double(), -torch.tensor(found))


def test_the_largest_magnitude_is_6_338():
    assert normals_of([0, 1 << 31]).tolist() == pytest.approx([6.3379578, -6.3379578], abs=1e-6)
    assert 2 * NORMAL.cdf(-6.3379578) == pytest.approx(2.0**-32, rel=1e-5)


@pytest.mark.parametrize("limit", [0.5, 1, 2, 3, 4, 5, 6])
def test_as_many_words_lie_beyond_a_limit_as_a_normal_number_does(limit):
    low, high = 0, 1 << 31  # the map falls from 6.338 to 0 over the 31 low bits
    while low < high:
        middle = (low + high) // 2
        if normals_of([middle]).item() > limit:
            low = middle + 1
        else:
            high = middle
    expected = 2**32 * NORMAL.cdf(-limit)
    assert low == pytest.approx(expected, rel=1e-6, abs=1)


def test_moments_to_the_sixth_are_normal(noise):
    z = noise.double().flatten()
    moments = [1, 0, 1, 0, 3, 0, 15, 0, 105, 0, 945, 0, 10395]
    for k in range(1, 7):
        spread = math.sqrt((moments[2 * k] - moments[k] ** 2) / len(z))
        # 4.5 standard errors: odds 7e-6 for each of six.
        assert abs((z**k).mean().item() - moments[k]) < 4.5 * spread, k


@pytest.mark.parametrize("limit", [2, 3, 4])
def test_the_tails_are_normal(noise, limit):
    expected = noise.numel() * 2 * NORMAL.cdf(-limit)  # 41,931, 2,488 and 58
    found = (noise.abs() > limit).sum().item()
    assert abs(found - expected) < 4.5 * math.sqrt(expected)  # odds 7e-6


def test_five_sigma_is_as_rare_as_it_should_be(noise):
    # 0.53 are expected; more than 6 has odds 2e-6.
    assert (noise.abs() > 5).sum().item() <= 6


def test_the_distribution_is_normal_by_kolmogorov_and_smirnov(noise):
    z = noise.double().flatten().sort().values
    places = torch.arange(len(z) + 1, dtype=torch.float64) / len(z)
    cdf = torch.special.ndtr(z)
    distance = max((places[1:] - cdf).max().item(), (cdf - places[:-1]).max().item())
    assert distance * math.sqrt(len(z)) < 2.5  # odds 2 exp(-2 * 2.5^2) = 7e-6


NEIGHBORS = {
    "columns": lambda z: (z[..., :-1], z[..., 1:]),
    "rows": lambda z: (z[..., :-1, :], z[..., 1:, :]),
    "channels": lambda z: (z[:, :-1], z[:, 1:]),
    "images": lambda z: (z[:-1], z[1:]),
    "steps": lambda z: (z[:100], image_noise(2024, torch.arange(100), 501)),
    "seeds": lambda z: (z[:100], image_noise(2025, torch.arange(100), 500)),
    "opposite corners": lambda z: (z, z.flip(1, 2, 3)),
}


@pytest.mark.parametrize("neighbors", NEIGHBORS)
@pytest.mark.parametrize(
    "of", [lambda z: z, lambda z: (z**2 - 1) / math.sqrt(2)], ids=["values", "squares"]
)
def test_neighbors_are_independent(noise, neighbors, of):
    a, b = (of(part.double()).flatten() for part in NEIGHBORS[neighbors](noise))
    if neighbors == "opposite corners":
        a, b = a[: len(a) // 2], b[: len(b) // 2]
    correlation = (a * b).mean().item()
    # The product has mean 0 and variance 1: 4.5 standard errors have odds 7e-6, 1e-4 for all 14.
    # (Heavy tails of squared pairs make that a little more.)
    assert abs(correlation) < 4.5 / math.sqrt(len(a))


def test_an_image_has_the_same_noise_alone_and_in_any_batch():
    together = image_noise(7, torch.arange(990, 1022), 3)
    assert together.shape == (32, 3, 32, 32)
    assert together.dtype == torch.float32
    for row in (0, 13, 31):
        assert torch.equal(image_noise(7, torch.tensor([990 + row]), 3)[0], together[row])
    shuffled = torch.tensor([1021, 990, 1003])
    assert torch.equal(image_noise(7, shuffled, 3), together[shuffled - 990])


def test_every_coordinate_makes_other_noise():
    def of(seed, index, step):
        return image_noise(seed, torch.tensor([index]), step)

    found = [of(1, 1, 1), of(2, 1, 1), of(1, 2, 1), of(1, 1, 2), of(1, 1 + 2**32, 1)]
    found += [of(1 + 2**32, 1, 1)]
    for a, b in pairwise(found):
        assert (a != b).float().mean() > 0.99


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(ValueError, match=rf"seed must be in \[0, 2\^64\), got {seed}"):
        image_noise(seed, torch.tensor([0]), 0)


@pytest.mark.parametrize("step", [-1, 1 << 32])
def test_a_bad_step_is_refused(step):
    with pytest.raises(ValueError, match=rf"step must be in \[0, 2\^32\), got {step}"):
        image_noise(0, torch.tensor([0]), step)


# torch's compiler imports torch.jit, which warns of its own deprecation.
TORCH_COMPILES = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@pytest.mark.slow
@TORCH_COMPILES
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for the CPU needs g++")
def test_the_compiled_graph_gives_the_same_bits_for_any_seed(monkeypatch):
    cases = [(3, 999, 4), (2**64 - 1, 0, 4), (2**63, 2**32 - 1, 1), (5, 1, 50)]
    expected = [image_noise(seed, torch.arange(n), step) for seed, step, n in cases]
    monkeypatch.setattr(noise_module, "_image_noise", torch.compile(noise_module._image_noise))
    for (seed, step, n), bits in zip(cases, expected, strict=True):
        assert torch.equal(image_noise(seed, torch.arange(n), step), bits), seed


@pytest.mark.gpu
@TORCH_COMPILES
def test_the_gpu_gives_the_bits_of_the_cpu():
    index = torch.arange(5_999_900, 6_000_000)
    for seed in (11, 2**64 - 1):
        assert torch.equal(image_noise(seed, index.cuda(), 9).cpu(), image_noise(seed, index, 9))
