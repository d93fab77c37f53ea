import numpy as np
import pytest
import torch

from worlds.loaders import kernels
from worlds.loaders.augment import Augment, augment_batch, parse_augment, visible_bytes
from worlds.loaders.pipelines import DTYPES
from worlds.rng import kernels as rng_kernels
from worlds.rng.orders import key_words
from worlds.rng.philox import words
from worlds.rng.streams import AUGMENT, key_of

ONES = 0xFFFFFFFF

# Random123's known answers for philox4x32-10 (its file kat_vectors).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("counter, key, expected", KNOWN)
def test_philox_gives_the_known_answers(counter, key, expected):
    assert rng_kernels.philox4(*map(np.uint64, (*counter, *key))) == expected


def test_philox_equals_the_torch_one():
    seed, trial, positions = 2**63 + 12345, 7, torch.tensor([0, 1, 2**32, 2**40 + 3, 2**56 - 1])
    expected = words(seed, AUGMENT, trial, positions, blocks=1).tolist()
    for position, row in zip(positions.tolist(), expected, strict=True):
        counter = (0, trial, position & ONES, AUGMENT << 24 | position >> 32)
        assert rng_kernels.philox4(*map(np.uint64, (*counter, *key_of(seed)))) == tuple(row)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1001, 70_000])
def test_a_shuffle_is_a_permutation_and_its_prefixes_are_nested(n):
    key = np.array(key_of(5), dtype=np.uint64)
    whole = rng_kernels.shuffled_prefix(n, n, key, 2, 0, 0)
    assert np.array_equal(np.sort(whole), np.arange(n))
    for count in (0, 1, n // 2, n):
        assert np.array_equal(rng_kernels.shuffled_prefix(n, count, key, 2, 0, 0), whole[:count])


def test_every_order_of_three_is_equally_frequent():
    counts = {}
    for seed in range(6000):
        order = tuple(rng_kernels.shuffled_prefix(3, 3, key_words(seed), 2, 0, 0))
        counts[order] = counts.get(order, 0) + 1
    chi_square = sum((count - 1000) ** 2 / 1000 for count in counts.values())
    assert len(counts) == 6
    assert (
        chi_square < 20.5
    )  # 5 degrees of freedom: exceeded by chance once in 1,000 choices of seeds


AUGMENTS = [
    Augment(),
    parse_augment("flip"),
    parse_augment("crop+flip"),
    parse_augment("crop+flip+cutout"),
    Augment(pad=4, reflect=True),
    Augment(pad=2, reflect=True, flip=True, cutout=6),
]


def filled(images, positions, augment, seed, trial, dtype, channels_last):
    """What the kernel makes, with the signature of `augment_batch`."""
    count, height, width, _ = images.shape
    start = images.ctypes.data + np.arange(count) * images[0].nbytes
    name = np.array([*key_of(seed), AUGMENT, trial], dtype=np.uint64)
    fields = (augment.pad, augment.reflect, augment.flip, augment.cutout)
    options = np.array([*fields, channels_last, height, width], dtype=np.uint64)
    visible = visible_bytes(augment, height, width, channels_last)
    arguments = (start.astype(np.uint64), positions.astype(np.uint64), name, options, visible)
    out = np.full(images.size, 99, DTYPES[dtype])
    kernels.fill(*arguments, out)
    flat = torch.from_numpy(out).view(dtype)
    if channels_last:
        return flat.view(count, height, width, 3).permute(0, 3, 1, 2)
    return flat.view(count, 3, height, width)


@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (9, 13)])
def test_the_kernel_equals_the_definition_to_the_bit(augment, dtype, channels_last, size):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, *size, 3), dtype=np.uint8)
    positions = np.arange(60) * 7 + 2**33
    found = filled(images, positions, augment, 2**40 + 1, 3, dtype, channels_last)
    tensors = torch.from_numpy(images), torch.from_numpy(positions)
    expected = augment_batch(tensors[0], augment, 2**40 + 1, 3, tensors[1], dtype, channels_last)
    assert torch.equal(found, expected)


def test_draws_with_replacement_are_uniform_and_addressed():
    key = np.array(key_of(1), dtype=np.uint64)
    drawn = rng_kernels.draws_with_replacement(10, np.arange(100_000), key, 5, 0)
    counts = np.bincount(drawn, minlength=10)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 27.9  # 9 degrees of freedom, 1 in 1,000 seeds
    some = np.array([5, 77_777, 99_999])
    assert np.array_equal(rng_kernels.draws_with_replacement(10, some, key, 5, 0), drawn[some])


def test_first_words_equal_the_torch_ones():
    expected = words(9, 4, 2, torch.arange(50), blocks=1)[:, :2]
    found = rng_kernels.first_words(50, np.array(key_of(9), dtype=np.uint64), 4, 2)
    assert found.tolist() == expected.tolist()
