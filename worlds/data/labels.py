"""Label noise: a wrapper on labels, addressed like everything else, that leaves the clean ones be.

    symmetric   with probability `rate` the label becomes one of the K - 1 others, equally often
    uniform     with probability `rate` the label is drawn anew from all K, the true one included
    pairs       with probability `rate` a class of the table `pairs` becomes its partner (cat: dog)

Sample i is decided by the words of (seed, trial, i), whatever the subset or the order, so a sample
keeps its wrong label for the whole run and in every subset it belongs to. Symmetric noise of rate
0.9 is the fully random labels of ten classes.
"""

from dataclasses import dataclass, field
from numbers import Real
from typing import Literal, get_args

import numpy as np

from worlds.rng.streams import LABEL_NOISE, key_of
from worlds.runtime.checks import integer

Kind = Literal["symmetric", "uniform", "pairs"]


@dataclass(frozen=True)
class LabelNoise:
    """A rule that corrupts labels; `pairs` maps a class to its partner, for that kind alone."""

    kind: Kind
    rate: float
    seed: int = 0
    trial: int = 0
    pairs: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Whole numbers become Python's own, so that states are plain JSON.
        key_of(self.seed)
        for name in ("seed", "trial"):
            object.__setattr__(self, name, integer(name, getattr(self, name)))
        if not 0 <= self.trial < 1 << 32:
            raise ValueError(f"trial must be in [0, 2^32), got {self.trial}")
        if self.kind not in get_args(Kind):
            raise ValueError(
                f"kind of label noise must be one of {get_args(Kind)}, got {self.kind!r}"
            )
        if not (isinstance(self.rate, Real) and 0 <= self.rate <= 1):
            raise ValueError(f"rate of label noise must be between 0 and 1, got {self.rate!r}")
        if (self.kind == "pairs") != bool(self.pairs):
            raise ValueError(f'pairs={{class: partner}} goes with kind "pairs" alone, got {self}')
        pairs = {_label(source): _label(target) for source, target in self.pairs.items()}
        object.__setattr__(self, "pairs", pairs)
        object.__setattr__(self, "rate", float(self.rate))


def _label(value: int) -> int:
    return integer("a class in pairs", value)


def noisy_labels(clean: np.ndarray, noise: LabelNoise, classes: int) -> np.ndarray:
    """Return the labels after noise, int64 (N,); `clean` holds the labels of samples 0 to N - 1."""
    from worlds.rng.kernels import first_words

    # A pair of classes that the data does not have would never be seen to do nothing.
    strangers = {c for pair in noise.pairs.items() for c in pair if not 0 <= c < classes}
    if strangers:
        raise ValueError(f"pairs name the classes {sorted(strangers)}, but there are {classes}")
    # Of each sample one word decides whether its label changes, another one to what.
    key = np.array(key_of(noise.seed), dtype=np.uint64)
    decides, chooses = first_words(len(clean), key, LABEL_NOISE, noise.trial).T  # (N,) each
    clean = clean.astype(np.int64)
    if noise.kind == "symmetric":
        others = (chooses * np.uint64(classes - 1)) >> np.uint64(32)
        wrong = (clean + 1 + others.astype(np.int64)) % classes
    elif noise.kind == "uniform":
        wrong = ((chooses * np.uint64(classes)) >> np.uint64(32)).astype(np.int64)
    else:
        partner = np.arange(classes)
        partner[list(noise.pairs)] = list(noise.pairs.values())
        wrong = partner[clean]
    return np.where(decides < round(noise.rate * 2**32), wrong, clean)
