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


def rows(args: argparse.Namespace) -> "list[Row]":
    """The rows asked for; ValueError for a name, size, class count or width that cannot be."""
    from worlds.models import architectures, describe, find

    options: dict[str, Any] = {} if args.width is None else {"width": args.width}
    if not args.names:
        if options:
            raise ValueError("--width needs the names of the architectures that it is for")
        return [describe(a, args.classes) for a in architectures(args.image_size)]
    known = architectures(args.image_size)
    chosen = []
    for name in args.names:
        forms = [a for a in known if a.name == name]
        chosen += forms or [find(name, args.image_size or 32)]
    return [describe(a, args.classes, **options) for a in chosen]


def table(suite: "Sequence[Row]") -> str:
    header = ("name", "family", "px", "classes", "parameters", "MACs (M)", "figures")
    lines = [header]
    for row in suite:
        macs = f"{row.multiply_adds / 1e6:,.2f}"
        numbers = (f"{row.image_size}", f"{row.num_classes}", f"{row.parameters:,}", macs)
        lines.append((row.name, row.family, *numbers, row.figure))
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
            print(json.dumps(asdict(row)))
    else:
        print(table(suite))
    return 0


if __name__ == "__main__":
    sys.exit(main())
