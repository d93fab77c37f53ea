"""Compute cifar5m/normal_table.npy, the polynomials that turn a random word into a normal number.

    python tools/make_normal_table.py

The published data depends on this file to the last bit, so it is made once and kept. The table
covers the half normal: with v odd in [1, 2^32), the value is z(v) = -quantile(v / 2^33). Each
octave of v (the position of its leading bit) is cut into 32 equal segments, and each segment has a
cubic in t in [0, 1), its coefficients scaled by 2^30 and rounded to integers.
"""

import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np

OUT = Path(__file__).resolve().parent.parent / "cifar5m" / "normal_table.npy"
OCTAVES, SEGMENTS, SCALE = 32, 32, 2.0**30


def half_normal(v: float) -> float:
    """The |z| whose two tails together have probability v / 2^32."""
    return -NormalDist().inv_cdf(v / 2**33)


def make_table() -> np.ndarray:
    """int64 (4, OCTAVES * SEGMENTS): constant to cubic coefficient of every segment."""
    nodes = (1 - np.cos(np.pi * (2 * np.arange(4) + 1) / 8)) / 2  # Chebyshev, on [0, 1]
    powers = np.vander(nodes, increasing=True)
    table = np.empty((4, OCTAVES * SEGMENTS), dtype=np.int64)
    for segment in range(OCTAVES * SEGMENTS):
        octave, part = divmod(segment, SEGMENTS)
        values = [half_normal(2.0**octave * (1 + (part + t) / SEGMENTS)) for t in nodes]
        table[:, segment] = np.rint(np.linalg.solve(powers, values) * SCALE)
    return table


def main() -> int:
    np.save(OUT, make_table())
    print(f"wrote {OUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
