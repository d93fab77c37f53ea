"""cifar5m-verify DIR: re-hash, decode, count and compare everything in a dataset directory.

    cifar5m-verify DIR --repair     # then make the broken shards again, and verify once more

Exit code 0: all is well (now); 1: problems were found, and listed; 2: not a dataset directory;
128 + signal: stopped.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser
from worlds.cli.progress import ProgressBars

if TYPE_CHECKING:
    from cifar5m.shards.repair import Outcome
    from cifar5m.shards.verify import Report

_OWN = ("json", "repair")  # options that are no parameters of `repair`
_LISTED = 3  # missing shards, at most


def make_parser() -> Parser:
    parser = Parser("cifar5m-verify", __doc__)
    add = parser.add_argument
    add("directory", metavar="DIR", type=Path, help="directory that holds plan.json")
    add("--workers", type=int, help="processes, >= 1 (default: one a CPU)")
    add("--json", action="store_true", help="end with the report as one JSON line")
    add = parser.add_argument_group("repair").add_argument
    add("--repair", action="store_true", help="make the broken shards again")
    add("--generator", help="where it is now (default: where the plan says)")
    add("--labeler", help="where it is now (default: where the plan says)")
    add("--parts", type=Path, nargs="+", help="where the files of an imported set are now")
    add("--allow-non-ema", action="store_true", help="as when the set was generated")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:K (default auto)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    return exit_code(parser, lambda: run(args, parser))


def run(args: argparse.Namespace, parser: Parser) -> int:
    from cifar5m.shards.verify import verify

    # Parameters of the repair are checked before hours of verifying.
    if args.repair:
        from worlds.runtime.device import pick_device

        pick_device(args.device)  # checked before hours of verifying
    with ProgressBars() as on_progress:
        report = verify(args.directory, workers=args.workers, on_progress=on_progress)
    print("\n".join(report_lines(report)))
    if args.repair and not report.ok:
        report = repair_and_report(args, report, parser)
        print("\n".join(["", "after the repair", *report_lines(report)]))
    if args.json:
        print(json.dumps(asdict(report) | {"ok": report.ok}))
    return 0 if report.ok else 1


def repair_and_report(args: argparse.Namespace, report: "Report", parser: Parser) -> "Report":
    """Make what is broken again, print what came of each part, and return the new report."""
    from cifar5m.shards.repair import repair

    with ProgressBars() as on_progress:
        # What cannot be tried at all goes to stderr, in the words of the options.
        def on_outcome(outcome: "Outcome") -> None:
            if outcome.name:
                on_progress.write(str(outcome))
            else:
                reason = parser.as_options(outcome.message)
                on_progress.write(f"{parser.prog}: cannot repair: {reason}", sys.stderr)

        given = {name: value for name, value in vars(args).items() if name not in _OWN}
        done = repair(**given, report=report, on_outcome=on_outcome, on_progress=on_progress)
        return done.report


def report_lines(report: "Report") -> Iterator[str]:
    """Yield the report as a table, then OK or the list of problems."""
    from cifar5m.shards.check import NOT_THERE
    from worlds.formats.summary import agreement_line

    each = f"{report.bytes / report.images:,.0f} an image" if report.images else "nothing"
    rows = {
        "folder": report.folder,
        "fingerprint": report.fingerprint,
        "shards": f"{report.shards:,} of {report.shards_planned:,}",
        "images": f"{report.images:,} of {report.images_planned:,}",
        "bytes": f"{report.bytes:,} ({each})",
        "duplicates": f"{report.duplicates:,}",
    }
    if report.agreed is not None:
        rows["agreement"] = agreement_line(report.agreed, report.images)
    # Facts, classes, problems.
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
    # An unfinished set lacks many shards: they are counted.
    listed = [problem for problem in report.problems if problem.message != NOT_THERE]
    absent = len(report.problems) - len(listed)
    if absent > _LISTED:
        yield f"{absent:,} of {report.shards_planned:,} shards are not there yet"
        yield "  the command that made the set goes on with them when it is run again"
    else:
        listed = list(report.problems)
    if listed:
        yield f"{len(listed)} problem{'s' if len(listed) > 1 else ''}"
    yield from (f"  {problem}" for problem in listed)


if __name__ == "__main__":
    sys.exit(main())
