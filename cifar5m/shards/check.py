"""Check one shard: its tar, its side file and its record, against each other and the plan.

What is wrong becomes a `Problem`; nothing is repaired. cifar5m/shards/verify.py does all shards,
cifar5m/shards/check_labelings.py second labelings.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np

from cifar5m.labels.labeling import LabelingPlan
from worlds.formats.layout import PLAN, Shard
from worlds.formats.plan import Plan, fingerprint_of
from worlds.formats.shards import (
    Record,
    SideArrays,
    decode_image,
    find_record,
    load_record,
    read_arrays,
    tar_members,
)
from worlds.runtime.errors import printable
from worlds.runtime.files import sha256_of
from worlds.runtime.json_files import load_json

SHOWN = 5  # problems of one kind that are listed for one shard; the others are counted
# Half precision rounds a probability by at most 2^-12 of itself, so ten of them add up to 1 within
# 0.00025; a labeler that sums in float32 stays far below the rest.
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: a kind to sort by, the file (relative to the folder), and a line."""

    kind: str
    path: str
    message: str

    def __str__(self) -> str:
        return printable(f"{self.kind}: {self.path}: {self.message}")


def pixel_digest(pixels: np.ndarray) -> bytes:
    """Return 16 bytes that equal images have in common."""
    return hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()


NOT_THERE: Final = "the shard is not there: not generated yet?"


@dataclass(frozen=True)
class ShardReport:
    """Result of reading all files of one shard."""

    shard: Shard
    sha256: str | None  # of the tar's bytes, None where there is no tar
    bytes: int
    classes: tuple[int, ...]
    index: np.ndarray  # int64 (n,), the images that could be decoded
    digests: np.ndarray  # uint64 (n, 2), hash of each one's pixels
    problems: tuple[Problem, ...]
    agreed: int = 0  # images in which the labeler finds the requested class


def check_shard(folder: Path, shard: Shard, plan: Plan) -> ShardReport:
    """Read one shard's tar, side file and record, and hold them against each other and the plan."""
    classes = len(plan.class_names)
    path = folder / shard.tar
    if not any((folder / file).exists() for file in (shard.tar, shard.arrays, shard.record)):
        problem = Problem("missing", str(shard.tar), NOT_THERE)
        return _without_tar(shard, classes, [problem])
    # The side file first: the tar's labels are held against it.
    arrays, problems = check_arrays(folder, shard, plan)
    try:
        size, sha256 = path.stat().st_size, sha256_of(path)
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else str(error)
        problems.insert(0, Problem("missing", str(shard.tar), f"the tar {reason}"))
        return _without_tar(shard, classes, problems)
    reader = _TarReader(shard, plan, arrays)
    reader.read(path)
    # What was found, against the record.
    counts = tuple(np.bincount(reader.labels, minlength=classes)[:classes].tolist())
    problems = [
        *_check_record(folder, shard, plan, sha256, size, counts, arrays),
        *problems,
        *_shortened(reader.problems),
    ]
    digests = np.frombuffer(b"".join(reader.digests), np.uint64).reshape(-1, 2)
    index = np.asarray(reader.index, np.int64)
    agreed = (arrays and arrays.agreed) or 0
    return ShardReport(shard, sha256, size, counts, index, digests, tuple(problems), agreed)


def _without_tar(shard: Shard, classes: int, problems: list[Problem]) -> ShardReport:
    index, digests = np.empty(0, np.int64), np.empty((0, 2), np.uint64)
    return ShardReport(shard, None, 0, (0,) * classes, index, digests, tuple(problems))


class _TarReader:
    """Walks a shard's tar: names in order, images that decode, labels that the side file knows."""

    def __init__(self, shard: Shard, plan: Plan, arrays: SideArrays | None) -> None:
        self.shard, self.arrays = shard, arrays
        self.extension = plan.extension
        self.shape = plan.image_shape
        self.classes = len(plan.class_names)
        self.index: list[int] = []
        self.digests: list[bytes] = []
        self.labels: list[int] = []
        self.problems: list[Problem] = []

    def problem(self, kind: str, message: str) -> None:
        self.problems.append(Problem(kind, str(self.shard.tar), message))

    def read(self, path: Path) -> None:
        # The members that the plan expects, beside those that are there.
        wanted = (
            (index, f"{index:09d}.{suffix}")
            for index in range(self.shard.start, self.shard.stop)
            for suffix in (self.extension, "cls")
        )
        found = 0
        try:
            with path.open("rb") as stream:
                for member, expected in zip_longest(tar_members(path), wanted):
                    if member is None or expected is None or member[0] != expected[1]:
                        has = "the end" if member is None else member[0]
                        wants = "the end" if expected is None else expected[1]
                        self.problem("member", f"member {found} should be {wants}, found {has}")
                        return  # everything after would be off by as much
                    found += 1
                    stream.seek(member[1])
                    data = stream.read(member[2])
                    (self.label if expected[1].endswith(".cls") else self.image)(expected[0], data)
        except (OSError, ValueError) as error:
            at = f"after {found} of {2 * len(self.shard)} members"
            self.problem("tar", f"{str(error).removeprefix(f'{path}: ')}, {at}")

    def image(self, index: int, data: bytes) -> None:
        try:
            pixels = decode_image(data)
        except ValueError as error:
            self.problem("image", f"image {index} cannot be decoded: {error}")
            return
        sides = zip(self.shape, pixels.shape, strict=True)
        if any(planned not in (None, has) for planned, has in sides):
            self.problem("image", f"image {index} is {pixels.shape}, expected {self.shape}")
        self.index.append(index)
        self.digests.append(pixel_digest(pixels))

    def label(self, index: int, data: bytes) -> None:
        if not data.isdigit() or int(data) >= self.classes:
            message = f"holds {data[:20]!r}, expected 0 to {self.classes - 1}"
            self.problem("label", f"{index:09d}.cls {message}")
            return
        label = int(data)
        self.labels.append(label)
        if self.arrays is not None:
            expected = int(self.arrays.label[index - self.shard.start])
            if label != expected:
                message = f"holds {label}, {self.shard.arrays} {expected}"
                self.problem("label", f"{index:09d}.cls {message}")


def _shortened(problems: list[Problem]) -> list[Problem]:
    """Return at most SHOWN of each kind, then their number."""
    kept: list[Problem] = []
    for kind, count in Counter(problem.kind for problem in problems).items():
        same = [problem for problem in problems if problem.kind == kind]
        kept += same[:SHOWN]
        kept += and_more(kind, same[0].path, count)
    return kept


def and_more(kind: str, path: str, count: int) -> list[Problem]:
    if count <= SHOWN:
        return []
    return [Problem(kind, path, f"and {count - SHOWN:,} more of this kind in this shard")]


def _check_record(
    folder: Path,
    shard: Shard,
    plan: Plan,
    sha256: str,
    size: int,
    counts: Iterable[int],
    arrays: SideArrays | None,
) -> Iterator[Problem]:
    """Compare the tar as measured with what the record says of it."""
    record = find_record(folder, shard)
    if record is None:
        return  # reported by check_arrays
    path = str(shard.tar)
    if record.bytes != size:
        yield Problem("tar", path, f"{size} bytes, the record says {record.bytes}")
    elif record.sha256 != sha256:
        yield Problem("tar", path, f"sha256 {sha256}, the record says {record.sha256}")
    expected = {
        "fingerprint": plan.fingerprint,
        "tar": shard.tar.name,
        "count": len(shard),
        "classes": tuple(counts),
    }
    if arrays is not None:
        expected["agreed"] = arrays.agreed
    yield from compare_fields(record, expected, "record", shard.record)


def compare_fields(
    found: Record | LabelingPlan, expected: dict[str, Any], kind: str, path: Path
) -> Iterator[Problem]:
    """Compare fields of what a file says with the values that they should have."""
    for name, value in expected.items():
        if (has := getattr(found, name)) != value:
            yield Problem(kind, str(path), f"{name} is {has}, expected {value}")


def check_arrays(
    folder: Path, shard: Shard, plan: Plan | LabelingPlan
) -> tuple[SideArrays | None, list[Problem]]:
    """Load a shard's labels (None if they cannot be trusted to be its own), and what is wrong with
    them and with the record.
    """
    problems, record = [], None
    try:
        record = load_record(folder, shard)
    except ValueError as error:
        reason = str(error).removeprefix(f"{folder / shard.record}").lstrip(": ")
        if not (folder / shard.record).exists():
            reason = f"is missing: shard {shard.name} is not finished"
        problems.append(Problem("missing", str(shard.record), reason))
    # Then the arrays: readable, of the right shapes, by the rules, and as recorded.
    path = str(shard.arrays)
    try:
        arrays = read_arrays(folder, shard)
    except ValueError as error:
        if not (folder / shard.arrays).exists():
            return None, [*problems, Problem("missing", path, "the side file is missing")]
        return None, [*problems, Problem("side file", path, f"cannot be read: {error}")]
    length, classes = len(shard), len(plan.class_names)
    found = [f"{array.dtype}{list(array.shape)}" for array in arrays.by_name.values()]
    expected = [f"int64[{length}]", f"int64[{length}]", f"float16[{length}, {classes}]"]
    if isinstance(plan, Plan) and plan.conditioning is not None:
        expected.append(f"int64[{length}]")  # requested
    if found != expected:
        message = f"arrays {', '.join(found)}, expected {', '.join(expected)}"
        return None, [*problems, Problem("side file", path, message)]
    problems += [
        Problem("side file", path, message) for message in _wrong_rows(shard, plan, arrays)
    ]
    if record is not None and record.arrays_sha256 != arrays.sha256:
        message = f"sha256 {arrays.sha256}, the record says {record.arrays_sha256}"
        problems.append(Problem("side file", path, message))
    return arrays, problems


def _wrong_rows(shard: Shard, plan: Plan | LabelingPlan, arrays: SideArrays) -> Iterator[str]:
    """Yield one line for each rule that some rows of a side file break, with the first such row."""
    probabilities = arrays.probabilities.astype(np.float32)  # (N, C)
    label = np.clip(arrays.label, 0, probabilities.shape[1] - 1)
    chosen = np.take_along_axis(probabilities, label[:, None], axis=1)[:, 0]  # (N,)
    sums = probabilities.sum(axis=1)
    # Each rule by rows: true where it is broken.
    rules = {
        f"index does not run from {shard.start} to {shard.stop - 1}": (
            arrays.index != np.arange(shard.start, shard.stop)
        ),
        f"label is not in 0 to {probabilities.shape[1] - 1}": arrays.label != label,
        "probabilities are not finite": ~np.isfinite(sums),
        "probabilities do not add up to 1": np.abs(sums - 1) > SUM_TOLERANCE,
    }
    if plan.labels == "argmax":
        # Half precision can make two probabilities equal; the label is then one of the largest.
        rules["label is not the most probable class"] = chosen < probabilities.max(axis=1)
    if arrays.requested is not None and isinstance(plan, Plan):
        requested = requested_classes(plan, shard)
        rules["requested class is not that of (seed, index)"] = arrays.requested != requested
        if plan.labels == "requested":
            rules["label is not the requested class"] = arrays.label != arrays.requested
    for rule, broken in rules.items():
        if broken.any():
            row = int(np.argmax(broken))
            yield f"{rule}: {int(broken.sum()):,} rows, the first is row {row}"


def requested_classes(plan: Plan, shard: Shard) -> np.ndarray:
    """Return the classes that the plan's generator was asked for, int64 (N,)."""
    import torch  # a second of each process, which sets without requested classes save

    from cifar5m.sampling.classes import image_classes

    index = torch.arange(shard.start, shard.stop)
    return image_classes(plan.seed or 0, index, len(plan.class_names)).numpy()


def check_plan(folder: Path, inner: Path = Path()) -> Iterator[Problem]:
    """Check that the content of the plan in `folder / inner` has its fingerprint."""
    plan = load_json(folder / inner / PLAN, dict[str, Any])
    computed = fingerprint_of(plan)
    if plan["fingerprint"] != computed:
        message = f"was edited: its content has the fingerprint {computed}, it says "
        yield Problem("plan", str(inner / PLAN), message + plan["fingerprint"])
