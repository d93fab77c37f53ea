"""List the architectures of the paper with what they cost.

worlds-models                     the whole suite
worlds-models preresnet18 myrtle5 --width 16
worlds-models --image-size 224 --classes 1000 --json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from worlds.cli.counted import counted
from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser
from worlds.cli.tables import columns

if TYPE_CHECKING:
    from worlds.models import Row


def make_parser() -> Parser:
    parse = Parser("worlds-models", __doc__)
    parse.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")
    parse.add_argument(
        "--image-size", type=int, help="only this form: 32 or 224 px (default: both)"
    )
    parse.add_argument("--classes", type=int, help="classes (default: 10 at 32 px, 2 at 224 px)")
    parse.add_argument("--width", type=int, help="width of the named architectures that take one")
    parse.add_argument("--json", action="store_true", help="one JSON line a row, exact numbers")
    return parse


def rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows asked for. Raises ValueError for an invalid name, size, classes or width."""
    options: dict[str, Any] = {} if args.width is None else {"width": args.width}
    if options and not args.names:
        raise ValueError("--width needs the names of the architectures that it is for")
    # The packaged table answers, unless something else is to be counted.
    suite = [row for row in counted("models") if args.image_size in (None, row["image_size"])]
    known = {row["name"] for row in suite}
    if args.classes is None and not options and known.issuperset(args.names):
        if not args.names:
            return suite
        return [row for name in args.names for row in suite if row["name"] == name]
    return [asdict(row) for row in _described(args, options)]


def _described(args: argparse.Namespace, options: dict[str, Any]) -> "list[Row]":
    """Count what the packaged table does not have."""
    from worlds.models import architectures, describe, find

    # A name may be of both image sizes, or of a function outside.
    known = architectures(args.image_size)
    if not args.names:
        return [describe(a, args.classes) for a in known]
    chosen = []
    for name in args.names:
        forms = [a for a in known if a.name == name]
        chosen += forms or [find(name, args.image_size or 32)]
    return [describe(a, args.classes, **options) for a in chosen]


def table(suite: Sequence[dict[str, Any]]) -> str:
    header = ("name", "family", "px", "classes", "parameters", "MACs (M)", "figures")
    lines = [header]
    for row in suite:
        macs = f"{row['multiply_adds'] / 1e6:,.2f}"
        sizes = str(row["image_size"]), str(row["num_classes"]), f"{row['parameters']:,}"
        lines.append((row["name"], row["family"], *sizes, macs, row["figure"]))
    return columns(lines, left=(0, 1, 6))


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    return exit_code(parser, lambda: run(args))


def run(args: argparse.Namespace) -> int:
    suite = rows(args)
    if not suite:
        raise ValueError(f"no architecture takes {args.image_size} px images")
    if args.json:
        for row in suite:
            print(json.dumps(row))
    else:
        print(table(suite))
    return 0


if __name__ == "__main__":
    sys.exit(main())
