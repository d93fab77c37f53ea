"""Check second labelings: their arrays, the tars they were made from, and their sums.

Only what is wrong with the labels is reported; cifar5m/shards/check.py checks the tars themselves.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from cifar5m.labels.agreement import Summary, compare
from cifar5m.labels.labeling import LABELS_FOLDER, SUMMARY, Labeling, LabelingPlan, labeling_names
from cifar5m.shards.check import Problem, check_arrays, check_plan, compare_fields
from worlds.formats.layout import PLAN, Shard
from worlds.formats.plan import Plan, load_plan
from worlds.formats.shards import find_record
from worlds.runtime.json_files import load_json


def check_labelings(
    folder: Path, dataset: Plan, tars: Mapping[Shard, str | None]
) -> Iterator[Problem]:
    """Check the second labelings; `tars` has the sha256 of each shard's tar as measured, None if
    there is no tar.
    """
    for name in labeling_names(folder):
        inner = Path(LABELS_FOLDER, name)
        try:
            plan = load_plan(folder / inner, LabelingPlan)
        except ValueError as error:
            yield Problem("plan", str(inner / PLAN), str(error))
            continue
        own = {"dataset_fingerprint": dataset.fingerprint, "class_names": dataset.class_names}
        problems = [*check_plan(folder, inner), *compare_fields(plan, own, "plan", inner / PLAN)]
        # If the plan is not this dataset's, all that follows would only repeat it.
        yield from problems or _check_labeling(Labeling(folder, name, plan), inner, tars)


def _check_labeling(
    labeling: Labeling, inner: Path, tars: Mapping[Shard, str | None]
) -> Iterator[Problem]:
    """Check each labeled shard, and the summary once all are labeled."""
    # Shards that nobody labeled yet are counted, not listed.
    waiting, intact = 0, True
    for shard, measured in tars.items():
        if not any((labeling.place / path).exists() for path in (shard.arrays, shard.record)):
            waiting += 1
            continue
        problems = [
            *check_arrays(labeling.place, shard, labeling.plan)[1],
            *_check_labeling_record(labeling, shard, measured),
        ]
        intact = intact and not problems
        for problem in problems:
            yield replace(problem, path=str(inner / problem.path))
    if waiting:
        message = f"{waiting} of {len(tars)} shards are not labeled yet"
        yield Problem("missing", str(inner / "meta"), message)
    elif intact:
        yield from _check_summary(labeling, inner, tars)


def _check_labeling_record(
    labeling: Labeling, shard: Shard, measured: str | None
) -> Iterator[Problem]:
    """Check what the labels were made from. A corrupt tar is reported once, by the dataset."""
    record, first = find_record(labeling.place, shard), find_record(labeling.folder, shard)
    if record is None:
        return  # reported by check_arrays
    expected = {
        "fingerprint": labeling.plan.fingerprint,
        "tar": shard.tar.name,
        "count": len(shard),
        "sha256": first.sha256 if first else measured or record.sha256,
    }
    yield from compare_fields(record, expected, "record", shard.record)


def _check_summary(labeling: Labeling, inner: Path, shards: Iterable[Shard]) -> Iterator[Problem]:
    path, names = labeling.place / SUMMARY, labeling.plan.class_names
    shown = str(inner / SUMMARY)
    if not path.exists():
        yield Problem("missing", shown, "all shards are labeled, the summary is missing")
        return
    try:
        found = load_json(path, Summary)
        expected = compare(labeling.folder, labeling.place, shards, names).summary()
    except FileNotFoundError:
        return  # a side file of the dataset is missing, which is reported elsewhere
    except (OSError, ValueError, IndexError, KeyError, EOFError, RuntimeError) as error:
        yield Problem("record", shown, f"cannot be compared: {error}")
        return
    if found != expected:
        yield Problem("record", shown, "is not what the two labelings amount to")
