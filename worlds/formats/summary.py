"""Summarize a dataset directory."""

from dataclasses import dataclass
from pathlib import Path

from worlds.formats.plan import Plan
from worlds.formats.shards import find_record


@dataclass(frozen=True, repr=False)
class DatasetSummary:
    """Count of what is finished: images, shards, bytes of the tars, images of each class, and of a
    conditional set the images in which the labeler finds the requested class.
    """

    path: Path
    images: int
    shards: int
    shards_planned: int
    bytes: int
    classes: dict[str, int]
    agreed: int | None = None
    labeler: str | None = None  # who labeled, as the plan names it

    @property
    def is_complete(self) -> bool:
        """True if every planned shard is finished."""
        return self.shards == self.shards_planned

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {self._counts()}; {self._classes()})"

    def __str__(self) -> str:
        lines = [f"{self._counts()}: {self.path}", f"classes: {self._classes()}"]
        if self.labeler is not None:
            lines.append(f"labeler: {self.labeler}")
        if self.agreed is not None:
            lines.append(agreement_line(self.agreed, self.images))
        return "\n".join(lines)

    def _counts(self) -> str:
        shards = f"{self.shards:,}"
        if not self.is_complete:
            shards += f" of {self.shards_planned:,}"
        return f"{self.images:,} images in {shards} shards, {self.bytes:,} bytes"

    def _classes(self) -> str:
        return ", ".join(f"{name} {count:,}" for name, count in self.classes.items())


def agreement_line(agreed: int, images: int) -> str:
    """Return how often the labeler finds the class that the generator was asked for."""
    share = agreed / max(images, 1)
    return f"the labeler finds the requested class in {agreed:,} of {images:,} images ({share:.1%})"


def summarize(folder: Path, plan: Plan, split: str | None = None) -> DatasetSummary:
    """Return the counts of a dataset directory, or of one of its splits, from its records."""
    shards = plan.layout.shards(split)
    found = [find_record(folder, shard) for shard in shards]
    records = [r for r in found if r is not None and r.fingerprint == plan.fingerprint]
    columns = zip(*(record.classes for record in records), strict=True)
    counts = [sum(column) for column in columns] or [0] * len(plan.class_names)
    return DatasetSummary(
        path=folder,
        images=sum(record.count for record in records),
        shards=len(records),
        shards_planned=len(shards),
        bytes=sum(record.bytes for record in records),
        classes=dict(zip(plan.class_names, counts, strict=True)),
        agreed=None if plan.conditioning is None else sum(r.agreed or 0 for r in records),
        labeler=plan.about.labeler if plan.about else None,
    )
