"""Check the second labellings of a dataset: their arrays, the tars they were made from, their sums.

What is off becomes a `Problem`, for `cifar5m-verify`, which has read the dataset itself before.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cifar5m.agreement import compare
from cifar5m.labelling import LABELS_FOLDER, SUMMARY, labelling_names
from cifar5m.plan import fingerprint_of
from cifar5m.shard_check import Problem, check_arrays, record_of
from worlds.layout import PLAN, Shard, read_plan


def check_plan(plan: dict[str, Any], path: str) -> Iterator[Problem]:
    """Whether a plan's content is what its fingerprint was taken from."""
    computed = fingerprint_of(plan)
    if plan.get("fingerprint") != computed:
        message = f"was edited: its content has the fingerprint {computed}, it says "
        yield Problem("plan", path, message + str(plan.get("fingerprint")))


def check_labellings(
    folder: Path, dataset: dict[str, Any], tars: Mapping[Shard, str | None]
) -> Iterator[Problem]:
    """`tars` has the sha256 of each shard's tar as measured, None where there is no tar."""
    for name in labelling_names(folder):
        place = Path(LABELS_FOLDER, name)
        try:
            plan = read_plan(folder / place)
        except ValueError as error:
            yield Problem("plan", str(place / PLAN), str(error))
            continue
        problems = [*check_plan(plan, str(place / PLAN)), *_other_dataset(plan, dataset, place)]
        # Where the plan is not this dataset's, all that follows would only repeat it.
        yield from problems or _check_shards(folder, place, plan, tars)


def _other_dataset(plan: dict[str, Any], dataset: dict[str, Any], place: Path) -> Iterator[Problem]:
    for ours, theirs in (("dataset_fingerprint", "fingerprint"), ("class_names", "class_names")):
        if plan.get(ours) != dataset[theirs]:
            message = f"{ours} is {plan.get(ours)}, expected {dataset[theirs]}"
            yield Problem("plan", str(place / PLAN), message)


def _check_shards(
    folder: Path, place: Path, plan: dict[str, Any], tars: Mapping[Shard, str | None]
) -> Iterator[Problem]:
    waiting, whole = 0, True
    for shard, measured in tars.items():
        if not any((folder / place / path).exists() for path in (shard.arrays, shard.record)):
            waiting += 1
            continue
        problems = [
            *check_arrays(folder / place, shard, plan)[1],
            *_check_record(folder, place, shard, plan, measured),
        ]
        whole = whole and not problems
        for problem in problems:
            yield replace(problem, path=str(place / problem.path))
    if waiting:
        message = f"{waiting} of {len(tars)} shards are not labelled yet"
        yield Problem("missing", str(place / "meta"), message)
    elif whole:
        yield from _check_summary(folder, place, plan, tars)


def _check_record(
    folder: Path, place: Path, shard: Shard, plan: dict[str, Any], measured: str | None
) -> Iterator[Problem]:
    """What the labels were made from. A damaged tar is told of once, as the dataset's problem."""
    record, first = record_of(folder / place, shard), record_of(folder, shard)
    if record is None:
        return  # told by check_arrays
    expected = {
        "fingerprint": plan["fingerprint"],
        "tar": shard.tar.name,
        "count": len(shard),
        "sha256": first["sha256"] if first else measured,
    }
    for name, value in expected.items():
        if value is not None and record.get(name) != value:
            message = f"{name} is {record.get(name)}, expected {value}"
            yield Problem("record", str(shard.record), message)


def _check_summary(
    folder: Path, place: Path, plan: dict[str, Any], shards: Mapping[Shard, Any]
) -> Iterator[Problem]:
    path = place / SUMMARY
    try:
        found = json.loads((folder / path).read_text())
        expected = compare(folder, folder / place, shards, plan["class_names"]).summary()
    except FileNotFoundError as error:
        if error.filename == str(folder / path):
            yield Problem("missing", str(path), "all shards are labelled, the summary is missing")
        return  # else a side file of the dataset is missing, which is told elsewhere
    except (OSError, ValueError, IndexError, KeyError, EOFError, RuntimeError) as error:
        yield Problem("record", str(path), f"cannot be compared: {error}")
        return
    if found != expected:
        yield Problem("record", str(path), "is not what the two labellings amount to")
