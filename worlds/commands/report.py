"""worlds-report RUNS ... --out DIR: one page, with figures and points, from run folders alone.

    worlds-report runs --out report
    worlds-report runs/fig1 other/machine/runs --out report --only fig1

DIR/index.html holds everything and opens offline; beside it lie figures/*.png and *.svg, and
points/*.csv and *.json. Runs that belong to an experiment are set against its claim, all others are
grouped by their config. The last line is JSON.
"""

import argparse
import json
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(
        prog="worlds-report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("runs", metavar="RUNS", type=Path, nargs="+", help="folders of run folders")
    parse.add_argument("--out", metavar="DIR", type=Path, required=True)
    parse.add_argument("--only", metavar="NAME", nargs="+", default=[], help="only these figures")
    parse.add_argument(
        "--tolerance",
        type=float,
        default=0.03,
        help="largest bootstrap error that counts as small, for runs of no experiment, in (0, 1); "
        "default: 0.03",
    )
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from worlds.report.write import write_report

    def tell(done: int, total: int, name: str) -> None:
        print(f"{done + 1} of {total}: {name}", file=sys.stderr)

    try:
        written = write_report(
            args.runs, args.out, tolerance=args.tolerance, only=args.only, on_figure=tell
        )
    except (ValueError, OSError) as error:
        print(f"worlds-report: {error}", file=sys.stderr)
        return 2
    states = [entry.verdict.status for entry in written.entries]
    missing = sum(len(entry.missing) for entry in written.entries)
    for entry in written.entries:
        print(f"{entry.verdict.status:<6} {entry.experiment.name}: {entry.sentence}")
    for problem in written.problems:
        print(f"note: {problem}")
    summary = {
        "page": str(written.page),
        "figures": sum(entry.svg is not None for entry in written.entries),
        **{state: states.count(state) for state in ("holds", "fails", "open")},
        "missing": missing,
    }
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
