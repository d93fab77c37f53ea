"""cifar5m-pack: from shards to the memory-mapped pack that loaders read fastest, and back.

    cifar5m-pack out/cifar5m                               # writes out/cifar5m.pack
    cifar5m-pack --to-shards out/cifar5m.pack --out back   # shards again, as an import of the pack

Every shard is hashed before it is decoded. The same command again goes on where it stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cifar5m.commands.progress import image_bar
from worlds.commands.outcome import exit_code
from worlds.cpus import cpu_count
from worlds.layout import Shard
from worlds.stopping import StopSignal

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


def default_pack(folder: Path) -> Path:
    """Where the pack of a folder goes if nothing else is said: beside it."""
    folder = folder.absolute()
    return folder.with_name(f"{folder.name}.pack")


def run(args: argparse.Namespace) -> int:
    stop = StopSignal()
    workers = cpu_count() if args.workers is None else args.workers
    if workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}")
    if not args.to_shards:
        write_pack_of(args.folder, args.out or default_pack(args.folder), workers, args.quiet, stop)
        return 0
    from cifar5m.commands.import_ import checked_source, write_shards
    from cifar5m.importing import plan_of

    if args.out is None:
        raise ValueError("--to-shards needs --out, the folder for the shards")
    source = checked_source([args.folder], "pack", args.out, args.quiet, stop)
    plan = plan_of(source, args.shard_size)
    write_shards(args.out, source, plan, workers, args.quiet, stop)
    return 0


def write_pack_of(folder: Path, out: Path, workers: int, quiet: bool, stop: StopSignal) -> None:
    """Pack the shards of `folder`, with progress in images."""
    from cifar5m.packing import pack_shards

    with image_bar([], [], quiet) as bar:

        def on_start(shards: Sequence[Shard], waiting: Sequence[Shard]) -> None:
            bar.reset(sum(map(len, shards)))
            bar.n = bar.initial = sum(map(len, shards)) - sum(map(len, waiting))
            bar.refresh()

        def on_shard(shard: Shard) -> None:
            bar.update(len(shard))
            stop.raise_if_set()

        written = pack_shards(folder, out, workers, on_start, on_shard)
    size = sum(path.stat().st_size for path in out.glob("*.npy"))
    print(f"{'written' if written else 'there already'}, {size:,} bytes: {out}")


if __name__ == "__main__":
    sys.exit(main())
