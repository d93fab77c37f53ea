"""cifar5m-pack: from shards to the memory-mapped pack that loaders read fastest, and back.

    cifar5m-pack out/cifar5m                               # writes out/cifar5m.pack
    cifar5m-pack --to-shards out/cifar5m.pack --out back   # shards again, as an import of the pack

Every shard is hashed before it is decoded. The same command again goes on where it stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cifar5m.commands.common import default_pack, write_pack_of
from worlds.cli.exit import exit_code
from worlds.runtime.processes import cpu_count
from worlds.runtime.signals import StopSignal

COMMAND = "cifar5m-pack"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder that holds plan.json")
    parser.add_argument("--out", type=Path, help="default: DIR.pack; needed with --to-shards")
    parser.add_argument("--workers", type=int, help="processes (default: one a CPU)")
    parser.add_argument("--to-shards", action="store_true", help="DIR is a pack; write shards")
    parser.add_argument(
        "--shard-size", type=int, default=10_000, help="with --to-shards, >= 1 (default 10000)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return exit_code(COMMAND, args.out or default_pack(args.folder), lambda: run(args))


def run(args: argparse.Namespace) -> int:
    stop = StopSignal()
    workers = cpu_count() if args.workers is None else args.workers
    if workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}")
    if not args.to_shards:
        write_pack_of(args.folder, args.out or default_pack(args.folder), workers, args.quiet, stop)
        return 0
    from cifar5m.commands.common import checked_source, write_shards
    from cifar5m.shards.importing import plan_of

    if args.out is None:
        raise ValueError("--to-shards needs --out, the folder for the shards")
    source = checked_source([args.folder], "pack", args.out, args.quiet, stop)
    plan = plan_of(source, args.shard_size)
    write_shards(args.out, source, plan, workers, args.quiet, stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
