"""The noise of a generated image: a pure function of (seed, image index, step), equal to the bit on
every machine.

Words come from Philox (worlds/rng/philox.py). A word becomes a normal number by the inverse of the
normal distribution, evaluated in integers: a sign bit, and 31 bits that select and evaluate a cubic
from a table (tools/make_normal_table.py). No logarithm, cosine or floating-point sum takes part, so
neither the math library, nor fused multiply-adds, nor the batch, nor the device can change a bit.
The cubics, evaluated in integers, err by less than 4e-9 (at 288,928 points, up to 501 in each
segment); rounding to float32 errs by up to 2.4e-7. The largest magnitude is 6.338, which a normal
number exceeds once in 2^32 draws.
"""

from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch

from worlds.rng.philox import Key, words_of_key
from worlds.rng.streams import NOISE, key_of
from worlds.runtime.selfcheck import passes

IMAGE_SHAPE = (3, 32, 32)
_BLOCKS = 3 * 32 * 32 // 4


@lru_cache(maxsize=8)
def _normal_table(device: torch.device) -> torch.Tensor:
    """Load the coefficients of each segment, scaled by 2^30: int64 (4, 1024) on `device`."""
    with files("cifar5m.sampling").joinpath("normal_table.npy").open("rb") as stream:
        return torch.from_numpy(np.load(stream)).to(device)


def to_normal(word: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Map words (int64 in [0, 2^32)) to standard normal float32 of the same shape."""
    # 31 bits select a segment by their leading one, and a place in it.
    v = ((word & 0x7FFFFFFF) << 1) | 1
    bits = v.double().view(torch.int64)  # exact: the exponent is the octave, the fraction the place
    segment = (bits >> 47) - (1023 << 5)
    t = (bits & ((1 << 47) - 1)) >> 20  # 27 bits
    # Horner's rule in integers, then the sign.
    z = table[3][segment]
    for coefficient in (table[2], table[1], table[0]):
        z = coefficient[segment] + ((z * t) >> 27)
    return torch.where(word >> 31 == 1, -z, z).float() * 2.0**-30


@lru_cache(maxsize=8)
def _tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the numbers of the blocks, int64 (768,), and the normal table."""
    return torch.arange(_BLOCKS, device=device), _normal_table(device)


def _image_noise(
    key: Key, step: torch.Tensor, index: torch.Tensor, block: torch.Tensor, table: torch.Tensor
) -> torch.Tensor:
    return to_normal(words_of_key(key, NOISE, step, index, block), table).view(-1, *IMAGE_SHAPE)


@lru_cache(maxsize=8)
def _key_words(key: tuple[int, int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = torch.tensor(key, device=device)
    return low, high


@lru_cache(maxsize=8)
def _fastest(device: torch.device) -> Callable[..., torch.Tensor]:
    """Return the noise as one kernel in place of about 120 integer operations, if its bits are the
    same.
    """
    compiled, cpu = torch.compile(_image_noise), torch.device("cpu")

    def made(noise: Callable[..., torch.Tensor], where: torch.device) -> torch.Tensor:
        step, index = torch.full((), 7, device=where), torch.arange(9, device=where) + (1 << 33)
        return noise(_key_words((1 << 31, 5), where), step, index, *_tables(where)).cpu()

    def is_equal() -> bool:
        return torch.equal(made(compiled, device), made(_image_noise, cpu))

    return compiled if passes("compiled noise", device, is_equal, "PyTorch") else _image_noise


def image_noise(seed: int, index: torch.Tensor, step: int) -> torch.Tensor:
    """Return standard normal float32 (N, 3, 32, 32) for image indices int64 (N,).

    `step` is the diffusion step the noise belongs to: 0 to T - 1 for noise added after the network
    call at that time step, T for the starting noise.
    """
    key = key_of(seed)
    if not 0 <= step < 1 << 32:
        raise ValueError(f"step must be in [0, 2^32), got {step}")
    device = index.device
    step_word = torch.full((), step, device=device)  # written there: a copy would wait for the GPU
    noise = _fastest(device) if device.type == "cuda" else _image_noise
    return noise(_key_words(key, device), step_word, index, *_tables(device))
