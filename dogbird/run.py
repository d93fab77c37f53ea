"""Build ImageNet-DogBird, from the listing of the source to the last shard.

summary = build("/data/imagenet", "dogbird")
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dogbird.building import BROKEN, Build, check_counts, measure
from dogbird.convert import Format
from dogbird.pieces import SPLITS
from dogbird.sources import open_source
from dogbird.tasks import SYNSETS, classes
from worlds.formats.layout import CROP
from worlds.formats.summary import DatasetSummary, summarize
from worlds.runtime.checks import check_positive
from worlds.runtime.processes import worker_count
from worlds.runtime.progress import OnProgress, Phase


@dataclass(frozen=True)
class BuildResult:
    """Result of a build: what was built of what, a summary of each split, and the photographs that
    do not decode; a dry run has the first alone.
    """

    job: Build
    splits: dict[str, DatasetSummary]
    broken: tuple[str, ...]  # lines of broken.tsv: split, wnid, name, sha256, error

    @property
    def path(self) -> Path:
        return self.job.out

    def __str__(self) -> str:
        return "\n".join(f"{name}: {summary}" for name, summary in self.splits.items())


def build(
    imagenet: str | Path,
    out: str | Path,
    *,
    labels: Sequence[str] = SYNSETS,
    wordnet: str | Path | None = None,
    size: int = 256,
    crop: int = CROP,
    quality: int = 90,
    keep_bytes: bool = False,
    shard_size: int = 1000,
    splits: Sequence[str] = SPLITS,
    any_counts: bool = False,
    val_labels: str | Path | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
) -> BuildResult:
    """Build the shards of a task from a copy of ImageNet; the same call again resumes.

    Args:
        imagenet: Directories of classes, the released tars, a WebDataset, or the Hub's Parquet or
            Arrow files; only read.
        out: Dataset directory, created if missing. It belongs to one plan.
        labels: A WordNet synset or a wnid for each label, or ["imagenet"] for all 1,000 classes.
        wordnet: nltk data directory that holds corpora/wordnet, by default nltk's own.
        size: Pixels of the shorter side, 32 to 4096.
        crop: Side of the crops that loaders take, 16 to 1024.
        quality: Of the JPEGs, 1 to 95.
        keep_bytes: Keep each file as it is, whatever its size.
        shard_size: Images a shard, at least 1.
        splits: "train", "val" or both.
        any_counts: Accept classes of other sizes than ILSVRC-2012's.
        val_labels: Classes of validation images that are in one flat directory; by default found
            in `imagenet`.
        workers: Processes, at least 1; by default one a CPU.
        dry_run: List and check the source, and write nothing.
        on_progress: Called with files and images done; may raise to stop.

    Returns:
        What each split holds, and the photographs left out because they do not decode.

    Raises:
        ValueError: If a parameter is out of range, `imagenet` lacks classes, `out` holds another
            plan, or the disk is too small.
    """
    # The source is listed and checked before anything is written.
    chosen = [split for split in SPLITS if split in splits]
    if not chosen or set(splits) - set(SPLITS):
        raise ValueError(f"splits must be train, val or train,val, got {','.join(splits)!r}")
    check_positive("shard_size", shard_size)
    count, form = worker_count(workers), Format(size, quality, keep_bytes)
    if not 16 <= crop <= 1024:
        raise ValueError(f"crop must be between 16 and 1024, got {crop}")
    task = classes(labels, wordnet=wordnet)
    # Listing reads no photograph, but may take minutes on a network disk.
    listing = Phase("list", None, on_progress, unit="files")
    listed = None if val_labels is None else Path(val_labels)
    source = open_source(Path(imagenet), task.labels, chosen, listed, lambda: listing(1))
    check_counts(source, task, any_counts)
    job = Build(Path(out), source, task, form, shard_size, crop)
    if dry_run:
        job.check_folder()
        return BuildResult(job, {}, ())

    # Shards that an earlier run has finished are kept.
    plan = job.finished_plan()
    if plan is None:
        job.check_disk(measure(source, form))
        plan = job.run(count, on_progress)
    broken = (job.out / BROKEN).read_text().splitlines()[1:]
    summaries = {name: summarize(job.out, plan, name) for name in plan.splits}
    return BuildResult(job, summaries, tuple(broken))
