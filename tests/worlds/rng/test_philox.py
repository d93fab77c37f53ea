"""Philox against its published answers, and the project's own addresses."""

import pytest
import torch

from worlds.rng import philox, streams

ONES = 0xFFFFFFFF


def as_words(values):
    return tuple(torch.tensor([value]) for value in values)


# From the known answers (kat_vectors) of Random123: philox4x32, 10 rounds.
@pytest.mark.parametrize(
    "counter, key, answer",
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ONES,) * 4, (ONES,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, answer):
    found = philox.philox(as_words(counter), key)
    assert " ".join(f"{word.item():08x}" for word in found) == answer


# Every published image, subset and order rests on these words. If this test fails, the change that
# made it fail makes another dataset: take the change back.
@pytest.mark.parametrize(
    "seed, stream, major, minor, answer",
    [
        (
            0,
            streams.NOISE,
            0,
            0,
            "6627e8d5 e169c58d bc57ac4c 9b00dbd8 f8e4cca4 5cb200db b1a574eb 097eff67",
        ),
        (
            0,
            streams.NOISE,
            1000,
            5999999,
            "777bbbdd 7b95a0ea 0699feb6 80689d1f 9b2040a2 3baa9c30 3f8b9681 b29bfa43",
        ),
        (
            9223372036854788153,
            streams.SUBSET,
            3,
            0,
            "e3264f71 c091b250 7aec5299 0c1fdb7c 5b700438 87fe5d1e 62e04054 8c259ed1",
        ),
        (
            42,
            streams.ORDER,
            99,
            1000000,
            "a28b50dd ea85d8eb e7233410 021a67ef 2530d2d6 76f47fd7 b017aafd d034892b",
        ),
        (
            42,
            streams.AUGMENT,
            0,
            1099511627793,
            "b2e17ca3 7eb51bb8 69a4e7d3 f21f40ae 094c1f5d 9aae3a84 6307e944 9113d2b8",
        ),
        (
            1,
            streams.PREVIEW,
            0,
            123,
            "3289ceed 5dc29bcf 377872d2 63640d30 a802de09 f85b5244 ce40944a 7e897889",
        ),
    ],
)
def test_the_projects_words_never_change(seed, stream, major, minor, answer):
    found = philox.words(seed, stream, major, torch.tensor([minor]), 2)
    assert " ".join(f"{word:08x}" for word in found[0].tolist()) == answer


def test_words_lay_the_counter_out_as_documented():
    seed, stream, major, minor = 0x0123456789ABCDEF, 3, 77, (0xABCDEF << 32) | 0x12345678
    counter = (1, major, 0x12345678, stream << 24 | 0xABCDEF)
    expected = philox.philox(as_words(counter), (0x89ABCDEF, 0x01234567))
    found = philox.words(seed, stream, major, torch.tensor([minor]), 2)
    assert found[0, 4:].tolist() == [word.item() for word in expected]


def test_words_lie_in_32_bits_and_fill_them():
    found = philox.words(5, streams.NOISE, 3, torch.arange(1000), 8)
    assert found.shape == (1000, 32)
    assert found.dtype == torch.int64
    assert 0 <= found.min() < 1 << 20 < ONES - (1 << 20) < found.max() <= ONES


def test_a_word_does_not_depend_on_its_neighbors():
    together = philox.words(9, streams.ORDER, 4, torch.arange(100), 3)
    alone = philox.words(9, streams.ORDER, 4, torch.tensor([37]), 1)
    assert torch.equal(alone[0], together[37, :4])


def test_a_tensor_of_majors_equals_one_major_each():
    majors = torch.tensor([0, 7, 0xFFFFFFFF])
    minor = torch.tensor([1, 2, 3])
    found = philox.words(1, streams.SUBSET, majors, minor, 2)
    for row in range(3):
        alone = philox.words(1, streams.SUBSET, majors[row].item(), minor[row : row + 1], 2)
        assert torch.equal(found[row], alone[0])


def test_no_coordinate_is_ignored():
    base = {"seed": 1, "stream": 1, "major": 1, "minor": 1}
    changes = [{}, {"seed": 2}, {"seed": 1 | 1 << 32}, {"seed": 1 | 1 << 63}, {"stream": 2}]
    changes += [{"major": 2}, {"minor": 2}, {"minor": 1 | 1 << 32}, {"minor": 1 | 1 << 55}]
    found = set()
    for change in changes:
        address = base | change
        address["minor"] = torch.tensor([address["minor"]])
        found.update(philox.words(**address, blocks=4)[0].tolist())
    # 9 addresses of 16 words: two of 144 random words are equal with odds 2.4e-6.
    assert len(found) == 16 * len(changes)


def test_no_two_uses_share_a_stream():
    found = [v for name, v in vars(streams).items() if name.isupper() and name != "MASK"]
    assert len(found) >= 8
    assert len(set(found)) == len(found)
    assert all(0 <= stream < 1 << 8 for stream in found)


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_a_seed_outside_64_bits_is_refused(seed):
    with pytest.raises(ValueError, match=rf"seed must be in \[0, 2\^64\), got {seed}"):
        philox.words(seed, streams.NOISE, 0, torch.tensor([0]), 1)


@pytest.mark.parametrize("major", [-1, 1 << 32])
def test_a_major_outside_32_bits_is_refused(major):
    with pytest.raises(ValueError, match=rf"major must be in \[0, 2\^32\), got {major}"):
        philox.words(0, streams.NOISE, major, torch.tensor([0]), 1)


@pytest.mark.gpu
def test_the_gpu_gives_the_words_of_the_cpu():
    minor = torch.arange(0, 1 << 40, (1 << 40) // 1000 + 1)
    cpu = philox.words(123456789, streams.AUGMENT, 5, minor, 4)
    assert torch.equal(philox.words(123456789, streams.AUGMENT, 5, minor.cuda(), 4).cpu(), cpu)
