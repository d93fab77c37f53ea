"""The agreement of two labelings of one dataset: the matrix of labels, both confidences."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from worlds.cli.tables import columns
from worlds.formats.layout import Shard
from worlds.formats.shards import read_arrays


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A figure of the first and of the second labeling."""

    first: float
    second: float


class Summary(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """The content of a second labeling's summary.json."""

    images: int
    agreement: float
    mean_confidence: Pair  # of the largest probability
    class_names: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
    requested_agreement: Pair | None = None  # of a conditional set: shares that find its class


@dataclass(frozen=True)
class Agreement:
    """`matrix` int64 (C, C) counts images: rows are the first label, columns the second.

    Confidence is the largest probability of an image, here the means over all images. Of a
    conditional set, `requested` has the shares in which both labelers find the requested class.
    """

    class_names: tuple[str, ...]
    matrix: np.ndarray
    confidence: Pair
    requested: Pair | None = None

    @property
    def images(self) -> int:
        return int(self.matrix.sum())

    @property
    def rate(self) -> float:
        """The share of images with equal labels."""
        return int(np.trace(self.matrix)) / self.images

    def summary(self) -> Summary:
        return Summary(
            images=self.images,
            agreement=self.rate,
            mean_confidence=self.confidence,
            class_names=self.class_names,
            matrix=tuple(tuple(row) for row in self.matrix.tolist()),
            requested_agreement=self.requested,
        )


def compare(first: Path, second: Path, shards: Iterable[Shard], names: Iterable[str]) -> Agreement:
    """Compare the side files that two directories hold of the same shards, at least one."""
    names = tuple(names)
    matrix = np.zeros((len(names), len(names)), dtype=np.int64)
    # Half-precision numbers up to 1 add up in float64 without any rounding, in whatever order.
    confidence, agreed, conditional = np.zeros(2), np.zeros(2), False
    for shard in shards:
        sides = [read_arrays(folder, shard) for folder in (first, second)]
        np.add.at(matrix, (sides[0].label, sides[1].label), 1)
        confidence += [side.probabilities.max(axis=1).sum(dtype=np.float64) for side in sides]
        requested = sides[0].requested  # int64 (N,)
        if requested is not None:
            conditional = True
            agreed += [(side.probabilities.argmax(axis=1) == requested).sum() for side in sides]
    means, shares = (Pair(*(sums / matrix.sum()).tolist()) for sums in (confidence, agreed))
    return Agreement(names, matrix, means, shares if conditional else None)


def table(agreement: Agreement) -> Iterator[str]:
    """Yield the matrix and the sums in lines."""
    yield "rows: first label, columns: second"
    # One row a class of the first labels.
    rows = [("", *(name[:12] for name in agreement.class_names))]
    for name, row in zip(agreement.class_names, agreement.matrix.tolist(), strict=True):
        rows.append((name, *(f"{count:,}" for count in row)))
    yield from columns(rows, left=(0,)).splitlines()
    yield (
        f"agreement {agreement.rate:.4f} of {agreement.images:,} images; mean confidence "
        f"{agreement.confidence.first:.4f} (first), {agreement.confidence.second:.4f} (second)"
    )
    if agreement.requested is not None:
        yield (
            f"requested class found in {agreement.requested.first:.4f} (first labeler), "
            f"{agreement.requested.second:.4f} (second)"
        )
