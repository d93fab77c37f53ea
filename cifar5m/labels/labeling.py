"""A second labeling of a dataset: what another labeler says of the same shards, kept beside.

    FOLDER/labels/{name}/plan.json                       which labeler, how, of which dataset
    FOLDER/labels/{name}/meta/{split}-{k:05d}.npz        index, label, float16 probabilities
    FOLDER/labels/{name}/meta/{split}-{k:05d}.json       record, written last
    FOLDER/labels/{name}/summary.json                    agreement with the first labels, at the end

The side files are those of the dataset itself (worlds/formats/shards.py) and are read by the same
functions. A record's `sha256` is that of the tar the labels were made from, so that labels of a
shard that has changed since are found.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from worlds.formats.layout import CIFAR10_CLASSES, FORMAT, PLAN, Shard
from worlds.formats.plan import About, Count, Plan, SealedPlan, claim_folder, package_versions, seal
from worlds.formats.shards import SideArrays, find_record, read_arrays, write_arrays
from worlds.runtime.files import clean_folders, write_json

LABELS_FOLDER = "labels"
SUMMARY = "summary.json"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


class LabelingPlan(SealedPlan, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides a second labeling."""

    dataset_fingerprint: str
    class_names: tuple[str, ...]
    labels: Literal["argmax"]
    labeler_sha256: str
    label_batch: Count
    precision: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Labeling:
    """The labeling `name` of the dataset in `folder`, and its plan."""

    folder: Path
    name: str
    plan: LabelingPlan

    @property
    def place(self) -> Path:
        return self.folder / LABELS_FOLDER / self.name


def default_name(source: str) -> str:
    """Return a path's own name, and of a Hub id `user/name@revision` `user-name-revision`."""
    path = Path(source).expanduser()
    if path.exists():
        path = path.resolve()
        return path.stem if path.is_file() else path.name
    return re.sub(r"[/@]", "-", source)


def labeling_plan(
    dataset: Plan, source: str, sha256: str, precision: str, batch: int
) -> LabelingPlan:
    """Return the plan of a labeling: all that decides it. `dataset` is the plan of the dataset."""
    # Labels of other classes could not be compared.
    if dataset.class_names != CIFAR10_CLASSES:
        raise ValueError(
            f"a labeler has CIFAR-10's classes, this dataset has "
            f"{', '.join(dataset.class_names[:10])}: the two cannot be compared"
        )
    plan = LabelingPlan(
        format=FORMAT,
        dataset_fingerprint=dataset.fingerprint,
        class_names=dataset.class_names,
        labels="argmax",
        labeler_sha256=sha256,
        label_batch=batch,
        precision=precision,
        versions=package_versions(),
        fingerprint="",
        about=About(labeler=source),
    )
    return seal(plan)


def open_labeling(folder: Path, name: str, plan: LabelingPlan) -> Labeling:
    """Begin a labeling, or go on with it; ValueError where the name is another labeling's."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"name must be letters, digits, '.', '_' and '-', got {name!r}")
    labeling = Labeling(folder, name, plan)
    claim_folder(labeling.place, plan, parameter="name")
    clean_folders(labeling.place, labeling.place / "meta")
    return labeling


def write_labels(
    labeling: Labeling, shard: Shard, probabilities: np.ndarray, facts: dict[str, Any]
) -> None:
    """Write the side file and, last, the record of one shard. `probabilities` float (N, C)."""
    # The old record goes first: without one the shard counts as not labeled.
    place = labeling.place
    index = np.arange(shard.start, shard.stop, dtype=np.int64)
    label = probabilities.argmax(1).astype(np.int64)  # (N,)
    probabilities = probabilities.astype(np.float16)
    (place / shard.record).unlink(missing_ok=True)
    arrays = SideArrays(index, label, probabilities)
    write_arrays(place / shard.arrays, arrays)
    record = {
        "tar": shard.tar.name,
        "arrays_sha256": arrays.sha256,
        "count": len(shard),
        "classes": np.bincount(label, minlength=probabilities.shape[1]).tolist(),
        "fingerprint": labeling.plan.fingerprint,
    }
    write_json(place / shard.record, record | facts)


def is_labeled(labeling: Labeling, shard: Shard) -> bool:
    """Return whether a shard's labels exist, intact, for this plan and the recorded tar."""
    # Labels of a tar that was made again do not count.
    own = find_record(labeling.place, shard)
    first = find_record(labeling.folder, shard)
    if own is None or first is None or own.sha256 != first.sha256:
        return False
    try:
        found = read_arrays(labeling.place, shard)
    except ValueError:
        return False
    return (own.fingerprint, own.arrays_sha256) == (labeling.plan.fingerprint, found.sha256)


def labeling_names(folder: Path) -> list[str]:
    """List the labelings that a dataset directory holds."""
    return sorted(path.parent.name for path in (folder / LABELS_FOLDER).glob(f"*/{PLAN}"))


def labeling_files(name: str, shards: Sequence[Shard]) -> set[str]:
    """List what a labeling may hold, relative to the dataset directory."""
    place = Path(LABELS_FOLDER, name)
    inner = {Path(), Path(PLAN), Path(SUMMARY), Path("meta")}
    inner |= {path for shard in shards for path in (shard.arrays, shard.record)}
    return {str(place / path) for path in inner}
