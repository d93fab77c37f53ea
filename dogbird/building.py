"""Build ImageNet-DogBird, or another task, from a copy of ImageNet.

    source = open_source(root, task.labels)
    check_counts(source, task)
    build = Build(out, source, task, Format(), shard_size=1000)
    build.run(workers=8)

The photographs of each split are in the order of the sha256 of their files: a shuffle that is the
same for every form of the source, so that a folder of classes, the released tars and a WebDataset
become the same shards, to the byte. Beside them are `photographs.tsv`, which says where each came
from, and `broken.tsv`, which lists those that could not be decoded and are left out.
"""

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from dogbird.convert import SUBSAMPLING, Format, convert
from dogbird.sources import Source
from dogbird.staging import Row, encoder_versions, remove_staged, stage
from dogbird.tasks import Task
from worlds.formats.dataset import DatasetFolder
from worlds.formats.layout import CROP, FORMAT, PLAN, Shard
from worlds.formats.plan import About, Plan, claim_folder, differences, load_plan, seal
from worlds.formats.shards import write_shard
from worlds.runtime.files import atomic_write, check_disk, clean_folders, locked
from worlds.runtime.json_files import load_json
from worlds.runtime.processes import in_workers
from worlds.runtime.progress import OnProgress, Phase

DATASET: Final = "dogbird"  # what plans of this module say that they make
EXTENSION: Final = "jpg"
PHOTOGRAPHS, BROKEN = "photographs.tsv", "broken.tsv"
RANGES: Final = {"train": (732, 1300), "val": (50, 50)}  # of a class in ILSVRC-2012
_SAMPLED: Final = 64  # photographs converted to foresee bytes and time
_TAR_BYTES: Final = 3 * 512 + 256  # a sample: two headers, the label, half a block of filling


def check_counts(source: Source, task: Task, any_counts: bool = False) -> None:
    """Raise ValueError if classes are missing, or (unless `any_counts`) are not as large as they
    were released.
    """
    for split in source.forms:
        counts = source.counts(split)
        missing = [wnid for wnid in task.labels if not counts[wnid]]
        if missing:
            raise ValueError(
                f"{source.root}: {split} lacks {len(missing)} of the {len(task.labels)} classes: "
                f"{', '.join(sorted(missing))}"
            )
        # An incomplete copy is found by the counts of its classes.
        low, high = RANGES[split]
        wrong = [f"{w} has {counts[w]:,}" for w in counts if not low <= counts[w] <= high]
        if wrong and not any_counts:
            expected = f"{low} to {high:,}" if low < high else str(low)
            raise ValueError(
                f"{source.root}: {len(wrong)} classes of {split} do not have {expected} "
                f"photographs, as ILSVRC-2012 has: {', '.join(sorted(wrong)[:5])}"
                f"{' ...' * (len(wrong) > 5)}. Complete the copy, or take it as it is with "
                f"any_counts=True"
            )


class Cost(NamedTuple):
    """Cost of a build, from some of its photographs converted on this machine."""

    seconds: float  # a photograph, on one core
    bytes: float  # a photograph, in the shards

    def total_bytes(self, photographs: int) -> int:
        """Return the bytes at the end; as many are needed once more for the staged photographs."""
        return int(photographs * self.bytes)


def measure(source: Source, form: Format) -> Cost:
    """Convert up to 64 photographs from all over the source."""
    # A few photographs of each of some pieces, from all over the source.
    pieces = source.pieces[:: max(1, len(source.pieces) // 8)]
    sizes, seconds = [], 0.0
    for piece in pieces:
        for number, (_, _, data) in enumerate(piece.read()):
            start = time.perf_counter()
            try:
                sizes.append(len(convert(data, form)))
            except ValueError:
                continue  # listed when it is built
            seconds += time.perf_counter() - start
            if number + 1 >= _SAMPLED // len(pieces):
                break
    if not sizes:
        raise ValueError(f"{source.root}: none of the photographs looked at can be decoded")
    return Cost(seconds / len(sizes), float(np.mean(sizes)) + _TAR_BYTES)


class DogBirdPlan(Plan, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides a dataset of groups of ImageNet's classes."""

    dataset: Literal["dogbird"]
    synsets: tuple[str, ...]
    classes: dict[str, tuple[str, ...]]  # name to wnids
    photographs: dict[str, Any]  # how they are stored
    order: str
    versions: dict[str, str]
    source_sha256: dict[str, str]  # of each split
    left_out: str


@dataclass(frozen=True)
class Build:
    """One build: from where, of which classes, in which form, to where."""

    out: Path
    source: Source
    task: Task
    form: Format
    shard_size: int = 1000
    crop: int = CROP

    @property
    def staging(self) -> Path:
        """Beside the folder, so that both are on one disk."""
        return self.out.with_name(f"{self.out.name}.staging")

    @property
    def request(self) -> str:
        """Hex digest of all that decides this build, the source's files as they are included."""
        # The recipe and the source's files.
        digest = hashlib.sha256(repr(self.recipe()).encode())
        for piece in self.source.pieces:
            digest.update(piece.key.encode())
        return digest.hexdigest()

    def recipe(self) -> dict[str, Any]:
        """Return the part of the plan that is known before a photograph is read."""
        # How each photograph is stored, and which classes are which label.
        stored = asdict(self.form) | {"filter": "bilinear", "subsampling": SUBSAMPLING}
        classes = zip(self.task.class_names, self.task.classes, strict=True)
        crop = {} if self.crop == CROP else {"crop": self.crop}
        return crop | {
            "dataset": DATASET,
            "image_shape": [None, None, 3],
            "extension": EXTENSION,
            "shard_size": self.shard_size,
            "class_names": list(self.task.class_names),
            "synsets": list(self.task.synsets),
            "classes": {name: list(wnids) for name, wnids in classes},
            "photographs": {"keep_bytes": True} if self.form.keep_bytes else stored,
            "order": "sha256 of the source's file",
            "labels": "given",
            "probabilities": "one-hot",
            "duplicates": "kept",
            "beside": [PHOTOGRAPHS, BROKEN],
            "versions": encoder_versions(),
        }

    def check_folder(self) -> DogBirdPlan | None:
        """Return the plan that the directory has already, None for an empty one; ValueError if the
        directory holds something else.
        """
        if not (self.out / PLAN).is_file():
            if self.out.is_file():
                raise ValueError(f"{self.out} is a file: choose another `out`")
            if self.out.is_dir() and any(self.out.iterdir()):
                raise ValueError(f"{self.out} holds other files: choose another `out`")
            return None
        # What is known before reading is compared; hashes of the source come later.
        present, wanted = load_json(self.out / PLAN, dict[str, Any]), self.recipe()
        found = differences({key: present.get(key) for key in wanted}, wanted, "plan")
        if found:
            raise ValueError(
                f"{self.out} holds another plan; differing: {'; '.join(found)}. Repeat its own "
                f"command, or choose another `out`"
            )
        return load_plan(self.out, DogBirdPlan)

    def finished_plan(self) -> DogBirdPlan | None:
        """Return the plan if this very build is complete, else None."""
        plan = self.check_folder()
        if plan is None or plan.about.request != self.request:
            return None
        return None if DatasetFolder(self.out, plan).unfinished() else plan

    def check_disk(self, cost: Cost) -> None:
        """Raise ValueError if the disk will not hold the shards and the staged photographs."""
        # What is there need not be written again.
        there = sum(path.stat().st_size for path in self.staging.glob("*.bin"))
        there += sum(path.stat().st_size for path in self.out.glob("data/*.tar"))
        check_disk(self.out, 2 * cost.total_bytes(len(self.source)) - there)

    def run(self, workers: int = 1, on_progress: OnProgress | None = None) -> DogBirdPlan:
        """Stage and write what is not there yet, and return the plan. Raises ValueError while
        another process builds this directory.
        """
        with locked(self.staging, "building"):
            # Convert everything once, sort it, then write shard by shard.
            rows = stage(self.staging, self.source.pieces, self.form, workers, on_progress)
            splits, broken = sort_rows(rows, self.task)
            plan = self._plan(splits, broken)
            claim_folder(self.out, plan)
            self._write_lists(splits, broken)
            self._write_shards(splits, plan, workers, on_progress)
            remove_staged(self.staging, self.source.pieces, self.form)
        return plan

    def _plan(self, splits: dict[str, list[Row]], broken: list[Row]) -> DogBirdPlan:
        # The names of files are for people; hashes of their contents decide.
        about = About(
            recipe=f"{_named(self.task.class_names)}, from ImageNet",
            source=str(self.source.root.resolve()),
            forms=self.source.forms,
            broken=len(broken),
            request=self.request,
        )
        plan = DogBirdPlan(
            format=FORMAT,
            splits={split: len(rows) for split, rows in splits.items()},
            source_sha256={split: _digest(rows) for split, rows in splits.items()},
            left_out=_digest(broken),
            fingerprint="",
            about=about,
            **self.recipe(),
        )
        return seal(plan)

    def _write_lists(self, splits: dict[str, list[Row]], broken: list[Row]) -> None:
        # Where each image came from, and what was left out.
        every = [row for rows in splits.values() for row in rows]
        header = "index\tsplit\twnid\tname\tsha256"
        lines = [
            f"{index}\t{row.split}\t{row.wnid}\t{row.name}\t{row.sha256}"
            for index, row in enumerate(every)
        ]
        _write_lines(self.out / PHOTOGRAPHS, [header, *lines])
        lines = [f"{r.split}\t{r.wnid}\t{r.name}\t{r.sha256}\t{r.error}" for r in broken]
        _write_lines(self.out / BROKEN, ["split\twnid\tname\tsha256\terror", *lines])

    def _write_shards(
        self,
        splits: dict[str, list[Row]],
        plan: DogBirdPlan,
        workers: int,
        on_progress: OnProgress | None,
    ) -> None:
        places = (self.out, self.out / "data", self.out / "meta")
        clean_folders(*places)
        # A job for each shard that is not finished.
        every = [row for rows in splits.values() for row in rows]
        labels, jobs = self.task.labels, []
        waiting = DatasetFolder(self.out, plan).unfinished()
        count = len(self.task.classes)
        for shard in waiting:
            rows = every[shard.start : shard.stop]
            classes = np.array([labels[row.wnid] for row in rows])  # (N,)
            jobs.append((self.out, shard, rows, classes, count, plan.fingerprint))
        phase = Phase.of("write", plan.shards, waiting, on_progress)
        for count in in_workers(write_photographs, jobs, workers):
            phase(count)
        clean_folders(*places)  # of workers that outlived a killed build by a moment


def _named(names: Sequence[str]) -> str:
    return " against ".join(names) if len(names) < 4 else f"{len(names)} labels"


def sort_rows(rows: Iterable[Row], task: Task) -> tuple[dict[str, list[Row]], list[Row]]:
    """Return each split's photographs in the order of the dataset, and the broken ones, sorted."""
    # By hash: an order that no form of the source can change.
    splits: dict[str, list[Row]] = {}
    broken = []
    for row in sorted(rows, key=lambda row: (row.sha256, row.wnid, row.name)):
        if row.error is None:
            splits.setdefault(row.split, []).append(row)
        else:
            broken.append(row)
    return {split: splits[split] for split in RANGES if split in splits}, broken


def write_photographs(job: tuple[Path, Shard, list[Row], np.ndarray, int, str]) -> int:
    """Write one shard of staged photographs, in a worker process; return its length."""
    folder, shard, rows, labels, count, fingerprint = job
    facts = {"fingerprint": fingerprint, "device": "build"}
    probabilities = np.eye(count, dtype=np.float16)[labels]
    samples = (_read(row) for row in rows)
    write_shard(folder, shard, samples, labels, probabilities, facts, EXTENSION)
    return len(shard)


def _read(row: Row) -> bytes:
    with open(row.path, "rb") as stream:
        stream.seek(row.offset)
        return stream.read(row.size)


def _digest(rows: Iterable[Row]) -> str:
    """Return a hash of the files and classes of rows, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.sha256} {row.wnid}\n".encode())
    return digest.hexdigest()


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with atomic_write(path) as stream:
        stream.writelines(f"{line}\n".encode() for line in lines)
