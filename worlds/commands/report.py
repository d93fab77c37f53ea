"""worlds-report RUNS ... --out DIR: one page, with figures and points, from run directories alone.

    worlds-report runs --out report
    worlds-report runs/fig1 other/machine/runs --out report --only fig1

DIR/index.html holds everything and opens offline; beside it are figures/*.png and *.svg, and
points/*.csv and *.json. Runs of an experiment are compared with its claim, all others are grouped
by their config. The last line is JSON.
"""

import sys
from pathlib import Path

from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser
from worlds.commands.common import TOLERANCE, print_report


def make_parser() -> Parser:
    parse = Parser("worlds-report", __doc__)
    parse.add_argument(
        "runs", metavar="RUNS", type=Path, nargs="+", help="directories of run directories"
    )
    parse.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="the page's directory"
    )
    parse.add_argument("--only", metavar="NAME", nargs="+", default=[], help="only these figures")
    parse.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="largest |Real - Ideal| of the test error at any step up to T0 that counts as close, "
        "for runs of no experiment, in (0, 1); default: %(default)s",
    )
    return parse


def main(argv: list[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    return exit_code(parser, lambda: print_report(args.runs, args.out, args.only, args.tolerance))


if __name__ == "__main__":
    sys.exit(main())
