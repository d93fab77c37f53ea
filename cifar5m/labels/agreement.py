"""The agreement of two labelings of one dataset: the matrix of labels, both confidences."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from worlds.cli.tables import columns
from worlds.formats.layout import Shard
from worlds.formats.shards import read_arrays


class MeanConfidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mean confidence of the first and the second labels."""

    first: float
    second: float


class RequestedAgreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Share of the images in which the first and the second labeler find the requested class."""

    first: float
    second: float


class Summary(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """The content of a second labeling's summary.json."""

    images: int
    agreement: float
    mean_confidence: MeanConfidence
    class_names: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
    requested_agreement: RequestedAgreement | None = None  # of a conditional set


@dataclass(frozen=True)
class Agreement:
    """`matrix` int64 (C, C) counts images: rows are the first label, columns the second.

    Confidence is the largest probability of an image; the two are means over all images. Of a
    conditional set, `requested` has the shares in which both labelers find the requested class.
    """

    class_names: tuple[str, ...]
    matrix: np.ndarray
    first_confidence: float
    second_confidence: float
    requested: RequestedAgreement | None = None

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
            mean_confidence=MeanConfidence(self.first_confidence, self.second_confidence),
            class_names=self.class_names,
            matrix=tuple(tuple(row) for row in self.matrix.tolist()),
            requested_agreement=self.requested,
        )


def compare(first: Path, second: Path, shards: Iterable[Shard], names: Iterable[str]) -> Agreement:
    """Compare the side files that two folders hold of the same shards, at least one."""
    names = tuple(names)
    matrix = np.zeros((len(names), len(names)), dtype=np.int64)
    # Half-precision numbers up to 1 add up in float64 without any rounding, in whatever order.
    confidence = np.zeros(2)
    agreed: np.ndarray | None = None
    for shard in shards:
        sides = [read_arrays(folder, shard) for folder in (first, second)]
        np.add.at(matrix, (sides[0].label, sides[1].label), 1)
        confidence += [side.probabilities.max(axis=1).sum(dtype=np.float64) for side in sides]
        requested = sides[0].requested
        if requested is not None:
            hits = [(side.probabilities.argmax(axis=1) == requested).sum() for side in sides]
            agreed = np.array(hits) + (0 if agreed is None else agreed)
    first_mean, second_mean = (confidence / matrix.sum()).tolist()
    shares = None if agreed is None else RequestedAgreement(*(agreed / matrix.sum()).tolist())
    return Agreement(names, matrix, first_mean, second_mean, shares)


def table(agreement: Agreement) -> Iterator[str]:
    """The matrix and the sums in lines."""
    yield "rows: first label, columns: second"
    rows = [("", *(name[:12] for name in agreement.class_names))]
    for name, row in zip(agreement.class_names, agreement.matrix.tolist(), strict=True):
        rows.append((name, *(f"{count:,}" for count in row)))
    yield from columns(rows, left=(0,)).splitlines()
    yield (
        f"agreement {agreement.rate:.4f} of {agreement.images:,} images; mean confidence "
        f"{agreement.first_confidence:.4f} (first), {agreement.second_confidence:.4f} (second)"
    )
    if agreement.requested is not None:
        yield (
            f"requested class found in {agreement.requested.first:.4f} (first labeler), "
            f"{agreement.requested.second:.4f} (second)"
        )
