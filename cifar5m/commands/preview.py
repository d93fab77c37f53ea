"""cifar5m-preview DIR: a contact sheet and the histograms of class and confidence of a dataset.

The paths of the two pictures are the last two lines.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser


def make_parser() -> Parser:
    parser = Parser("cifar5m-preview", __doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="directory that holds plan.json")
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: DIR/preview")
    parser.add_argument("--per-class", metavar="N", type=int, default=10, help="default: 10")
    parser.add_argument("--split", metavar="S", help="one split only")
    parser.add_argument("--seed", type=int, default=0, help="chooses the images, default: 0")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    return exit_code(parser, lambda: run(args))


def run(args: argparse.Namespace) -> int:
    from cifar5m.preview import draw_histograms, draw_sheet, survey
    from cifar5m.shards.verify import PREVIEW_FOLDER
    from worlds.runtime.files import atomic_write

    # Both pictures are drawn before either is written.
    found = survey(args.folder, args.split)
    sheet = draw_sheet(found, args.per_class, args.seed)
    figure = draw_histograms(found)
    out = args.out or args.folder / PREVIEW_FOLDER
    paths = out / "contact-sheet.png", out / "histograms.png"
    with atomic_write(paths[0]) as stream:
        sheet.save(stream, "png")
    with atomic_write(paths[1]) as stream:
        figure.savefig(stream, format="png", dpi=110)
    # A dataset may still be growing: say what the pictures lack.
    if found.skipped:
        names = ", ".join(shard.name for shard in found.skipped[:5])
        more = ", ..." if len(found.skipped) > 5 else ""
        planned = len(found.finished) + len(found.skipped)
        print(f"left out {len(found.skipped)} of {planned} shards, not finished: {names}{more}")
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
