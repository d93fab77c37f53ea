"""Philox 4x32-10 and what is drawn from it, compiled by numba without the GIL."""

from typing import Any, Final

import numpy as np

from worlds.rng.compiled import compiled

Scalar = Any  # uint64 unless said otherwise; numba sees the types of the arguments


_U = np.uint64


_MASK: Final = np.uint64(0xFFFFFFFF)
_AHEAD: Final = np.uint64(64)


@compiled()
def philox4(
    c0: Scalar, c1: Scalar, c2: Scalar, c3: Scalar, k0: Scalar, k1: Scalar
) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """Return Philox 4x32-10 of uint64 scalars that hold 32-bit words, see worlds/rng/philox.py."""
    for _ in range(10):
        p0 = c0 * _U(0xD2511F53)
        p1 = c2 * _U(0xCD9E8D57)
        c0 = (p1 >> _U(32)) ^ c1 ^ k0
        c1 = p1 & _MASK
        c2 = (p0 >> _U(32)) ^ c3 ^ k1
        c3 = p0 & _MASK
        k0 = (k0 + _U(0x9E3779B9)) & _MASK
        k1 = (k1 + _U(0xBB67AE85)) & _MASK
    return c0, c1, c2, c3


@compiled(error_model="numpy")
def _philox_row(
    c0: Scalar, c1: Scalar, c2: Scalar, c3: Scalar, k0: Scalar, k1: Scalar, out: np.ndarray
) -> None:
    """Write `philox4` of (c0 + k, c1, c2, c3) to each column k of `out`, uint64 (4, K).

    The rounds are outside, so that the columns of each are computed together in vector registers:
    four times as fast as one after the other.
    """
    w0, w1, w2, w3 = out[0], out[1], out[2], out[3]  # (K,) each
    for k in range(out.shape[1]):
        w0[k], w1[k], w2[k], w3[k] = c0 + _U(k), c1, c2, c3
    for _ in range(10):
        for k in range(out.shape[1]):
            p0 = (w0[k] & _MASK) * _U(0xD2511F53)
            p1 = (w2[k] & _MASK) * _U(0xCD9E8D57)
            w0[k] = (p1 >> _U(32)) ^ w1[k] ^ k0
            w1[k] = p1 & _MASK
            w2[k] = (p0 >> _U(32)) ^ w3[k] ^ k1
            w3[k] = p0 & _MASK
        k0 = (k0 + _U(0x9E3779B9)) & _MASK
        k1 = (k1 + _U(0xBB67AE85)) & _MASK


@compiled()
def _scaled(high: Scalar, low: Scalar, n: Scalar) -> Scalar:
    """Return a 64-bit word times n / 2^64, rounded down; n < 2^32. No value is favored by more than
    n / 2^64.
    """
    return (high * n + ((low * n) >> _U(32))) >> _U(32)


@compiled()
def shuffled_prefix(
    n: Scalar, count: Scalar, key: np.ndarray, stream: Scalar, major: Scalar, minor: Scalar
) -> np.ndarray:
    """Return the first `count` entries of the permutation of range(n), uint32, that (key, stream,
    major, minor) names.

    Fisher-Yates from the front, entry i drawing words 2 (i mod 2) and 2 (i mod 2) + 1 of block
    i // 2: a longer prefix starts with every shorter one. n < 2^32; key is uint64 (2,).

    The partners of `_AHEAD` entries are drawn and read before the first of them is swapped: the
    reads do not wait for each other, which counts where the permutation is larger than the cache.
    """
    # Start from the natural order.
    order = np.empty(n, np.uint32)
    for i in range(_U(n)):
        order[i] = i
    # Draw and read `_AHEAD` partners, then swap them one by one.
    m, top = _U(minor) & _MASK, (_U(stream) << _U(24)) | (_U(minor) >> _U(32))
    words = np.empty((4, _AHEAD >> _U(1)), np.uint64)  # two entries a block of words
    partners, read = np.empty(_AHEAD, np.uint64), np.empty(_AHEAD, np.uint32)
    for start in range(_U(0), _U(count), _AHEAD):
        _philox_row(start >> _U(1), _U(major), m, top, key[0], key[1], words)
        for k in range(_AHEAD >> _U(1)):  # what is drawn behind the end is not used
            even, odd = start + _U(2) * k, start + _U(2) * k + _U(1)
            partners[_U(2) * k] = even + _scaled(words[0, k], words[1, k], _U(n) - even)
            partners[_U(2) * k + _U(1)] = odd + _scaled(words[2, k], words[3, k], _U(n) - odd)
        size = min(_AHEAD, _U(count) - start)
        # Reading ahead brings the partners into the cache together.
        for k in range(size):
            read[k] = order[partners[k]]
        for k in range(size):
            entry, partner = start + k, partners[k]
            order[entry], order[partner] = order[partner], order[entry]
    return order[:count]


@compiled()
def draws_with_replacement(
    n: Scalar, positions: np.ndarray, key: np.ndarray, stream: Scalar, major: Scalar
) -> np.ndarray:
    """Return one uniform index below n for each position (int64), as uint32; n < 2^32."""
    drawn = np.empty(len(positions), np.uint32)
    for i in range(len(positions)):
        p = _U(positions[i])
        w0, w1, _, _ = philox4(
            _U(0), _U(major), p & _MASK, (_U(stream) << _U(24)) | (p >> _U(32)), key[0], key[1]
        )
        drawn[i] = _scaled(w0, w1, _U(n))
    return drawn


@compiled()
def first_words(count: Scalar, key: np.ndarray, stream: Scalar, major: Scalar) -> np.ndarray:
    """Return the first two words for each minor from 0 to count - 1, uint64 (count, 2)."""
    words = np.empty((count, 2), np.uint64)
    for i in range(_U(count)):
        top = (_U(stream) << _U(24)) | (i >> _U(32))
        w0, w1, _, _ = philox4(_U(0), _U(major), i & _MASK, top, key[0], key[1])
        words[i, 0], words[i, 1] = w0, w1
    return words


@compiled()
def word_rows(
    minors: np.ndarray, blocks: Scalar, key: np.ndarray, stream: Scalar, major: Scalar
) -> np.ndarray:
    """Return the first 4 * blocks words of each minor (int64), uint64 (N, 4 * blocks)."""
    words = np.empty((len(minors), 4 * blocks), np.uint64)
    for i in range(len(minors)):
        m = _U(minors[i])
        top = (_U(stream) << _U(24)) | (m >> _U(32))
        for k in range(blocks):
            drawn = philox4(_U(k), _U(major), m & _MASK, top, key[0], key[1])
            for w in range(4):
                words[i, 4 * k + w] = drawn[w]
    return words
