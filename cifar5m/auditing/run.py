"""Audit a dataset against CIFAR-10, from the first look to the report and the page.

found = audit("out/tiny", cifar10="~/data")
"""

from dataclasses import dataclass, replace
from pathlib import Path

from cifar5m.auditing.inputs import open_audit, predict_reference
from cifar5m.auditing.page import make_page
from cifar5m.auditing.quality import measure_quality
from cifar5m.auditing.report import Measured, make_report
from cifar5m.auditing.shards import examine_shards, make_references, measure_baseline
from worlds.runtime.errors import first_line
from worlds.runtime.files import atomic_write, write_json
from worlds.runtime.progress import OnProgress


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
    subject = open_audit(
        directory,
        cifar10=cifar10,
        out=out,
        labeler=labeler,
        precision=precision,
        batch_size=batch_size,
        inception=inception,
        device=device,
        on_progress=on_progress,
    )
    # Every image against CIFAR-10; what is damaged is left out.
    predictions = predict_reference(subject)
    references = make_references(subject, predictions)
    problems = examine_shards(subject, references)
    intact = [shard for shard in subject.shards if shard not in problems]
    repair = f"run cifar5m-verify {subject.folder} --repair, then this again"
    if not intact:
        first = next(iter(problems.values()))
        raise ValueError(f"every finished shard is damaged: {first}; {repair}")
    subject = replace(subject, shards=intact)

    # What takes CIFAR-10 or the whole dataset, not an image.
    baseline = measure_baseline(subject, references, predictions)
    quality = measure_quality(subject, inception, dinov2)
    measured = Measured(predictions, baseline, quality)

    # The report, then the page.
    report = make_report(subject, measured, cifar10_name)
    try:
        page = make_page(report, subject)
    except (OSError, ValueError) as error:  # damaged since they were examined
        raise ValueError(f"an image cannot be read ({first_line(error)}); {repair}") from error
    paths = subject.out / "audit.json", subject.out / "index.html"
    write_json(paths[0], report)
    with atomic_write(paths[1]) as stream:
        stream.write(page.encode())
    return AuditResult(
        *paths,
        shards=len(intact),
        shards_planned=len(subject.plan.shards),
        summary=report["summary"],
        not_measured=report["not_measured"],
        problems=tuple(problems.values()),
    )
