"""Functions that several commands share: options, progress, results."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cifar5m.shards.import_sources import Source, open_source, read_bytes_of
from cifar5m.shards.importing import ImportedPlan, estimate, import_shards
from cifar5m.shards.importing import remembered_files as remembered
from cifar5m.shards.verify import Report, verify_dataset
from worlds.cli.progress import image_bar, updating
from worlds.formats.layout import PLAN, Layout, Shard
from worlds.formats.plan import Plan, claim_folder, load_plan
from worlds.formats.writers import ShardWriters
from worlds.runtime.files import check_disk
from worlds.runtime.signals import StopSignal


def unfinished(folder: Path, shards: Sequence[Shard], fingerprint: str) -> list[Shard]:
    from worlds.formats.shards import is_finished

    return [shard for shard in shards if not is_finished(folder, shard, fingerprint)]


def print_result(folder: Path, plan: Plan, layout: Layout) -> None:
    from worlds.formats.shards import load_record

    records = [load_record(folder, shard) for shard in layout.shards()]
    counts = [sum(column) for column in zip(*(record.classes for record in records), strict=True)]
    size = sum(record.bytes for record in records)
    names = zip(plan.class_names, counts, strict=True)
    print(f"{len(layout):,} images in {len(records)} shards, {size:,} bytes: {folder}")
    print("classes: " + ", ".join(f"{name} {count:,}" for name, count in names))


def pick_settings(args: argparse.Namespace, dataset: Plan) -> tuple[str, int]:
    """Precision and batch: as chosen, else as the first labels were made, else the recipe's."""
    from cifar5m.sampling.recipes import DEFAULT, find_recipe
    from worlds.runtime.device import PRECISIONS

    recipe = find_recipe(DEFAULT)
    precision = args.precision or dataset.precision or recipe.precision
    if precision not in PRECISIONS:
        raise ValueError(f"--precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    batch = args.batch
    if batch is None:
        batch = dataset.label_batch or recipe.label_batch
    if batch < 1:
        raise ValueError(f"--batch must be at least 1, got {batch}")
    return precision, batch


def checked_source(
    paths: Sequence[Path], form: str, out: Path, quiet: bool, stop: StopSignal
) -> Source:
    """Read the source whole, with progress in bytes."""
    from tqdm import tqdm

    total = read_bytes_of(paths)
    with tqdm(
        total=total or None, unit="B", unit_scale=True, desc="check", disable=quiet, leave=False
    ) as bar:
        return open_source(paths, form, remembered(out), updating(bar, stop))


def write_shards(
    out: Path, source: Source, plan: ImportedPlan, workers: int, quiet: bool, stop: StopSignal
) -> None:
    """Write the shards that are not there yet, where the disk will hold them."""
    layout = plan.layout
    shards = layout.shards()
    waiting = unfinished(out, shards, plan.fingerprint)
    if (out / PLAN).exists():
        claim_folder(out, plan)  # another plan is the first thing to tell
    check_disk(out, estimate(source).bytes(sum(map(len, waiting))))
    claim_folder(out, plan)
    with image_bar(shards, waiting, quiet) as bar:
        count = min(workers, max(1, len(waiting)))
        with ShardWriters(count, lambda shard: bar.update(len(shard))) as writers:
            import_shards(out, source, plan, writers, waiting, stop.raise_if_set)
    print_result(out, plan, layout)


def default_pack(folder: Path) -> Path:
    """Where the pack of a folder goes if nothing else is said: beside it."""
    folder = folder.absolute()
    return folder.with_name(f"{folder.name}.pack")


def write_pack_of(folder: Path, out: Path, workers: int, quiet: bool, stop: StopSignal) -> None:
    """Pack the shards of `folder`, with progress in images."""
    from cifar5m.shards.packing import pack_shards

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


def verify_folder(
    folder: Path, workers: int | None, stop: StopSignal, quiet: bool = False
) -> Report:
    """The report on a dataset folder, with progress; Stopped where a signal came."""
    images = len(load_plan(folder).layout)
    with _bar("verify", images, quiet) as bar:
        update = updating(bar, stop)
        return verify_dataset(
            folder, workers=workers, on_shard=lambda found: update(len(found.shard))
        )


def _bar(what: str, images: int | None, quiet: bool = False) -> Any:
    return tqdm(
        total=images, unit=" images", desc=what, unit_scale=True, leave=False, disable=quiet
    )
