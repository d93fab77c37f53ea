"""The layout of a dataset directory: splits, shards, and the names of their files.

    FOLDER/plan.json                                what decides the content, with its fingerprint
    FOLDER/data/{split}-{k:05d}-of-{K:05d}.tar      the images (worlds/formats/shards.py)
    FOLDER/meta/{split}-{k:05d}.npz and .json       labels and probabilities; hash, counts, timings

The splits follow one another in one global index: with 5,000,000 train and 1,000,000 test images,
test starts at index 5,000,000. Every split is cut on its own into shards of `shard_size`; only a
split's last shard may be shorter.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

PLAN: Final = "plan.json"
FORMAT: Final = 1
CROP: Final = 224  # side of the crops of photographs, where a plan does not say another
MOST_SHARDS: Final = 1_000_000
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


@dataclass(frozen=True)
class Shard:
    """Shard `number` of `count` in a split: the global indices `start` to `stop` - 1."""

    split: str
    number: int
    count: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"

    @property
    def tar(self) -> Path:
        """Relative to the dataset folder, like the two below."""
        return Path("data", f"{self.name}-of-{self.count:05d}.tar")

    @property
    def arrays(self) -> Path:
        return Path("meta", f"{self.name}.npz")

    @property
    def record(self) -> Path:
        return Path("meta", f"{self.name}.json")


@dataclass(frozen=True)
class Layout:
    """Splits (name, length) in global order, and the shard size that cuts each of them."""

    splits: tuple[tuple[str, int], ...]
    shard_size: int

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ValueError(f"shard size must be at least 1, got {self.shard_size}")
        if len({name for name, _ in self.splits}) != len(self.splits):
            raise ValueError(f"split names must differ, got {[name for name, _ in self.splits]}")
        for name, length in self.splits:
            if not name.isidentifier():
                raise ValueError(f"a split name must be letters, digits and '_', got {name!r}")
            if length < 1:
                raise ValueError(f"split {name!r} must hold at least 1 image, got {length}")
        count = sum(-(-length // self.shard_size) for _, length in self.splits)
        if count > MOST_SHARDS:
            raise ValueError(f"a set has at most {MOST_SHARDS:,} shards, these would be {count:,}")

    def __len__(self) -> int:
        return sum(length for _, length in self.splits)

    def shards(self, split: str | None = None) -> list[Shard]:
        """All shards in global order, or those of one split."""
        found, start = [], 0
        for name, length in self.splits:
            count = -(-length // self.shard_size)
            for number in range(count if split in (None, name) else 0):
                first = start + number * self.shard_size
                last = min(first + self.shard_size, start + length)
                found.append(Shard(name, number, count, first, last))
            start += length
        if not found:
            raise ValueError(f"no split {split!r}; there are {[name for name, _ in self.splits]}")
        return found


CARD: Final = "README.md"
TIMM_INFO: Final = "_info.json"
AUDIT: Final = "audit/audit.json"
PARQUET_FOLDER: Final = "parquet"
