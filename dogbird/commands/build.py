"""dogbird-build: make the shards of ImageNet-DogBird from a copy of ImageNet.

    dogbird-build --imagenet /data/imagenet --out dogbird --dry-run
    dogbird-build --imagenet /data/imagenet --out dogbird

The copy may be a folder a class (train/, val/), the released tars, a WebDataset, or the Hub's
Parquet or Arrow files; it is only read. The same command again goes on where it stopped. What
cannot be decoded is left out, told of, and listed in OUT/broken.tsv.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dogbird.building import BROKEN, Build, Cost, DogBirdPlan, check_counts, measure
from dogbird.commands.common import add_task_options, task_of
from dogbird.convert import Format
from dogbird.pieces import SPLITS
from dogbird.sources import Source, open_source
from worlds.cli.exit import exit_code
from worlds.cli.progress import image_bar
from worlds.formats.layout import Shard
from worlds.formats.shards import load_record
from worlds.runtime.processes import cpu_count
from worlds.runtime.signals import StopSignal

COMMAND = "dogbird-build"
_SHOWN = 5  # broken photographs told of; the list has all


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--imagenet", type=Path, required=True, metavar="SRC", help="the copy")
    parser.add_argument("--out", type=Path, required=True, help="dataset folder, made if need be")
    parser.add_argument("--dry-run", action="store_true", help="print counts, size, time, and stop")
    add_task_options(parser)

    content = parser.add_argument_group("content (another choice needs another --out)")
    content.add_argument(
        "--size", type=int, default=256, help="pixels of the shorter side, 32 to 4096 (256)"
    )
    content.add_argument("--quality", type=int, default=90, help="of the JPEGs, 1 to 95 (90)")
    content.add_argument(
        "--keep-bytes", action="store_true", help="keep each file as it is, whatever its size"
    )
    content.add_argument("--shard-size", type=int, default=1000, help="images a shard (1000)")
    content.add_argument(
        "--splits", default=",".join(SPLITS), help="train, val or both (train,val)"
    )
    content.add_argument(
        "--any-counts", action="store_true", help="take classes of other sizes than ILSVRC-2012's"
    )
    content.add_argument(
        "--val-labels",
        type=Path,
        help="classes of validation images that lie flat: the devkit's ground truth, Kaggle's "
        "LOC_val_solution.csv, Caffe's val.txt, or a wnid a line (default: found in SRC)",
    )

    execution = parser.add_argument_group("execution (never changes the content)")
    execution.add_argument("--workers", type=int, help="processes (default: one a CPU)")
    execution.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return exit_code(COMMAND, args.out, lambda: run(args))


def run(args: argparse.Namespace) -> int:
    workers = cpu_count() if args.workers is None else args.workers
    if workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}")
    stop = StopSignal()
    build = find_build(args, stop)
    plan = build.finished_plan()
    if plan is None or args.dry_run:
        cost = measure(build.source, build.form)
        if args.dry_run:
            print_estimate(build, cost, workers)
            return 0
        build.check_disk(cost)
        plan = run_build(build, workers, args.quiet, stop)
    print_result(build, plan)
    return 0


def find_build(args: argparse.Namespace, stop: StopSignal) -> Build:
    """List the source and check it, with progress, before anything is written."""
    from tqdm import tqdm

    splits = [split for split in SPLITS if split in args.splits.split(",")]
    if not splits or set(args.splits.split(",")) - set(SPLITS):
        raise ValueError(f"--splits must be train, val or train,val, got {args.splits!r}")
    if args.shard_size < 1:
        raise ValueError(f"--shard-size must be at least 1, got {args.shard_size}")
    form = Format(args.size, args.quality, args.keep_bytes)
    task = task_of(args)
    with tqdm(unit=" files", desc="list", disable=args.quiet, leave=False, delay=2) as bar:

        def on_file() -> None:
            stop.raise_if_set()
            bar.update()

        source = open_source(args.imagenet, task.labels, splits, args.val_labels, on_file)
    check_counts(source, task, args.any_counts)
    return Build(args.out, source, task, form, args.shard_size)


def run_build(build: Build, workers: int, quiet: bool, stop: StopSignal) -> DogBirdPlan:
    """Both halves, each with its bar."""
    from tqdm import tqdm

    bars: list[Any] = [
        tqdm(total=len(build.source), unit="img", desc="convert", disable=quiet, smoothing=0.05)
    ]

    def on_shards(shards: Sequence[Shard], waiting: Sequence[Shard]) -> None:
        bars.append(image_bar(shards, waiting, quiet))

    try:
        return build.run(
            workers,
            on_staged=lambda count: bars[0].update(count),
            on_shards=on_shards,
            on_written=lambda count: bars[1].update(count),
            check=stop.raise_if_set,
        )
    finally:
        for bar in bars:
            bar.close()


def print_estimate(build: Build, cost: Cost, workers: int) -> None:
    photographs = len(build.source)
    size = cost.total_bytes(photographs)
    minutes = photographs * cost.seconds / workers / 60
    print_classes(build.source, build)
    rows = {
        "source": ", ".join(f"{split}: {form}" for split, form in build.source.forms.items()),
        "photographs": f"{photographs:,}",
        "bytes": f"{size:,} ({size / photographs:,.0f} each), twice that while it is made",
        "speed": f"{1 / cost.seconds:,.0f} photographs/s a process",
        "time": f"{minutes:,.1f} minutes with {workers} processes, the disk permitting",
    }
    for name, value in rows.items():
        print(f"{name:12} {value}")


def print_classes(source: Source, build: Build) -> None:
    """Photographs of every class in each split, then of each label."""
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


def print_result(build: Build, plan: DogBirdPlan) -> None:
    """What is there now, by split and label, and what was left out."""
    layout, names = plan.layout, plan.class_names
    for split, length in layout.splits:
        shards = layout.shards(split)
        records = [load_record(build.out, shard) for shard in shards]
        sums = [sum(column) for column in zip(*(r.classes for r in records), strict=True)]
        labels = ", ".join(f"{name} {count:,}" for name, count in zip(names, sums, strict=True))
        size = sum(record.bytes for record in records)
        print(f"{split}: {length:,} images in {len(shards):,} shards, {size:,} bytes: {labels}")
    broken = (build.out / BROKEN).read_text().splitlines()[1:]
    if broken:
        print(f"left out, since they cannot be decoded: {len(broken):,} ({build.out / BROKEN})")
        for line in broken[:_SHOWN]:
            split, wnid, name, _, error = line.split("\t")
            print(f"  {split} {wnid} {name}: {error}")


if __name__ == "__main__":
    sys.exit(main())
