"""dogbird-build: make the shards of ImageNet-DogBird from a copy of ImageNet.

    dogbird-build --imagenet /data/imagenet --out dogbird --dry-run
    dogbird-build --imagenet /data/imagenet --out dogbird
    dogbird-build --imagenet /data/imagenet --out imagenet32 --labels imagenet --size 64 --crop 32

The copy may be a directory a class (train/, val/), the released tars, a WebDataset, or the Hub's
Parquet or Arrow files; it is only read. The same command again resumes. What cannot be
decoded is left out, named, and listed in OUT/broken.tsv.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dogbird.commands.common import add_task_options
from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser
from worlds.cli.progress import ProgressBars

if TYPE_CHECKING:
    from dogbird.building import Build
    from dogbird.run import BuildResult

_SHOWN = 5  # broken photographs that are named; the list has all


def make_parser() -> Parser:
    parser = Parser("dogbird-build", __doc__)
    add = parser.add_argument
    add(
        "--imagenet",
        type=Path,
        required=True,
        metavar="SRC",
        help="copy of ImageNet: directory or archive",
    )
    add("--out", type=Path, required=True, help="dataset directory")
    add("--dry-run", action="store_true", help="print counts, size, time, and stop")
    add_task_options(parser)

    add = parser.add_argument_group("content (another choice needs another --out)").add_argument
    add("--size", type=int, default=256, help="pixels of the shorter side, 32 to 4096 (256)")
    add("--crop", type=int, default=224, help="side of the crops loaders take, 16 to 1024 (224)")
    add("--quality", type=int, default=90, help="JPEG quality, 1 to 95 (90)")
    add("--keep-bytes", action="store_true", help="keep each file as it is, whatever its size")
    add("--shard-size", type=int, default=1000, help="images a shard, >= 1 (1000)")
    add(
        "--splits",
        type=lambda text: text.split(","),
        default="train,val",
        help="train, val or both (train,val)",
    )
    add("--any-counts", action="store_true", help="take classes of other sizes than ILSVRC-2012's")
    add(
        "--val-labels",
        type=Path,
        help="classes of validation images in one flat directory: the devkit's list, Kaggle's "
        "LOC_val_solution.csv, Caffe's val.txt, or a wnid a line (default: found in SRC)",
    )

    add = parser.add_argument_group("execution (never changes the content)").add_argument
    add("--workers", type=int, help="processes (default: one a CPU)")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    return exit_code(parser, lambda: run(args), args.out)


def run(args: argparse.Namespace) -> int:
    from dogbird.run import build
    from worlds.runtime.processes import worker_count

    given: dict[str, Any] = vars(args).copy()
    with ProgressBars(given.pop("quiet"), "converted images and shards are kept") as on_progress:
        result = build(**given, on_progress=on_progress)
        if args.dry_run:
            print_estimate(result.job, worker_count(args.workers))
            return 0
    print_result(result)
    return 0


def print_estimate(build: "Build", workers: int) -> None:
    """Print the classes, and the size and time by some photographs converted on this machine."""
    from dogbird.building import measure

    # Classes first, then the cost by a sample.
    cost, photographs = measure(build.source, build.form), len(build.source)
    size = cost.total_bytes(photographs)
    minutes = photographs * cost.seconds / workers / 60
    print_classes(build)
    rows = {
        "source": ", ".join(f"{split}: {form}" for split, form in build.source.forms.items()),
        "photographs": f"{photographs:,}",
        "bytes": f"{size:,} ({size / photographs:,.0f} each), twice that while it is made",
        "speed": f"{1 / cost.seconds:,.0f} photographs/s a process",
        "time": f"{minutes:,.1f} minutes with {workers} processes, the disk permitting",
    }
    for name, value in rows.items():
        print(f"{name:12} {value}")


def print_classes(build: "Build") -> None:
    """Print the photographs of every class in each split, then of each label."""
    # Every class, then the sums of both labels.
    source = build.source
    counts = {split: source.counts(split) for split in source.forms}
    splits = "".join(f"{split:>10}" for split in counts)
    print(f"{'label':14}{'wnid':12}{'name':34}{splits}")
    for label, classes in zip(build.task.class_names, build.task.classes, strict=True):
        for wnid, name in classes.items():
            numbers = "".join(f"{counted[wnid]:>10,}" for counted in counts.values())
            print(f"{label:14}{wnid:12}{name:34}{numbers}")
    for label, classes in zip(build.task.class_names, build.task.classes, strict=True):
        sums = [sum(counted[wnid] for wnid in classes) for counted in counts.values()]
        numbers = "".join(f"{number:>10,}" for number in sums)
        print(f"{label:14}{f'{len(classes)} classes':46}{numbers}")


def print_result(result: "BuildResult") -> None:
    """Print what is there now, by split and label, and what was left out."""
    for split, summary in result.splits.items():
        labels = ", ".join(f"{name} {count:,}" for name, count in summary.classes.items())
        print(
            f"{split}: {summary.images:,} images in {summary.shards:,} shards, "
            f"{summary.bytes:,} bytes: {labels}"
        )
    # A few broken photographs by name; the list has all.
    if result.broken:
        from dogbird.building import BROKEN

        listed = result.path / BROKEN
        print(f"left out, since they cannot be decoded: {len(result.broken):,} ({listed})")
        for line in result.broken[:_SHOWN]:
            split, wnid, name, _, error = line.split("\t")
            print(f"  {split} {wnid} {name}: {error}")


if __name__ == "__main__":
    sys.exit(main())
