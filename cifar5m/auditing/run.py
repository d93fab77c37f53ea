"""Audit a dataset against CIFAR-10, from the first look to the report and the page.

found = audit("out/tiny", cifar10="~/data")
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cifar5m.auditing.cost import measure_cost
from cifar5m.auditing.labels import NotMeasured
from cifar5m.auditing.neighbours import Reference, feature_reference, pixel_reference
from cifar5m.auditing.page import Pictures, make_page
from cifar5m.auditing.quality import dinov2_distance, fid_and_kid, first_images, is_wanted
from cifar5m.auditing.reference import (
    Judge,
    Seen,
    label_photographs,
    open_photographs,
    pixels_of,
    unlabeled,
)
from cifar5m.auditing.report import Measured, Subject, make_report
from cifar5m.auditing.shards import (
    Comparison,
    baseline,
    baseline_path,
    baseline_rows,
    damage,
    examine_shards,
    is_examined,
)
from cifar5m.labels.labeler import Labeler, load_classifier
from cifar5m.sampling.recipes import labeling_settings
from cifar5m.weights.sources import WeightsError, find_labeler
from worlds.data.splits import Split
from worlds.formats.layout import AUDIT, CIFAR10_CLASSES, Shard
from worlds.formats.plan import Plan, load_plan
from worlds.formats.shards import find_record
from worlds.runtime.device import pick_device
from worlds.runtime.errors import first_line
from worlds.runtime.files import atomic_write, write_json
from worlds.runtime.progress import OnProgress, Phase

_INCEPTION = ("auto", "download", "none")


@dataclass(frozen=True, repr=False)
class AuditResult:
    """Result of an audit: its report, and the paths of report and page."""

    report: Path
    page: Path
    shards: int
    shards_planned: int
    summary: dict[str, float | None]  # None: not measured
    not_measured: dict[str, str]  # and why
    problems: tuple[str, ...]  # damaged shards that were left out

    def __repr__(self) -> str:
        numbers = (f"{k}={v:.4g}" for k, v in self.summary.items() if v is not None)
        return f"AuditResult({str(self.page)!r}, {', '.join(numbers)})"


@dataclass(frozen=True)
class _Audit:
    """Inputs of an audit, checked, with the labeler on its device."""

    folder: Path
    out: Path
    plan: Plan
    shards: list[Shard]
    photographs: dict[str, Split]
    judge: Judge | None
    no_judge: str  # why there is no labeler
    device: str
    on_progress: OnProgress | None


def audit(
    directory: str | Path,
    *,
    cifar10: str | Path,
    cifar10_name: str = "CIFAR-10",
    out: str | Path | None = None,
    labeler: str | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    inception: str = "auto",
    dinov2: str = "auto",
    device: str = "auto",
    on_progress: OnProgress | None = None,
) -> AuditResult:
    """Compare the finished shards of a dataset with CIFAR-10; the same call again resumes.

    Args:
        directory: The dataset directory; only `out` in it is written.
        cifar10: CIFAR-10 as torchvision's directory, a pack, or any other store.
        cifar10_name: What the report calls it.
        out: Directory of report and page, by default `directory`/audit.
        labeler: timm directory, file or Hub id, "tiny" or "none"; by default as in the plan.
        precision: Of the labeler, "fp32", "tf32", "bf16" or "fp16"; by default as in the plan.
        batch_size: Images a call of the labeler, at least 1; by default as in the plan.
        inception: For FID and KID: "auto" (on a GPU only), "download", "none" or a weights file.
        dinov2: "auto" (on a GPU only), "none", or a timm name or directory.
        device: "auto", "cpu", "cuda" or "cuda:K".
        on_progress: Called with images done; may raise to stop.

    Returns:
        The summary, why anything was not measured, and the paths of audit.json and index.html.

    Raises:
        ValueError: If a parameter is out of range, a directory holds something else, or no shard is
            finished and intact.
    """
    plan = _start(
        directory, cifar10, out, labeler, precision, batch_size, inception, device, on_progress
    )
    seen = _label_reference(plan)
    comparison = _make_comparison(plan, seen)
    problems = _examine(plan, comparison)
    subject = _subject(plan, problems, cifar10_name)
    measured = _measure(plan, subject, comparison, seen, inception, dinov2)
    report, page = _write(subject, plan.photographs, measured)
    return AuditResult(
        report=subject.audit / "audit.json",
        page=page,
        shards=len(subject.shards),
        shards_planned=subject.planned,
        summary=report["summary"],
        not_measured=report["not_measured"],
        problems=tuple(problems.values()),
    )


def measure_audit(
    directory: str | Path,
    *,
    cifar10: str | Path,
    out: str | Path | None = None,
    labeler: str | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    inception: str = "auto",
    device: str = "auto",
    **_: object,
) -> Iterator[str]:
    """Yield lines on what is left to do and how long it takes, by a few hundred images.

    The parameters are those of `audit`; what does not change the cost is ignored.
    """
    given = (labeler, precision, batch_size, inception, device)
    plan = _start(directory, cifar10, out, *given, None)
    photographs, judge, audit = plan.photographs, plan.judge, plan.out
    fingerprints = {name: split.fingerprint for name, split in photographs.items()}
    comparison = Comparison({}, judge, fingerprints)

    # What is left.
    left = [s for s in plan.shards if not is_examined(plan.folder, audit, s, comparison)]
    images, total = sum(map(len, plan.shards)), sum(map(len, photographs.values()))
    waiting = sum(unlabeled(audit, split, judge) for split in photographs.values()) if judge else 0
    searched = len(baseline_rows(len(photographs["test"]), images))
    if baseline_path(audit, comparison, searched).is_file():
        searched = 0

    # How long it takes.
    cost = measure_cost(photographs, judge, plan.device)
    seconds = sum(map(len, left)) * cost.image_seconds + waiting * cost.label_seconds
    seconds += searched * cost.search_seconds
    rows = {
        "images": f"{images:,} in {len(plan.shards):,} finished shards, "
        f"{sum(map(len, left)):,} not examined yet",
        "reference": f"{total:,}" + (f", {waiting:,} not labeled yet" if judge else ""),
        "pixel search": f"{1 / cost.pixel_seconds:,.0f} images/s, {cost.pixel_operations:.3g} "
        "operations an image",
        "labeler": f"{1 / cost.label_seconds:,.0f} images/s" if judge else "none",
        "feature search": f"{1 / cost.feature_seconds:,.0f} images/s" if judge else "none",
        "time": f"{seconds / 3600:,.2f} h on {plan.device} for what is left",
        "disk": f"{cost.disk_bytes(images, total) / 1e6:,.1f} MB in {audit}",
    }
    yield from (f"{name:15} {value}" for name, value in rows.items())


def _start(
    directory: str | Path,
    cifar10: str | Path,
    out: str | Path | None,
    labeler: str | None,
    precision: str | None,
    batch_size: int | None,
    inception: str,
    device: str,
    on_progress: OnProgress | None,
) -> _Audit:
    """Check the parameters, and load CIFAR-10 and the labeler."""
    folder = Path(directory)
    plan = load_plan(folder)
    if plan.class_names != CIFAR10_CLASSES:
        raise ValueError(f"{folder} has other classes than CIFAR-10, which it is held against")
    shards = _finished_shards(folder, plan)
    photographs = open_photographs(cifar10, plan.image_shape)
    if inception not in _INCEPTION and not Path(inception).is_file():
        raise ValueError(f"inception: there is no file {inception}")
    target = str(pick_device(device))
    settings = labeling_settings(plan, precision, batch_size)
    judge, no_judge = _find_judge(plan, labeler, settings, target)
    audit = folder / Path(AUDIT).parent if out is None else Path(out)
    return _Audit(folder, audit, plan, shards, photographs, judge, no_judge, target, on_progress)


def _finished_shards(folder: Path, plan: Plan) -> list[Shard]:
    """Return the shards with a record; damaged ones are among them, and named later.

    Raises ValueError if there is none.
    """
    shards = []
    for shard in plan.shards:
        record = find_record(folder, shard)
        own = record is None or record.fingerprint == plan.fingerprint
        if own and (folder / shard.record).exists():
            shards.append(shard)
    if not shards:
        raise ValueError(f"{folder}: none of its {len(plan.shards)} shards is finished yet")
    return shards


def _find_judge(
    plan: Plan, labeler: str | None, settings: tuple[str, int], device: str
) -> tuple[Judge | None, str]:
    """Return the labeler on its device, or None and why there is none.

    Raises WeightsError if one that was asked for by name cannot be loaded.
    """
    source = labeler or plan.about.labeler or "auto"
    if source == "none":
        return None, "left out by --labeler none"
    try:
        weights = find_labeler(source)
    except WeightsError as error:
        if labeler:
            raise
        return None, f"the labeler could not be loaded: {error}"
    classifier, preprocessing = load_classifier(weights)
    network = Labeler(classifier, preprocessing, torch.device(device), *settings)
    return Judge(network, source, weights.sha256), ""


def _label_reference(plan: _Audit) -> dict[str, Seen]:
    """Return what the labeler makes of CIFAR-10; nothing without a labeler."""
    judge = plan.judge
    if judge is None:
        return {}
    total = sum(map(len, plan.photographs.values()))
    waiting = sum(unlabeled(plan.out, split, judge) for split in plan.photographs.values())
    phase = Phase("reference", total, plan.on_progress, total - waiting)
    return {
        name: label_photographs(plan.out, split, judge, phase)
        for name, split in plan.photographs.items()
    }


def _make_comparison(plan: _Audit, seen: dict[str, Seen]) -> Comparison:
    device = torch.device(plan.device)
    references: dict[tuple[str, str], Reference] = {}
    for name, split in plan.photographs.items():
        references["pixel", name] = pixel_reference(pixels_of(split), device)
        if name in seen:
            references["feature", name] = feature_reference(seen[name].features, device)
    fingerprints = {name: split.fingerprint for name, split in plan.photographs.items()}
    return Comparison(references, plan.judge, fingerprints)


def _examine(plan: _Audit, comparison: Comparison) -> dict[Shard, str]:
    """Examine what was not examined before; return which shards were left out, and why."""
    damaged = {shard: damage(plan.folder, shard, plan.plan) for shard in plan.shards}
    problems = {shard: problem for shard, problem in damaged.items() if problem is not None}
    shards = [shard for shard in plan.shards if shard not in problems]
    waiting = [s for s in shards if not is_examined(plan.folder, plan.out, s, comparison)]
    phase = Phase.of("examine", shards, waiting, plan.on_progress)
    for each in examine_shards(plan.folder, plan.out, waiting, comparison, phase):
        if each.problem is not None:
            problems[each.shard] = f"{each.shard.tar}: {each.problem}"
    return problems


def _subject(plan: _Audit, problems: dict[Shard, str], cifar10_name: str) -> Subject:
    """Return the intact part of the dataset; ValueError if there is none."""
    intact = [shard for shard in plan.shards if shard not in problems]
    if not intact:
        first = next(iter(problems.values()))
        raise ValueError(
            f"every finished shard is damaged: {first}; run cifar5m-verify {plan.folder} --repair, "
            f"then this again"
        )
    planned = len(plan.plan.shards)
    return Subject(plan.folder, plan.out, plan.plan, intact, planned, cifar10_name)


def _measure(
    plan: _Audit,
    subject: Subject,
    comparison: Comparison,
    seen: dict[str, Seen],
    inception: str,
    dinov2: str,
) -> Measured:
    """Measure what takes CIFAR-10 or the whole dataset, not an image: baseline and quality."""
    test = plan.photographs["test"]
    rows = baseline_rows(len(test), sum(map(len, subject.shards)))
    queries = {"pixel": pixels_of(test)[rows]}
    if seen:
        queries["feature"] = seen["test"].features[rows]
    total = sum(map(len, queries.values()))
    done = total if baseline_path(subject.audit, comparison, len(rows)).is_file() else 0
    phase = Phase("baseline", total, plan.on_progress, done)
    found = baseline(subject.audit, comparison, queries, phase)
    quality = _measure_quality(plan, subject.shards, inception, dinov2)
    return Measured(comparison.judge, plan.no_judge, seen, found, quality)


def _measure_quality(
    plan: _Audit, shards: Sequence[Shard], inception: str, dinov2: str
) -> dict[str, Any]:
    """Return FID, KID and FD-DINOv2, or for each why it was not measured."""
    device = torch.device(plan.device)
    found: dict[str, Any] = {}
    try:
        is_wanted(inception, device, "--inception download")
        images, real = first_images(plan.folder, shards), pixels_of(plan.photographs["train"])
        found |= fid_and_kid(images, real, inception, device, quiet=True)
    except NotMeasured as reason:
        found |= {"fid": reason, "kid": reason}
    try:
        is_wanted(dinov2, device, "--dinov2 NAME")
        images, real = first_images(plan.folder, shards), pixels_of(plan.photographs["train"])
        phase = Phase("DINOv2", len(images) + len(real), plan.on_progress)
        found["fd_dinov2"] = dinov2_distance(images, real, dinov2, device, phase)
    except NotMeasured as reason:
        found["fd_dinov2"] = reason
    return found


def _write(
    subject: Subject, photographs: dict[str, Split], measured: Measured
) -> tuple[dict[str, Any], Path]:
    """Write the report, then the page; return the report and the page's path."""
    report = make_report(subject, photographs, measured)
    try:
        pictures = Pictures(subject.folder, subject.shards, photographs)
        page = make_page(report, subject.class_names, pictures)
    except (OSError, ValueError) as error:  # damaged since they were examined
        raise ValueError(
            f"an image cannot be read ({first_line(error)}); run cifar5m-verify {subject.folder} "
            f"--repair, then this again"
        ) from error
    write_json(subject.audit / "audit.json", report)
    path = subject.audit / "index.html"
    with atomic_write(path) as stream:
        stream.write(page.encode())
    return report, path
