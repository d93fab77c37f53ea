"""cifar5m-pack: from shards to the memory-mapped pack that loaders read fastest, and back.

    cifar5m-pack out/cifar5m                               # writes out/cifar5m.pack
    cifar5m-pack --to-shards out/cifar5m.pack --out back   # shards again, as an import of the pack

Every shard is hashed before it is decoded. The same command again resumes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser
from worlds.cli.progress import ProgressBars


def make_parser() -> Parser:
    parser = Parser("cifar5m-pack", __doc__)
    add = parser.add_argument
    add("folder", metavar="DIR", type=Path, help="directory that holds plan.json")
    add("--out", type=Path, help="default: DIR.pack; needed with --to-shards")
    add("--workers", type=int, help="processes, >= 1 (default: one a CPU)")
    add("--to-shards", action="store_true", help="DIR is a pack; write shards")
    add("--shard-size", type=int, default=10_000, help="with --to-shards, >= 1 (default 10000)")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    return exit_code(parser, lambda: run(args), args.out or args.folder)


def run(args: argparse.Namespace) -> int:
    with ProgressBars(args.quiet, "a pack is written at one go, so nothing is kept") as on_progress:
        options = {"workers": args.workers, "on_progress": on_progress}
        # Back to shards: a pack is imported like any other dataset.
        if args.to_shards:
            from cifar5m.shards.importing import import_dataset

            if args.out is None:
                raise ValueError("--to-shards needs --out, the directory for the shards")
            options |= {"form": "pack", "shard_size": args.shard_size}
            result: object = import_dataset([args.folder], args.out, **options)
        else:
            from cifar5m.shards.packing import pack

            result = pack(args.folder, args.out, **options)
    print(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
