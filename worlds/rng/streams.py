"""The purposes of random words, and their key: the part of `worlds.rng.philox` without torch."""

from typing import Final

from worlds.runtime.checks import integer

NOISE: Final = 0  # of a generated image: minor = image index, major = diffusion step
SUBSET: Final = 1  # of a Real World: major = trial
ORDER: Final = 2  # of a pass: major = epoch
AUGMENT: Final = 3  # crop, flip and cutout: minor = global position in the training stream
LABEL_NOISE: Final = 4  # minor = sample index
BOOTSTRAP: Final = 5  # draws with replacement: minor = global position, major = trial
DECODE: Final = 6  # RandomResizedCrop of photographs: minor = global position
ARCHITECTURE: Final = 7  # of a random DARTS network: major 0 = genotype, 1 = width and cells
PREVIEW: Final = 8  # the choice of images on a contact sheet: minor = image index
TRAINING: Final = 9  # torch's generator in a run (weights, dropout): major = trial
EVALUATION: Final = 10  # crops and flips under which train metrics are taken: major = trial
CLASS: Final = 11  # requested of a conditional generator: minor = block of as many images
SHARDS: Final = 12  # order of a stream's shards: major = epoch, minor = trial
WITHIN: Final = 13  # order within a shard: major = epoch, minor = trial << 24 | place of the shard
WINDOW: Final = 14  # how the shards of a window take turns: as WITHIN, of the window's first shard
TEACHER: Final = 15  # a pool made on the fly: major 0 = image, 1 and more = a layer's weights

MASK: Final = 0xFFFFFFFF

Name = tuple[int, int]  # seed and trial, which name a stream


def key_of(seed: int) -> tuple[int, int]:
    """Return the Philox key of a seed; ValueError unless it is in [0, 2^64)."""
    seed = integer("seed", seed)
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must be in [0, 2^64), got {seed}")
    return seed & MASK, seed >> 32


def stream_name(own: int | None, seed: int, trial: int) -> Name:
    """Return the name of a stream: (seed, trial), or its own seed, the same in every trial."""
    if own is None:
        return seed, trial
    key_of(own)
    return own, 0
