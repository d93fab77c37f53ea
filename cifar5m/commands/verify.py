"""cifar5m-verify DIR: re-hash, decode, count and compare everything in a dataset folder.

    cifar5m-verify DIR --repair     # then make the broken shards again, and verify once more

Exit code 0: all is well (now); 1: problems were found, and listed; 2: not a dataset folder;
128 + signal: stopped.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from cifar5m.commands.common import _bar, verify_folder
from cifar5m.shards.verify import Report
from worlds.cli.exit import in_one_line
from worlds.cli.progress import DownloadBar, updating
from worlds.formats.plan import load_plan
from worlds.runtime.errors import first_line
from worlds.runtime.signals import StopSignal


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="cifar5m-verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder that holds plan.json")
    parser.add_argument("--workers", type=int, help="processes, default one for each CPU")
    parser.add_argument("--json", action="store_true", help="end with the report as one JSON line")
    repair = parser.add_argument_group("repair")
    repair.add_argument("--repair", action="store_true", help="make the broken shards again")
    repair.add_argument("--generator", help="where it lies now (default: where the plan says)")
    repair.add_argument("--labeler", help="where it lies now (default: where the plan says)")
    repair.add_argument(
        "--parts", type=Path, nargs="+", help="of an imported set: where its files lie now"
    )
    repair.add_argument(
        "--allow-non-ema", action="store_true", help="as when the set was generated"
    )
    repair.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:K")
    args = parser.parse_args(argv)
    return in_one_line("cifar5m-verify", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    stop, device = StopSignal(), _device(args)
    report = verify_folder(args.folder, args.workers, stop)
    print("\n".join(report_lines(report)))
    if args.repair and not report.ok:
        _repair(args, report, device, stop)
        report = verify_folder(args.folder, args.workers, stop)
        print("\n".join(["", "after the repair", *report_lines(report)]))
    if args.json:
        print(json.dumps(asdict(report) | {"ok": report.ok}))
    return 0 if report.ok else 1


def _device(args: argparse.Namespace) -> str:
    """Of the repair; torch is not needed, and not loaded, without one."""
    if not args.repair:
        return "cpu"
    from worlds.runtime.device import pick_device

    return str(pick_device(args.device))


def _repair(args: argparse.Namespace, report: Report, device: str, stop: StopSignal) -> None:
    """Make what is broken again and say of each part what came of it."""
    for mend in (_make_again, _label_again):
        try:
            mend(args, report, device, stop)
        except (ValueError, OSError, RuntimeError) as error:
            reason = first_line(error)
            print(f"cifar5m-verify: cannot repair: {reason}", file=sys.stderr)


def _make_again(args: argparse.Namespace, report: Report, device: str, stop: StopSignal) -> None:
    from cifar5m.shards.repair import RepairOptions, broken_shards, repair_dataset

    broken = broken_shards(report, load_plan(args.folder).shards)
    with DownloadBar() as downloads, _bar("repair", sum(map(len, broken))) as bar:
        options = RepairOptions(
            generator=args.generator,
            labeler=args.labeler,
            parts=args.parts and tuple(args.parts),
            allow_non_ema=args.allow_non_ema,
            device=device,
            on_images=updating(bar, stop),
            progress=downloads.progress,
            note=downloads.note,
        )
        for outcome in repair_dataset(args.folder, report, options):
            verdict = "repaired" if outcome.repaired else "not repaired"
            bar.write(f"{verdict}: {outcome.shard.name}: {outcome.message}", file=sys.stdout)


def _label_again(args: argparse.Namespace, report: Report, device: str, stop: StopSignal) -> None:
    from cifar5m.labels.relabel import mend_labelling
    from cifar5m.shards.repair import broken_labellings

    for name in broken_labellings(report):
        with _bar(f"labels/{name}", None) as bar:
            for found in mend_labelling(args.folder, name, device, updating(bar, stop)):
                verdict = "labelled again" if found.problem is None else found.problem
                bar.write(f"labels/{name}: {found.shard.name}: {verdict}", file=sys.stdout)


def report_lines(report: Report) -> Iterator[str]:
    """The report as a table, then OK or the list of problems."""
    each = f"{report.bytes / report.images:,.0f} an image" if report.images else "nothing"
    rows = {
        "folder": report.folder,
        "fingerprint": report.fingerprint,
        "shards": f"{report.shards:,} of {report.shards_planned:,}",
        "images": f"{report.images:,} of {report.images_planned:,}",
        "bytes": f"{report.bytes:,} ({each})",
        "duplicates": f"{report.duplicates:,}",
    }
    width = max(map(len, [*rows, *report.class_names])) + 2
    for name, value in rows.items():
        yield f"{name:{width}}{value}"
    yield ""
    yield f"{'class':{width}}{'images':>12}{'%':>8}"
    for name, count in zip(report.class_names, report.classes, strict=True):
        yield f"{name:{width}}{count:>12,}{100 * count / max(report.images, 1):>8.2f}"
    yield ""
    if report.ok:
        yield "OK"
        return
    yield f"{len(report.problems)} problem{'s' if len(report.problems) > 1 else ''}"
    yield from (f"  {problem}" for problem in report.problems)


if __name__ == "__main__":
    sys.exit(main())
