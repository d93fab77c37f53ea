"""Verify a dataset folder: everything its plan promises is there, is intact, and is alone.

    cifar5m-verify DIR

Every shard is re-hashed, every image decoded, every label compared with the side file, and every
image with all others; second labelings are held against the tars they were made from. What is wrong
becomes a `Problem`; cifar5m/shards/repair.py repairs what it can.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cifar5m.labels.labeling import LABELS_FOLDER, labeling_files, labeling_names
from cifar5m.shards.check import (
    SHOWN,
    Problem,
    ShardReport,
    and_more,
    check_plan,
    check_shard,
)
from cifar5m.shards.check_labelings import check_labelings
from worlds.formats.layout import AUDIT, CARD, PARQUET_FOLDER, PLAN, TIMM_INFO, Shard
from worlds.formats.plan import Plan, load_plan
from worlds.formats.shards import find_record
from worlds.runtime.files import TEMPORARY_SUFFIX
from worlds.runtime.processes import in_workers, worker_count
from worlds.runtime.progress import OnProgress, Phase

PREVIEW_FOLDER = "preview"  # the folder that cifar5m-preview writes, which no plan names
# What publishing, the Hub and its clients add, which no plan names either.
PUBLISHED = {CARD, TIMM_INFO, PARQUET_FOLDER, Path(AUDIT).parts[0]}
PUBLISHED |= {".cache", ".git", ".gitattributes"}


@dataclass(frozen=True, repr=False)
class Report:
    """Findings of a dataset directory, and every problem."""

    folder: str
    fingerprint: str
    shards: int  # that have a tar
    shards_planned: int
    images: int  # that could be decoded
    images_planned: int
    bytes: int  # of the tars
    class_names: tuple[str, ...]
    classes: tuple[int, ...]  # images of each class
    duplicates: int  # images whose pixels equal an earlier one's
    problems: tuple[Problem, ...]
    agreed: int | None = None  # images in which the labeler finds the requested class

    @property
    def ok(self) -> bool:
        return not self.problems

    def __repr__(self) -> str:
        found = "ok" if self.ok else f"{len(self.problems)} problems, first {self.problems[0]}"
        return (
            f"Report({self.folder!r}: {self.images:,} of {self.images_planned:,} images in "
            f"{self.shards:,} of {self.shards_planned:,} shards, {self.bytes:,} bytes; {found})"
        )


def verify(
    directory: str | Path, *, workers: int | None = None, on_progress: OnProgress | None = None
) -> Report:
    """Read and compare everything in a dataset directory; nothing is written.

    The search for duplicates holds 24 bytes an image and works in twice as much again: for six
    million a peak of 0.45 GB was measured.

    Args:
        directory: The dataset directory, which holds plan.json.
        workers: Processes that read a shard at a time, at least 1; by default one a CPU. 1 works in
            this process; more are spawned, so a script needs the `__main__` guard.
        on_progress: Called with images done; may raise to stop.

    Returns:
        Counts of what is there and all problems found; `report.ok` if there is none.

    Raises:
        ValueError: If `directory` holds no valid plan.
    """
    folder = Path(directory)
    plan = load_plan(folder)
    shards, workers = plan.shards, worker_count(workers)
    phase = Phase("verify", sum(map(len, shards)), on_progress)
    # Each shard by itself, in processes if there are several.
    check, count = partial(_check_one, folder, plan), min(workers, len(shards))
    reports: list[ShardReport] = []
    for report in map(check, shards) if count == 1 else in_workers(check, shards, count):
        reports.append(report)
        phase(len(report.shard))
    reports.sort(key=lambda report: report.shard.start)
    # What no shard shows by itself: swapped tars, equal images.
    problems, intact = _sort_out_swapped(folder, reports)
    duplicates, equal = _duplicates(intact)
    tars = {report.shard: report.sha256 for report in reports}
    return Report(
        folder=str(folder),
        fingerprint=plan.fingerprint,
        shards=sum(report.sha256 is not None for report in reports),
        shards_planned=len(shards),
        images=sum(len(report.index) for report in reports),
        images_planned=sum(map(len, shards)),
        bytes=sum(report.bytes for report in reports),
        class_names=plan.class_names,
        classes=tuple(np.sum([report.classes for report in reports], axis=0).tolist()),
        duplicates=duplicates,
        agreed=sum(report.agreed for report in reports) if plan.conditioning is not None else None,
        problems=(
            *check_plan(folder),
            *problems,
            *(equal if plan.duplicates != "kept" else ()),
            *check_labelings(folder, plan, tars),
            *_foreign(folder, plan, shards),
        ),
    )


def _check_one(folder: Path, plan: Plan, shard: Shard) -> ShardReport:
    return check_shard(folder, shard, plan)


def _sort_out_swapped(
    folder: Path, reports: list[ShardReport]
) -> tuple[list[Problem], list[ShardReport]]:
    """Return all shards' problems, and the reports of those that do not hold another shard's bytes.

    For one that does, a single line stands for all that follows from it.
    """
    # Tars are known by the hashes in the records.
    recorded = {report.shard: find_record(folder, report.shard) for report in reports}
    owners = {record.sha256: shard for shard, record in recorded.items() if record}
    problems: list[Problem] = []
    intact = []
    for report in reports:
        shard, record = report.shard, recorded[report.shard]
        owner = owners.get(report.sha256 or "")
        if owner is None or (record and record.sha256 == report.sha256):
            problems += report.problems
            intact.append(report)
            continue
        message = f"holds the bytes of {owner.tar.name}, expected those of shard {shard.name}"
        problems.append(Problem("swapped", str(shard.tar), message))
        problems += [problem for problem in report.problems if problem.path == str(shard.arrays)]
    return problems, intact


def _duplicates(reports: list[ShardReport]) -> tuple[int, list[Problem]]:
    """Count the images that equal an earlier one, and list the first of them for each shard."""
    if not reports:
        return 0, []
    # All images at once; only the first of a shard are listed.
    index = np.concatenate([report.index for report in reports])
    later, earlier = equal_pairs(index, np.concatenate([report.digests for report in reports]))
    problems: list[Problem] = []
    for report in reports:
        path = str(report.shard.tar)
        first, last = np.searchsorted(later, (report.shard.start, report.shard.stop))
        for row in range(first, min(first + SHOWN, last)):
            message = f"image {later[row]} has the same pixels as image {earlier[row]}"
            problems.append(Problem("duplicate", path, message))
        problems += and_more("duplicate", path, last - first)
    return len(later), problems


def equal_pairs(index: np.ndarray, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every image whose digest equals an earlier one's, and the last such earlier image.

    `index` int64 (N,) ascending, `digests` uint64 (N, 2); both results int64 (M,), the first
    ascending.
    """
    # Equal digests become neighbors.
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: the lower index comes first
    digests = digests[order]
    equal = (digests[1:] == digests[:-1]).all(axis=1)
    later, earlier = index[order[1:][equal]], index[order[:-1][equal]]
    in_order = np.argsort(later)
    return later[in_order], earlier[in_order]


def _foreign(folder: Path, plan: Plan, shards: list[Shard]) -> Iterator[Problem]:
    """Yield files that the plan does not name, and temporary files that a killed process left."""
    # What may be there, relative to the dataset directory.
    known = {PLAN, "data", "meta", PREVIEW_FOLDER, LABELS_FOLDER, *PUBLISHED}
    known |= set(plan.beside or ())
    known |= {str(path) for shard in shards for path in (shard.tar, shard.arrays, shard.record)}
    places = [folder, folder / "data", folder / "meta", folder / LABELS_FOLDER]
    for labeling in labeling_names(folder):
        known |= labeling_files(labeling, shards)
        places += [places[3] / labeling, places[3] / labeling / "meta"]
    # What is there beside it.
    for place in places:
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            name = str(path.relative_to(folder))
            if name in known:
                continue
            temporary = re.fullmatch(rf"\.(.+)\.(.+)\.(\d+)\.\w+\{TEMPORARY_SUFFIX}", path.name)
            if temporary:
                file, host, process = temporary.groups()
                message = f"half-written {file}, by process {process} on host {host}"
                yield Problem("temporary", name, message)
            else:
                what = "folder" if path.is_dir() else "file"
                yield Problem("foreign", name, f"a {what} that the plan does not name")
