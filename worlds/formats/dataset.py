"""A dataset directory as one object: its plan, its shards and their files.

dataset = DatasetFolder.open(Path("out/cifar5m"))
for shard in dataset.shards:
    print(shard.name, dataset.is_finished(shard), dataset.record(shard).classes)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from worlds.formats.layout import Shard
from worlds.formats.plan import Plan, load_plan
from worlds.formats.shards import Record, SideArrays, is_finished, load_record, read_arrays


@dataclass(frozen=True)
class DatasetFolder:
    """The directory at `path` and the plan it belongs to."""

    path: Path
    plan: Plan

    @classmethod
    def open(cls, path: Path) -> "DatasetFolder":
        """Load the plan; ValueError if there is none, or names what is wrong in it."""
        return cls(path, load_plan(path))

    @cached_property
    def shards(self) -> list[Shard]:
        """All shards of the plan in global order, made or not."""
        return self.plan.layout.shards()

    def record(self, shard: Shard) -> Record:
        """Return a shard's record; ValueError if it is missing or invalid."""
        return load_record(self.path, shard)

    def arrays(self, shard: Shard) -> SideArrays:
        """Return a shard's labels and probabilities; ValueError if their file is damaged."""
        return read_arrays(self.path, shard)

    def is_finished(self, shard: Shard) -> bool:
        """Return whether the record is of this plan, and the tar and the arrays exist."""
        return is_finished(self.path, shard, self.plan.fingerprint)

    def unfinished(self, shards: Iterable[Shard] | None = None) -> list[Shard]:
        """Return those of `shards`, by default of all, that are not made yet."""
        given = self.shards if shards is None else shards
        return [shard for shard in given if not self.is_finished(shard)]
