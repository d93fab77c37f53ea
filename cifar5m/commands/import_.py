"""cifar5m-import: make shards of an existing set: CIFAR-5m as released, other .npz sets, a folder.

    cifar5m-import part{0..5}.npz --out cifar5m            # what is not there is fetched
    cifar5m-import 1m.npz --out edm-1m --pack              # keys image and label
    cifar5m-import pictures/ --out mine                    # pictures/train/CLASS/*.png

Of the released parts, 0 to 4 become train and 5 test. The same command again goes on where it
stopped; finished shards are never made twice.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cifar5m.commands.common import checked_source, write_shards
from cifar5m.shards.import_sources import FORMS, RELEASED, Source
from cifar5m.shards.importing import ImportedPlan, estimate, plan_of
from worlds.cli.exit import exit_code
from worlds.cli.progress import DownloadBar
from worlds.runtime.processes import cpu_count
from worlds.runtime.signals import StopSignal

BASE_URL = "https://storage.googleapis.com/gresearch/cifar5m"  # the release's HTTP mirror
COMMAND = "cifar5m-import"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        metavar="PART.npz",
        nargs="+",
        type=Path,
        help=".npz files with X and Y or image and label, or one folder of images",
    )
    parser.add_argument("--out", type=Path, required=True, help="dataset folder, made if need be")
    parser.add_argument("--format", default="auto", choices=("auto", *FORMS))
    parser.add_argument(
        "--base-url", default=BASE_URL, help=f"where missing part{{i}}.npz are ({BASE_URL})"
    )
    parser.add_argument(
        "--shard-size", type=int, default=10_000, help="images a shard, >= 1 (default 10000)"
    )
    parser.add_argument("--workers", type=int, help="encoding processes (default: one a CPU)")
    parser.add_argument("--pack", action="store_true", help="then write the pack, OUT.pack")
    parser.add_argument("--dry-run", action="store_true", help="print size and time, then stop")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return exit_code(COMMAND, args.out, lambda: run(args))


def run(args: argparse.Namespace) -> int:
    stop = StopSignal()
    workers = cpu_count() if args.workers is None else args.workers
    if workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}")
    fetch_missing(args, stop)
    source = checked_source(args.paths, args.format, args.out, args.quiet, stop)
    plan = plan_of(source, args.shard_size)
    if args.dry_run:
        print_estimate(source, plan, workers)
        return 0
    write_shards(args.out, source, plan, workers, args.quiet, stop)
    if args.pack:
        from cifar5m.commands.common import default_pack, write_pack_of

        write_pack_of(args.out, default_pack(args.out), workers, args.quiet, stop)
    return 0


def fetch_missing(args: argparse.Namespace, stop: StopSignal) -> None:
    """Download the released parts that are not where the command says."""
    from cifar5m.weights.download import RemoteFile, fetch

    missing = [path for path in args.paths if not path.exists()]
    for path in missing:
        if not RELEASED.fullmatch(path.name):
            raise ValueError(f"{path} does not exist")
    if missing and args.dry_run:
        names = ", ".join(map(str, missing))
        raise ValueError(
            f"{names} would be fetched from {args.base_url}; a dry run needs the files"
        )
    for path in missing:
        with DownloadBar() as bar:
            bar.note(f"{path} is not there: fetching it from {args.base_url}")

            def progress(done: int, total: int | None, bar: DownloadBar = bar) -> None:
                stop.raise_if_set()
                bar.progress(done, total)

            url = f"{args.base_url.rstrip('/')}/{path.name}"
            fetch(RemoteFile(path.name, (url,)), path.parent, progress=progress, note=bar.note)


def print_estimate(source: Source, plan: ImportedPlan, workers: int) -> None:
    layout, cost = plan.layout, estimate(source)
    images = len(layout)
    minutes = images * cost.write_seconds / workers / 60
    subsets = (
        f"{name}: {part['split']} {part['start']:,} to {part['stop'] - 1:,}"
        for name, part in source.subsets.items()
    )
    rows = {
        "source": f"{source.form}, {len(source.files)} files",
        "splits": ", ".join(f"{name} {length:,}" for name, length in layout.splits),
        "subsets": ", ".join(subsets) or "none",
        "images": f"{images:,}",
        "shards": f"{len(layout.shards()):,} of {layout.shard_size:,} images",
        "bytes": f"{cost.bytes(images):,} ({cost.image_bytes:,.0f} an image in the tar)",
        "speed": f"{1 / cost.write_seconds:,.0f} images/s a process",
        "time": f"{minutes:,.1f} minutes with {workers} processes, the disk permitting",
        "fingerprint": plan.fingerprint,
    }
    for name, value in rows.items():
        print(f"{name:12} {value}")


if __name__ == "__main__":
    sys.exit(main())
