"""Repair a dataset folder: make again exactly the shards that `cifar5m-verify` found broken.

    report = verify_dataset(folder)
    for outcome in repair_dataset(folder, report, RepairOptions(device="cpu")):
        ...  # outcome.repaired, and in outcome.message what came of it

A shard is made again by whatever made the set, which its plan names, and takes its place only if it
has the recorded sha256. Files that do not belong are never deleted, except what a killed process of
this machine left half-written.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifar5m.labelling import LABELS_FOLDER, labelling_names
from cifar5m.remake import MAKERS, Remade, RepairOptions
from cifar5m.shard_check import check_arrays, record_of
from cifar5m.verify import Report
from worlds.files import HashingStream, remove_stale, sha256_of
from worlds.layout import PLAN, Shard, layout_of, read_plan
from worlds.shards import (
    arrays_sha256,
    write_shard,
    write_tar,
)


@dataclass(frozen=True)
class Outcome:
    """What came of one broken shard."""

    shard: Shard
    repaired: bool
    message: str


def repair_dataset(folder: Path, report: Report, options: RepairOptions) -> Iterator[Outcome]:
    """Make the broken shards of a verified folder again, one after the other.

    Raises ValueError, before anything is made, where the plan cannot be trusted or followed:
    another network, other package versions, an unknown kind of set.
    """
    plan = read_plan(folder)
    if any(problem.kind == "plan" and problem.path == PLAN for problem in report.problems):
        raise ValueError(
            f"{folder / PLAN} was edited, so it does not say how the shards were made: put the "
            f"original back first"
        )
    remove_leftovers(folder)
    broken = broken_shards(report, layout_of(plan).shards())
    if not broken:
        return
    kind = plan.get("dataset")
    if kind not in MAKERS:
        raise ValueError(
            f"{len(broken)} shards of a set of the kind {kind!r} cannot be made again here (only "
            f"{', '.join(MAKERS)}): run the command that made the set once more, into {folder}"
        )
    for remade in MAKERS[kind](folder, plan, broken, options):
        yield put_back(folder, plan, remade)


def broken_shards(report: Report, shards: Sequence[Shard]) -> list[Shard]:
    """Those whose own files have a problem. Images that repeat others are as they were made."""
    paths = {problem.path for problem in report.problems if problem.kind != "duplicate"}
    return [
        shard for shard in shards if paths & {str(shard.tar), str(shard.arrays), str(shard.record)}
    ]


def broken_labellings(report: Report) -> list[str]:
    """The second labellings with a problem, unless it is the plan's or that of files too many."""
    kinds: dict[str, set[str]] = {}
    for problem in report.problems:
        top, *rest = Path(problem.path).parts
        if top == LABELS_FOLDER and problem.kind not in ("foreign", "temporary"):
            kinds.setdefault(rest[0], set()).add(problem.kind)
    return [name for name, found in kinds.items() if "plan" not in found]


def remove_leftovers(folder: Path) -> None:
    """Delete what processes of this machine, which are gone, left half-written."""
    labellings = [folder / LABELS_FOLDER / name for name in labelling_names(folder)]
    places = [folder, folder / "data", *labellings, *(p / "meta" for p in (folder, *labellings))]
    for place in places:
        if place.is_dir():
            remove_stale(place)


def put_back(folder: Path, plan: dict[str, Any], remade: Remade) -> Outcome:
    """Write a shard in place of the broken one, unless a record speaks against it."""
    shard, extension = remade.shard, plan.get("extension", "png")
    made, record = tar_sha256(remade, extension), trusted_record(folder, plan, shard)
    present = sha256_of(folder / shard.tar) if (folder / shard.tar).is_file() else None
    if record is not None and made not in (record["sha256"], present):
        device = f"made on {record.get('device')}, now on {remade.facts.get('device')}"
        message = f"came out with sha256 {made}, the record says {record['sha256']} ({device})"
        return Outcome(shard, False, f"{message}; nothing was replaced")
    probabilities, remark = _settle_probabilities(folder, plan, remade, record)
    facts = remade.facts | {"fingerprint": plan["fingerprint"]}
    write_shard(folder, shard, remade.samples, remade.labels, probabilities, facts, extension)
    if made == present:
        proof = "the tar was whole, its sha256 came out again"
    elif record is not None:
        proof = "made again, sha256 as recorded"
    else:
        proof = "made again, with no record left to compare with"
    return Outcome(shard, True, proof + remark)


def tar_sha256(remade: Remade, extension: str) -> str:
    """Of the tar that the shard would be."""
    index = range(remade.shard.start, remade.shard.stop)
    with open(os.devnull, "wb") as nowhere:
        stream = HashingStream(nowhere)
        rows = zip(index, remade.samples, remade.labels.tolist(), strict=True)
        write_tar(stream, rows, extension)  # type: ignore[arg-type]
    return stream.sha256.hexdigest()


def trusted_record(folder: Path, plan: dict[str, Any], shard: Shard) -> dict[str, Any] | None:
    """The record, where it is this shard's and this plan's."""
    record = record_of(folder, shard)
    own = {"fingerprint": plan["fingerprint"], "tar": shard.tar.name, "count": len(shard)}
    if record is None or any(record.get(name) != value for name, value in own.items()):
        return None
    return record


def _settle_probabilities(
    folder: Path, plan: dict[str, Any], remade: Remade, record: dict[str, Any] | None
) -> tuple[np.ndarray, str]:
    """The probabilities to write, and a remark where they are not those recorded.

    With another count of CPU threads a network may round a probability otherwise where all labels
    are the same; a side file that is whole is therefore kept.
    """
    index = np.arange(remade.shard.start, remade.shard.stop, dtype=np.int64)
    labels, made = remade.labels.astype(np.int64), remade.probabilities.astype(np.float16)
    if record is None or arrays_sha256(index, labels, made) == record.get("arrays_sha256"):
        return made, ""
    present, problems = check_arrays(folder, remade.shard, plan)
    if present is not None and not problems and np.array_equal(present.label, labels):
        return present.probabilities, ""
    return made, "; its probabilities are not those recorded, to the last bit"
