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
from worlds.formats.summary import DatasetSummary, summarize
from worlds.runtime.checks import check_positive
from worlds.runtime.processes import worker_count
from worlds.runtime.progress import OnProgress, Phase


@dataclass(frozen=True)
class BuildResult:
    """Result of a build: a summary of each split, and the photographs that do not decode."""

    path: Path
    splits: dict[str, DatasetSummary]
    broken: tuple[str, ...]  # lines of broken.tsv: split, wnid, name, sha256, error

    def __str__(self) -> str:
        return "\n".join(f"{name}: {summary}" for name, summary in self.splits.items())


def build(
    imagenet: str | Path,
    out: str | Path,
    *,
    class0: str = SYNSETS[0],
    class1: str = SYNSETS[1],
    wordnet: str | Path | None = None,
    size: int = 256,
    quality: int = 90,
    keep_bytes: bool = False,
    shard_size: int = 1000,
    splits: Sequence[str] = SPLITS,
    any_counts: bool = False,
    val_labels: str | Path | None = None,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> BuildResult:
    """Build the shards of a task of two from a copy of ImageNet; the same call again resumes.

    Args:
        imagenet: Directories of classes, the released tars, a WebDataset, or the Hub's Parquet or
            Arrow files; only read.
        out: Dataset directory, created if missing. It belongs to one plan.
        class0: WordNet synset of label 0.
        class1: WordNet synset of label 1.
        wordnet: nltk data directory that holds corpora/wordnet, by default nltk's own.
        size: Pixels of the shorter side, 32 to 4096.
        quality: Of the JPEGs, 1 to 95.
        keep_bytes: Keep each file as it is, whatever its size.
        shard_size: Images a shard, at least 1.
        splits: "train", "val" or both.
        any_counts: Accept classes of other sizes than ILSVRC-2012's.
        val_labels: Classes of validation images that are in one flat directory; by default found
            in `imagenet`.
        workers: Processes, at least 1; by default one a CPU.
        on_progress: Called with files and images done; may raise to stop.

    Returns:
        What each split holds, and the photographs left out because they do not decode.

    Raises:
        ValueError: If a parameter is out of range, `imagenet` lacks classes, `out` holds another
            plan, or the disk is too small.
    """
    count = worker_count(workers)
    chosen = prepare_build(
        imagenet,
        out,
        class0=class0,
        class1=class1,
        wordnet=wordnet,
        size=size,
        quality=quality,
        keep_bytes=keep_bytes,
        shard_size=shard_size,
        splits=splits,
        any_counts=any_counts,
        val_labels=val_labels,
        on_progress=on_progress,
    )
    plan = chosen.finished_plan()
    if plan is None:
        chosen.check_disk(measure(chosen.source, chosen.form))
        plan = chosen.run(count, on_progress)
    broken = (chosen.out / BROKEN).read_text().splitlines()[1:]
    summaries = {name: summarize(chosen.out, plan, name) for name in plan.splits}
    return BuildResult(chosen.out, summaries, tuple(broken))


def prepare_build(
    imagenet: str | Path,
    out: str | Path,
    *,
    class0: str = SYNSETS[0],
    class1: str = SYNSETS[1],
    wordnet: str | Path | None = None,
    size: int = 256,
    quality: int = 90,
    keep_bytes: bool = False,
    shard_size: int = 1000,
    splits: Sequence[str] = SPLITS,
    any_counts: bool = False,
    val_labels: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Build:
    """List the source and check it, before anything is written; the parameters are `build`'s."""
    chosen = [split for split in SPLITS if split in splits]
    if not chosen or set(splits) - set(SPLITS):
        raise ValueError(f"splits must be train, val or train,val, got {','.join(splits)!r}")
    check_positive("shard_size", shard_size)
    form = Format(size, quality, keep_bytes)
    task = classes(class0, class1, wordnet=wordnet)
    listing = Phase("list", None, on_progress, unit="files")
    labels = None if val_labels is None else Path(val_labels)
    source = open_source(Path(imagenet), task.labels, chosen, labels, lambda: listing(1))
    check_counts(source, task, any_counts)
    return Build(Path(out), source, task, form, shard_size)
