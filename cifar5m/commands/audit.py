"""cifar5m-audit DIR: what a generated set is like, held against CIFAR-10, in one report and page.

    cifar5m-audit out/tiny --cifar10 ~/data
    cifar5m-audit cifar5m --cifar10 ~/data --dry-run

Exact duplicates; the nearest CIFAR-10 photograph of every image, in pixels and in the labeller's
features; class counts, confidence, calibration, agreement of labellers, suspected label errors;
FID, KID and FD-DINOv2 where their weights are at hand. It writes DIR/audit/audit.json and
DIR/audit/index.html; nothing else in DIR is touched, and no image is dropped. The same command
again goes on where it stopped, and takes in what was generated since. Exit code 0: all finished
shards are audited; 1: damaged shards were left out; 2: bad usage.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar5m.commands.common import pick_settings
from worlds.cli.exit import EXIT_FAILED, exit_code, tell_damaged
from worlds.cli.progress import updating
from worlds.formats.layout import AUDIT, CIFAR10_CLASSES, Shard
from worlds.formats.plan import Plan, load_plan
from worlds.runtime.signals import StopSignal

if TYPE_CHECKING:
    from cifar5m.auditing.reference import Judge, Seen
    from cifar5m.auditing.report import Measured, Subject
    from cifar5m.auditing.shards import Comparison
    from worlds.data.splits import Split

COMMAND = "cifar5m-audit"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder that holds plan.json")
    parser.add_argument(
        "--cifar10", required=True, help="folder of torchvision, pack, or any other store"
    )
    parser.add_argument(
        "--cifar10-name", default="CIFAR-10", help="what the report calls it (default CIFAR-10)"
    )
    parser.add_argument("--out", type=Path, help="default: DIR/audit")
    parser.add_argument("--dry-run", action="store_true", help="print cost and time, then stop")
    labeler = parser.add_argument_group("labeller, for features and calibration")
    labeler.add_argument(
        "--labeler", help="timm folder, file or Hub id, tiny, or none (default: as DIR's plan)"
    )
    labeler.add_argument("--precision", help="fp32, tf32, bf16 or fp16 (default: as DIR's plan)")
    labeler.add_argument("--batch", type=int, help="images a call, >= 1 (default: as DIR's plan)")
    quality = parser.add_argument_group("distances that need downloaded weights")
    quality.add_argument(
        "--inception",
        default="auto",
        help="for FID and KID: auto (on a GPU alone), download, none, or torch-fidelity's file "
        "(default auto)",
    )
    quality.add_argument(
        "--dinov2",
        default="auto",
        help="auto (on a GPU alone), none, or a timm name or folder (default auto)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:K (default auto)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    hint = "for a batch; choose a smaller --batch"
    return exit_code(COMMAND, args.out or args.folder, lambda: run(args), too_large=hint)


def run(args: argparse.Namespace) -> int:
    from cifar5m.auditing.reference import open_photographs
    from worlds.runtime.device import pick_device

    plan = load_plan(args.folder)
    if plan.class_names != CIFAR10_CLASSES:
        raise ValueError(f"{args.folder} has other classes than CIFAR-10, which it is held against")
    shards = finished_shards(args.folder, plan)
    photographs = open_photographs(args.cifar10, plan.image_shape)
    if args.inception not in ("auto", "download", "none") and not Path(args.inception).is_file():
        raise ValueError(f"--inception: there is no file {args.inception}")
    device = str(pick_device(args.device))
    judge, no_judge = find_judge(args, plan, device)
    audit = args.out or args.folder / Path(AUDIT).parent
    if args.dry_run:
        print_cost(args, audit, shards, photographs, judge, device)
        return 0
    stop = StopSignal()
    seen = look_at_photographs(args, audit, photographs, judge, stop)
    comparison = make_comparison(photographs, judge, seen, device)
    problems = examine(args, audit, plan, shards, comparison, stop)
    subject = subject_of(args, audit, plan, shards, problems)
    measured = measure_set(args, subject, photographs, comparison, seen, no_judge, stop)
    write(subject, photographs, measured)
    tell_damaged(COMMAND, args.folder, list(problems.values()))
    return EXIT_FAILED if problems else 0


def finished_shards(folder: Path, plan: Plan) -> list[Shard]:
    """Those with a record of this plan: what is off with them is told of, not taken for missing."""
    from worlds.formats.shards import find_record

    shards = []
    for shard in plan.shards:
        record = find_record(folder, shard)
        own = record is None or record.fingerprint == plan.fingerprint
        if own and (folder / shard.record).exists():
            shards.append(shard)
    if not shards:
        raise ValueError(f"{folder}: none of its {len(plan.shards)} shards is finished yet")
    return shards


def find_judge(args: argparse.Namespace, plan: Plan, device: str) -> tuple["Judge | None", str]:
    """The labeller on its device, or None and why there is none; WeightsError where it was asked
    for by name.
    """
    import torch

    from cifar5m.auditing.reference import Judge
    from cifar5m.labels.labeler import Labeler, load_classifier
    from cifar5m.weights.sources import WeightsError, find_labeler

    source = args.labeler or plan.about.labeler or "bit"
    if source == "none":
        return None, "left out by --labeler none"
    try:
        weights = find_labeler(source)
    except WeightsError as error:
        if args.labeler:
            raise
        return None, f"the labeller is not at hand: {error}"
    precision, batch = pick_settings(args, plan)
    classifier, preprocessing = load_classifier(weights)
    labeler = Labeler(classifier, preprocessing, torch.device(device), precision, batch)
    return Judge(labeler, source, weights.sha256), ""


def look_at_photographs(
    args: argparse.Namespace,
    audit: Path,
    photographs: dict[str, "Split"],
    judge: "Judge | None",
    stop: StopSignal,
) -> dict[str, "Seen"]:
    """The labeller on CIFAR-10, nothing without a labeller."""
    from cifar5m.auditing.reference import label_photographs, unlabelled

    if judge is None:
        return {}
    total = sum(map(len, photographs.values()))
    waiting = sum(unlabelled(audit, split, judge) for split in photographs.values())
    with _bar("photographs", total, total - waiting, args.quiet) as bar:
        return {
            name: label_photographs(audit, split, judge, updating(bar, stop))
            for name, split in photographs.items()
        }


def make_comparison(
    photographs: dict[str, "Split"],
    judge: "Judge | None",
    seen: dict[str, "Seen"],
    device: str,
) -> "Comparison":
    import torch

    from cifar5m.auditing.neighbours import Reference, feature_reference, pixel_reference
    from cifar5m.auditing.reference import pixels_of
    from cifar5m.auditing.shards import Comparison

    place = torch.device(device)
    references: dict[tuple[str, str], Reference] = {}
    for name, split in photographs.items():
        references["pixel", name] = pixel_reference(pixels_of(split), place)
        if name in seen:
            references["feature", name] = feature_reference(seen[name].features, place)
    fingerprints = {name: split.fingerprint for name, split in photographs.items()}
    return Comparison(references, judge, fingerprints)


def examine(
    args: argparse.Namespace,
    audit: Path,
    plan: Plan,
    shards: Sequence[Shard],
    comparison: "Comparison",
    stop: StopSignal,
) -> dict[Shard, str]:
    """Examine what was not examined before, with progress; which shards were left out, and why."""
    from cifar5m.auditing.shards import damage, examine_shards, is_examined

    damaged = {shard: damage(args.folder, shard, plan) for shard in shards}
    problems = {shard: problem for shard, problem in damaged.items() if problem is not None}
    shards = [shard for shard in shards if shard not in problems]
    waiting = [s for s in shards if not is_examined(args.folder, audit, s, comparison)]
    total, left = sum(map(len, shards)), sum(map(len, waiting))
    with _bar("images", total, total - left, args.quiet) as bar:
        found = examine_shards(args.folder, audit, waiting, comparison, updating(bar, stop))
        for each in found:
            if each.problem is not None:
                problems[each.shard] = f"{each.shard.tar}: {each.problem}"
    return problems


def subject_of(
    args: argparse.Namespace,
    audit: Path,
    plan: Plan,
    shards: Sequence[Shard],
    problems: dict[Shard, str],
) -> "Subject":
    from cifar5m.auditing.report import Subject

    whole = [shard for shard in shards if shard not in problems]
    if not whole:
        first = next(iter(problems.values()))
        raise ValueError(
            f"every finished shard is damaged: {first}; run cifar5m-verify {args.folder} --repair, "
            f"then this again"
        )
    planned = len(plan.shards)
    return Subject(args.folder, audit, plan, whole, planned, args.cifar10_name)


def measure_set(
    args: argparse.Namespace,
    subject: "Subject",
    photographs: dict[str, "Split"],
    comparison: "Comparison",
    seen: dict[str, "Seen"],
    no_judge: str,
    stop: StopSignal,
) -> "Measured":
    """What takes the photographs or the whole set, rather than an image: baseline and quality."""
    from cifar5m.auditing.reference import pixels_of
    from cifar5m.auditing.report import Measured
    from cifar5m.auditing.shards import baseline, baseline_path

    queries = {"pixel": pixels_of(photographs["test"])}
    if seen:
        queries["feature"] = seen["test"].features
    total = sum(map(len, queries.values()))
    kept = total if baseline_path(subject.audit, comparison).is_file() else 0
    with _bar("baseline", total, kept, args.quiet) as bar:
        found = baseline(subject.audit, comparison, queries, updating(bar, stop))
    quality = measure_quality(args, subject, photographs)
    return Measured(comparison.judge, no_judge, seen, found, quality)


def measure_quality(
    args: argparse.Namespace, subject: "Subject", photographs: dict[str, "Split"]
) -> dict[str, Any]:
    """FID, KID and FD-DINOv2, or for each why it was not measured."""
    from cifar5m.auditing.labels import NotMeasured
    from cifar5m.auditing.quality import dinov2_distance, fid_and_kid, first_images, is_wanted
    from cifar5m.auditing.reference import pixels_of
    from worlds.runtime.device import pick_device

    device = pick_device(args.device)
    found: dict[str, Any] = {}
    try:
        is_wanted(args.inception, device, "--inception download")
        images, real = first_images(subject.folder, subject.shards), pixels_of(photographs["train"])
        found |= fid_and_kid(images, real, args.inception, device, args.quiet)
    except NotMeasured as reason:
        found |= {"fid": reason, "kid": reason}
    try:
        is_wanted(args.dinov2, device, "--dinov2 NAME")
        images, real = first_images(subject.folder, subject.shards), pixels_of(photographs["train"])
        with _bar("DINOv2", len(images) + len(real), 0, args.quiet) as bar:
            found["fd_dinov2"] = dinov2_distance(images, real, args.dinov2, device, bar.update)
    except NotMeasured as reason:
        found["fd_dinov2"] = reason
    return found


def write(subject: "Subject", photographs: dict[str, "Split"], measured: "Measured") -> None:
    """The report, then the page, then the summary on stdout."""
    from cifar5m.auditing.page import Pictures, make_page
    from cifar5m.auditing.report import make_report
    from worlds.runtime.errors import first_line
    from worlds.runtime.files import atomic_write, write_json

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
    with atomic_write(subject.audit / "index.html") as stream:
        stream.write(page.encode())
    if len(subject.shards) < subject.planned:
        print(f"{len(subject.shards)} of {subject.planned} shards are audited")
    for name, value in report["summary"].items():
        shown = f"not measured: {report['not_measured'][name]}" if value is None else f"{value:.6g}"
        print(f"{name:44} {shown}")
    print(subject.audit / "audit.json", subject.audit / "index.html", sep="\n")


def print_cost(
    args: argparse.Namespace,
    audit: Path,
    shards: Sequence[Shard],
    photographs: dict[str, "Split"],
    judge: "Judge | None",
    device: str,
) -> None:
    """What is still to do and about how long it takes, measured on a few hundred images."""
    from cifar5m.auditing.cost import measure_cost
    from cifar5m.auditing.reference import unlabelled
    from cifar5m.auditing.shards import Comparison, baseline_path, is_examined

    fingerprints = {name: split.fingerprint for name, split in photographs.items()}
    comparison = Comparison({}, judge, fingerprints)
    left = [s for s in shards if not is_examined(args.folder, audit, s, comparison)]
    images, total = sum(map(len, shards)), sum(map(len, photographs.values()))
    waiting = sum(unlabelled(audit, split, judge) for split in photographs.values()) if judge else 0
    searched = 0 if baseline_path(audit, comparison).is_file() else len(photographs["test"])
    cost = measure_cost(photographs, judge, device)
    seconds = sum(map(len, left)) * cost.image_seconds + waiting * cost.label_seconds
    seconds += searched * cost.search_seconds
    rows = {
        "images": f"{images:,} in {len(shards):,} finished shards, {sum(map(len, left)):,} not "
        "examined yet",
        "photographs": f"{total:,}" + (f", {waiting:,} not labelled yet" if judge else ""),
        "pixel search": f"{1 / cost.pixel_seconds:,.0f} images/s, {cost.pixel_operations:.3g} "
        "operations an image",
        "labeller": f"{1 / cost.label_seconds:,.0f} images/s" if judge else "none",
        "feature search": f"{1 / cost.feature_seconds:,.0f} images/s" if judge else "none",
        "time": f"{seconds / 3600:,.2f} h on {device} for what is left",
        "disk": f"{cost.disk_bytes(images, total) / 1e6:,.1f} MB in {audit}",
    }
    for name, value in rows.items():
        print(f"{name:15} {value}")


def _bar(what: str, total: int, done: int, quiet: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc=what, unit="img", disable=quiet, smoothing=0.05)


if __name__ == "__main__":
    sys.exit(main())
