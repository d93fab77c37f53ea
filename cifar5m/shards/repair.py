"""Repair a dataset folder: make again exactly the shards that `cifar5m-verify` found broken.

    done = repair("out/tiny")      # done.ok, done.outcomes, and in done.report what is left

A shard is made again by whatever made the set, which its plan names, and takes its place only if it
has the recorded sha256. Files that do not belong are never deleted, except what a killed process of
this machine left half-written.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from cifar5m.labels.labeling import LABELS_FOLDER, labeling_names
from cifar5m.labels.relabel import repair_labels
from cifar5m.sampling.generate import Job, make_shard
from cifar5m.sampling.job import (
    DATASET,
    GeneratedPlan,
    find_sources,
    load_job,
    options_of,
    plan_of,
)
from cifar5m.shards import importing
from cifar5m.shards.check import check_arrays
from cifar5m.shards.importing import ImportedPlan
from cifar5m.shards.verify import Report, verify
from worlds.formats.layout import PLAN, Shard
from worlds.formats.plan import Plan, differences, load_plan
from worlds.formats.shards import (
    Record,
    SideArrays,
    encode_png,
    find_record,
    write_shard,
    write_tar,
)
from worlds.formats.writers import ShardContent
from worlds.runtime.device import pick_device
from worlds.runtime.errors import first_line
from worlds.runtime.files import HashingStream, remove_stale, sha256_of
from worlds.runtime.progress import OnProgress, Phase


@dataclass(frozen=True)
class RepairOptions:
    """Paths of networks and imported files (None: as in the plan), and the device."""

    generator: str | None = None
    labeler: str | None = None
    parts: tuple[Path, ...] | None = None
    allow_non_ema: bool = False
    device: str = "cpu"
    on_images: Callable[[float], None] = lambda images: None  # made since the last call
    on_progress: OnProgress | None = None  # of a download


class Rebuilt(NamedTuple):
    """A shard made again and not written yet, with the seconds and the device of its record."""

    shard: Shard
    content: ShardContent
    facts: dict[str, Any]


# Makes shards of a folder again, in their order: (folder, shards, options).
Rebuilder = Callable[[Path, Sequence[Shard], RepairOptions], Iterator[Rebuilt]]


def regenerate(folder: Path, shards: Sequence[Shard], options: RepairOptions) -> Iterator[Rebuilt]:
    """Rebuild generated shards, by the generating job as the plan describes it."""
    job = job_of(folder, options)
    for shard in shards:
        start = time.monotonic()
        made = make_shard(job, shard, options.on_images)
        yield Rebuilt(shard, made, _facts(start, job.generator.device_name))


def job_of(folder: Path, options: RepairOptions) -> Job:
    """Load the job that a plan describes; ValueError if it would not make the same bytes."""
    # The same networks, then the same plan: else the bytes would differ.
    plan = load_plan(folder, GeneratedPlan)
    chosen = options_of(plan, options.generator, options.labeler, options.allow_non_ema)
    sources = find_sources(chosen, options.on_progress)
    for name, weights, expected in (
        ("generator", sources.generator, plan.generator_sha256),
        ("labeler", sources.labeler, plan.labeler_sha256),
    ):
        if (found := weights.sha256) != expected:
            raise ValueError(
                f"{name}: {weights.source} has sha256 {found}, the set was made with {expected}"
            )
    again = plan_of(chosen, sources)
    if again.fingerprint != plan.fingerprint:
        raise ValueError(
            f"this installation would not make the same bytes; differing: "
            f"{'; '.join(differences(plan.content(), again.content()))}. Install the versions "
            f"that the plan names"
        )
    return load_job(chosen, sources, plan, options.device)


def reimport(folder: Path, shards: Sequence[Shard], options: RepairOptions) -> Iterator[Rebuilt]:
    """Rebuild imported shards, from the imported files."""
    with closing(importing.reopen(load_plan(folder, ImportedPlan), options.parts)) as source:
        for shard in shards:
            start = time.monotonic()
            content = importing.content_of(source, shard)
            options.on_images(len(shard))
            yield Rebuilt(shard, content, _facts(start, importing.DEVICE))


def _facts(start: float, device: str) -> dict[str, Any]:
    return {"seconds": round(time.monotonic() - start, 3), "device": device}


# By what the plan calls "dataset".
REBUILDERS: Final[dict[str, Rebuilder]] = {DATASET: regenerate, importing.DATASET: reimport}


@dataclass(frozen=True)
class Outcome:
    """Result for one broken part: a shard, or the labels of a shard in labels/NAME."""

    name: str  # "" if no part could be tried
    repaired: bool
    message: str

    def __str__(self) -> str:
        if not self.name:
            return f"cannot repair: {self.message}"
        return f"{'repaired' if self.repaired else 'not repaired'}: {self.name}: {self.message}"


@dataclass(frozen=True)
class Repair:
    """Result of a repair: each broken part, and the report on the directory now."""

    outcomes: tuple[Outcome, ...]
    report: Report

    @property
    def ok(self) -> bool:
        """True if nothing is broken now."""
        return self.report.ok

    def __repr__(self) -> str:
        repaired = sum(outcome.repaired for outcome in self.outcomes)
        return f"Repair({repaired} of {len(self.outcomes)} repaired; {self.report!r})"


def repair(
    directory: str | Path,
    *,
    report: Report | None = None,
    generator: str | None = None,
    labeler: str | None = None,
    parts: Sequence[str | Path] | None = None,
    allow_non_ema: bool = False,
    device: str = "auto",
    workers: int | None = None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    on_progress: OnProgress | None = None,
) -> Repair:
    """Make the broken shards and labelings of a dataset directory again, then verify it again.

    A shard is replaced only by one with the recorded sha256.

    Args:
        directory: The dataset directory.
        report: What `verify` found there; by default it is verified first.
        generator: Where the generator is now, by default where the plan says.
        labeler: Where the labeler is now, by default where the plan says.
        parts: Where the files of an imported dataset are now, by default where the plan says.
        allow_non_ema: As when the dataset was generated.
        device: "auto", "cpu", "cuda" or "cuda:K".
        workers: Processes that verify, at least 1; by default one a CPU.
        on_outcome: Called with what came of each broken part; may raise to stop.
        on_progress: Called with images done; may raise to stop.

    Returns:
        The outcomes, and the report after the repair.

    Raises:
        ValueError: If `directory` holds no valid plan, or a parameter is out of range.
    """
    folder, target = Path(directory), str(pick_device(device))
    report = report or verify(folder, workers=workers, on_progress=on_progress)
    shards = load_plan(folder).shards
    # Networks and files as the plan names them, unless the caller knows better.
    options = RepairOptions(
        generator=generator,
        labeler=labeler,
        parts=None if parts is None else tuple(map(Path, parts)),
        allow_non_ema=allow_non_ema,
        device=target,
        on_images=Phase("repair", sum(map(len, broken_shards(report, shards))), on_progress),
        on_progress=on_progress,
    )

    # The plan or the weights may not allow one kind of repair; the other is tried all the same.
    outcomes: list[Outcome] = []
    for found in (
        repair_shards(folder, report, options),
        _repair_labelings(folder, report, target, on_progress),
    ):
        try:
            for outcome in found:
                outcomes.append(outcome)
                on_outcome(outcome)
        except (ValueError, OSError, RuntimeError) as error:
            outcomes.append(Outcome("", False, first_line(error)))
            on_outcome(outcomes[-1])
    report = verify(folder, workers=workers, on_progress=on_progress)
    return Repair(tuple(outcomes), report)


def _repair_labelings(
    folder: Path, report: Report, device: str, on_progress: OnProgress | None
) -> Iterator[Outcome]:
    for name in broken_labelings(report):
        phase = Phase(f"labels/{name}", None, on_progress)
        for shard, problem in repair_labels(folder, name, device, phase):
            part = f"labels/{name}: {shard.name}"
            yield Outcome(part, problem is None, problem or "labeled again")


def repair_shards(folder: Path, report: Report, options: RepairOptions) -> Iterator[Outcome]:
    """Make the broken shards of a verified directory again, one after the other.

    Raises ValueError, before anything is made, if the plan cannot be trusted or followed: another
    network, other package versions, an unknown kind of dataset.
    """
    # A plan that was edited does not say how the shards were made.
    plan = load_plan(folder)
    if any(problem.kind == "plan" and problem.path == PLAN for problem in report.problems):
        raise ValueError(
            f"{folder / PLAN} was edited, so it does not say how the shards were made: put the "
            f"original back first"
        )
    remove_leftovers(folder)
    broken = broken_shards(report, plan.shards)
    if not broken:
        return
    rebuild = REBUILDERS.get(plan.dataset or "")
    if rebuild is None:
        raise ValueError(
            f"{len(broken)} shards of a set of the kind {plan.dataset!r} cannot be made again here "
            f"(only {', '.join(REBUILDERS)}): run the command that made the set once more, into "
            f"{folder}"
        )
    for rebuilt in rebuild(folder, broken, options):
        yield replace_shard(folder, plan, rebuilt)


def broken_shards(report: Report, shards: Sequence[Shard]) -> list[Shard]:
    """Return the shards whose own files have a problem; duplicates are not one."""
    paths = {problem.path for problem in report.problems if problem.kind != "duplicate"}
    return [
        shard for shard in shards if paths & {str(shard.tar), str(shard.arrays), str(shard.record)}
    ]


def broken_labelings(report: Report) -> list[str]:
    """List the second labelings with a problem, unless the plan or foreign files are it."""
    # Problems by labeling; foreign files are no reason to label again.
    kinds: dict[str, set[str]] = {}
    for problem in report.problems:
        top, *rest = Path(problem.path).parts
        if top == LABELS_FOLDER and problem.kind not in ("foreign", "temporary"):
            kinds.setdefault(rest[0], set()).add(problem.kind)
    return [name for name, found in kinds.items() if "plan" not in found]


def remove_leftovers(folder: Path) -> None:
    """Delete what processes of this machine, which are gone, left half-written."""
    # Everywhere that a process of this project writes.
    labelings = [folder / LABELS_FOLDER / name for name in labeling_names(folder)]
    places = [folder, folder / "data", *labelings, *(p / "meta" for p in (folder, *labelings))]
    for place in places:
        if place.is_dir():
            remove_stale(place)


def replace_shard(folder: Path, plan: Plan, rebuilt: Rebuilt) -> Outcome:
    """Write a shard in place of the broken one, unless a record speaks against it."""
    shard, (images, labels, probabilities, requested) = rebuilt.shard, rebuilt.content
    samples = [encode_png(image) for image in images]
    rows = zip(range(shard.start, shard.stop), samples, labels.tolist(), strict=True)
    with open(os.devnull, "wb") as nowhere:
        tar = HashingStream(nowhere)
        write_tar(tar, rows, plan.extension)  # type: ignore[arg-type]
    made, record = tar.sha256.hexdigest(), find_record(folder, shard)

    # What the record, if it is this shard's, and the present tar say.
    own = (plan.fingerprint, shard.tar.name, len(shard))
    if record is not None and (record.fingerprint, record.tar, record.count) != own:
        record = None  # another shard's, or another plan's
    present = sha256_of(folder / shard.tar) if (folder / shard.tar).is_file() else None
    if record is not None and made not in (record.sha256, present):
        device = f"made on {record.device}, now on {rebuilt.facts['device']}"
        message = f"came out with sha256 {made}, the record says {record.sha256} ({device})"
        return Outcome(shard.name, False, f"{message}; nothing was replaced")

    # Nothing speaks against it: write it, and say what proves it right.
    index = np.arange(shard.start, shard.stop, dtype=np.int64)
    arrays = SideArrays(index, labels.astype(np.int64), probabilities.astype(np.float16), requested)
    arrays, remark = _settle_probabilities(folder, shard, plan, arrays, record)
    facts = rebuilt.facts | {"fingerprint": plan.fingerprint}
    content = arrays.label, arrays.probabilities, facts, plan.extension, requested
    write_shard(folder, shard, samples, *content)
    if made == present:
        proof = "the tar was whole, its sha256 came out again"
    elif record is not None:
        proof = "made again, sha256 as recorded"
    else:
        proof = "made again, with no record left to compare with"
    return Outcome(shard.name, True, proof + remark)


def _settle_probabilities(
    folder: Path, shard: Shard, plan: Plan, made: SideArrays, record: Record | None
) -> tuple[SideArrays, str]:
    """Return the arrays to write, and a remark if they are not those recorded.

    With another count of CPU threads a network may round a probability otherwise although all
    labels are the same; a side file that is intact is therefore kept.
    """
    if record is None or made.sha256 == record.arrays_sha256:
        return made, ""
    present, problems = check_arrays(folder, shard, plan)
    if present is not None and not problems and np.array_equal(present.label, made.label):
        return present, ""
    return made, "; its probabilities are not those recorded, to the last bit"
