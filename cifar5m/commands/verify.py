"""cifar5m-verify DIR: re-hash, decode, count and compare everything in a dataset folder.

Exit code 0: all is well; 1: problems were found, and listed; 2: not a dataset folder.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from cifar5m.verify import Report, verify_dataset
from worlds.layout import layout_of, read_plan


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="cifar5m-verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder that holds plan.json")
    parser.add_argument("--workers", type=int, help="processes, default one for each CPU")
    parser.add_argument("--json", action="store_true", help="end with the report as one JSON line")
    args = parser.parse_args(argv)
    try:
        report = _verify(args.folder, args.workers)
    except (ValueError, OSError) as error:
        print(f"cifar5m-verify: {error}", file=sys.stderr)
        return 2
    print("\n".join(report_lines(report)))
    if args.json:
        print(json.dumps(asdict(report) | {"ok": report.ok}))
    return 0 if report.ok else 1


def _verify(folder: Path, workers: int | None) -> Report:
    plan = read_plan(folder)
    try:
        images = len(layout_of(plan))
    except (KeyError, TypeError, AttributeError):
        images = None  # verify_dataset says what is wrong
    with tqdm(total=images, unit=" images", desc="verify", unit_scale=True, leave=False) as bar:
        return verify_dataset(
            folder, workers=workers, on_shard=lambda found: bar.update(len(found.shard))
        )


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
