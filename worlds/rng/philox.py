"""Philox 4x32-10: random words that are addressed, not streamed (Salmon et al., SC 2011, "Parallel
random numbers: as easy as 1, 2, 3").

A word is a pure function of a 128-bit counter and a 64-bit key. The project lays the counter out
once, for every use:

    key     = seed                         (low word, high word)
    counter = (block, major, minor low, stream << 24 | minor high)

`stream` says what the words are for, so that no two uses ever share one; `minor` (up to 56 bits) is
the sample or image, `major` (32 bits) the step, epoch or trial, and `block` counts groups of four
words. Any device, batch size, process count or restart therefore sees the same words for the same
thing.

Everything here is 64-bit integer arithmetic in torch, so the CPU, a GPU and a compiled graph give
equal bits.
"""

import torch

from worlds.rng.streams import MASK, key_of

_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85  # golden ratio and sqrt(3) - 1, as 32-bit fractions

Words = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
Key = tuple[int, int] | tuple[torch.Tensor, torch.Tensor]


def philox(counter: Words, key: Key) -> Words:
    """Run ten rounds over int64 tensors that hold 32-bit words (0 to 2^32 - 1); the result has
    their broadcast shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The product wraps as a signed 64-bit number; its bits are right, and the mask drops the
        # sign's copies.
        p0, p1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            ((p1 >> 32) & MASK) ^ c1 ^ k0,
            p1 & MASK,
            ((p0 >> 32) & MASK) ^ c3 ^ k1,
            p0 & MASK,
        )
        k0, k1 = (k0 + _WEYL_0) & MASK, (k1 + _WEYL_1) & MASK
    return c0, c1, c2, c3


def words(
    seed: int, stream: int, major: int | torch.Tensor, minor: torch.Tensor, blocks: int
) -> torch.Tensor:
    """Return 4 * blocks words for each entry of `minor`.

    `minor` is int64 (N,), each in [0, 2^56); `major` in [0, 2^32) is one number, or a tensor of
    none or N of them. The result is int64 (N, 4 * blocks) on the device of `minor`, values in
    [0, 2^32).
    """
    if isinstance(major, int) and not 0 <= major <= MASK:
        raise ValueError(f"major must be in [0, 2^32), got {major}")
    block = torch.arange(blocks, device=minor.device)
    return words_of_key(key_of(seed), stream, major, minor, block)


def words_of_key(
    key: Key, stream: int, major: int | torch.Tensor, minor: torch.Tensor, block: torch.Tensor
) -> torch.Tensor:
    """Return `words` of a key, not a seed, and of the numbers of the blocks, without checks.

    A compiled caller hands the key in as two int64 tensors of one word: an integer is compiled in,
    and at the second seed becomes a symbol, which torch 2.13 failed to compile for the CPU. And it
    hands in the blocks: made inside, Inductor counts them in 32 bits, and their product with a
    multiplier above 2^31 does not compile for a GPU (seen with torch 2.11, Triton 3.6).
    """
    minor = minor.unsqueeze(1)  # (N, 1)
    counter = (
        block.expand(len(minor), len(block)),
        torch.as_tensor(major, device=minor.device).reshape(-1, 1),
        minor & MASK,
        (minor >> 32) | (stream << 24),
    )
    return torch.stack(philox(counter, key), dim=-1).flatten(1)  # (N, blocks, 4) => (N, 4 * blocks)
