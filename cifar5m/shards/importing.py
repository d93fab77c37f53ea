"""Import: an existing set becomes the same shards, side files and plan that generating makes.

    summary = import_dataset(["part0.npz", "part5.npz"], "cifar5m")

Hard labels are all that those sets have, so the side files hold one-hot probabilities, and the plan
says so. The same command again goes on where it stopped.
"""

import io
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np

from cifar5m.shards.import_sources import BASE_URL, KEYED, open_source, read_bytes_of
from cifar5m.shards.npz_parts import OnBytes
from cifar5m.shards.source import Source
from cifar5m.weights.download import RemoteFile, fetch
from worlds.formats.dataset import DatasetFolder
from worlds.formats.layout import FORMAT, PLAN, Shard
from worlds.formats.plan import About, Plan, claim_folder, differences, load_plan, seal
from worlds.formats.pools import part_number
from worlds.formats.shards import encode_png, write_tar
from worlds.formats.summary import DatasetSummary, summarize
from worlds.formats.writers import ShardContent, WriteJob, write_job
from worlds.runtime.files import HashingStream, check_disk, clean_folders
from worlds.runtime.processes import Workers, worker_count
from worlds.runtime.progress import OnProgress, Phase

DATASET: Final = "import"  # what a plan calls an imported set
DEVICE = "import"  # in the records, where generating names the device
_SIDE_BYTES = 36  # an image: index, label, ten probabilities
_SAMPLED = 256  # images encoded to foresee bytes and time


class SourceFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The imported files: one of FORMS, and the hash of each file in order."""

    form: str
    sha256: tuple[str, ...]


class ImportedPlan(Plan, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides an imported dataset."""

    dataset: Literal["import"]
    source: SourceFiles
    subsets: dict[str, dict[str, str | int]]
    versions: dict[str, str]


def plan_of(source: Source, shard_size: int) -> ImportedPlan:
    """Return the plan of an import. Paths are not part of the content; what the files hold is."""
    height, width, _ = source.image_shape
    plan = ImportedPlan(
        format=FORMAT,
        splits=dict(source.splits),
        shard_size=shard_size,
        image_shape=(height, width, 3),
        class_names=source.class_names,
        dataset=DATASET,
        source=SourceFiles(source.form, tuple(file.sha256 for file in source.files)),
        labels="given",
        probabilities="one-hot" if source.probabilities is None else "given",
        subsets=source.subsets,
        versions={"pillow": version("pillow")},  # its PNG encoder decides the bytes
        fingerprint="",
        about=About(recipe=f"import of {source.form}", files=source.files),
    )
    return seal(plan)


def import_dataset(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    form: str = "auto",
    split: str | None = None,
    test: Sequence[str | Path] = (),
    keys: tuple[str, str] | None = None,
    class_names: Sequence[str] | None = None,
    base_url: str = BASE_URL,
    shard_size: int = 10_000,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> DatasetSummary:
    """Import an existing dataset as shards; the same call again resumes.

    Args:
        paths: .npz files, or one directory of images, pack, or zip of EDM's tools. Of the released
            parts of CIFAR-5m, in any spelling, 0 to 4 become train and 5 test.
        out: Dataset directory, created if missing. It belongs to one plan.
        form: "auto", "parts", "pairs", "folder", "zip" or "pack".
        split: "train" or "test" for .npz files whose names do not say which they are.
        test: .npz files that are the test split; they need not be among `paths`.
        keys: Names of the images and labels in .npz files; by default the usual ones.
        class_names: Names of the classes in the order of their numbers; by default CIFAR-10's for
            up to ten classes, else the numbers, or the names of class directories.
        base_url: Where released parts that are missing are downloaded from.
        shard_size: Images a shard, at least 1.
        workers: Processes that encode, at least 1; by default one a CPU.
        on_progress: Called with bytes and images done; may raise to stop.

    Returns:
        What the directory holds now.

    Raises:
        ValueError: If a path holds something else or is damaged, `out` holds another plan, or the
            disk is too small.
    """
    out, workers = Path(out), worker_count(workers)
    download_missing(paths, base_url, on_progress)
    source = load_source(paths, out, form, on_progress, split=split, test=test, keys=keys)
    source = with_class_names(source, class_names)
    plan = plan_of(source, shard_size)
    dataset = DatasetFolder(out, plan)
    waiting = dataset.unfinished()

    # Another plan is the first thing to tell; the disk is checked before the plan is written.
    if (out / PLAN).exists():
        claim_folder(out, plan)
    check_disk(out, estimate(source).bytes(sum(map(len, waiting))))
    claim_folder(out, plan)

    phase = Phase.of("import", dataset.shards, waiting, on_progress)
    count = min(workers, max(1, len(waiting)))
    clean_folders(out, out / "data", out / "meta")
    facts = {"fingerprint": plan.fingerprint, "device": DEVICE}
    with (
        closing(source),
        Workers(write_job, count, lambda shard: phase(len(shard))) as writers,
    ):
        for shard in waiting:
            phase()  # may raise
            if not dataset.is_finished(shard):  # by another process, meanwhile
                writers.put(WriteJob(out, shard, content_of(source, shard), facts))
    return summarize(out, plan)


def download_missing(
    paths: Sequence[str | Path], base_url: str, on_progress: OnProgress | None = None
) -> None:
    """Download the released parts that are missing; ValueError for any other missing path."""
    for path in missing_paths(paths):
        phase = Phase("download", None, on_progress, unit="B")
        phase.note(f"{path} is missing: downloading it from {base_url}")
        fetch(released_part(path, base_url), path.parent, on_progress)


def released_part(path: Path, base_url: str) -> RemoteFile:
    """Return where a missing part is downloaded from."""
    return RemoteFile(path.name, f"{base_url.rstrip('/')}/{path.name}")


def missing_paths(paths: Sequence[str | Path]) -> list[Path]:
    """Return the released parts that are missing; ValueError for any other missing path."""
    missing = [path for path in map(Path, paths) if not path.exists()]
    for path in missing:
        if part_number(path.name) is None:
            raise ValueError(f"{path} does not exist")
    return missing


def with_class_names(source: Source, names: Sequence[str] | None) -> Source:
    """Return the source with other class names; ValueError unless there is one for each class."""
    if names is None:
        return source
    # A class without images may have a name too.
    needed = max(int(source.labels.max()) + 1, 1)
    if len(names) < needed or len(set(names)) < len(names):
        raise ValueError(
            f"class_names must be {needed} different names or more, got {', '.join(names)}"
        )
    return replace(source, class_names=tuple(names))


def load_source(
    paths: Sequence[str | Path],
    out: Path,
    form: str = "auto",
    on_progress: OnProgress | None = None,
    *,
    split: str | None = None,
    test: Sequence[str | Path] = (),
    keys: tuple[str, str] | None = None,
) -> Source:
    """Read and check a source whole; what an earlier import into `out` has hashed is trusted."""
    # Files of the test split may be named once or twice.
    given = [Path(path) for path in paths]
    given += [path for path in map(Path, test) if path not in given]
    phase = Phase("check", read_bytes_of(given) or None, on_progress, unit="B")
    marked = tuple(map(Path, test))
    remembered = load_plan(out).about.files if (out / PLAN).is_file() else ()
    source = open_source(given, form, remembered, phase, split=split, test=marked, keys=keys)
    for note in source.notes:
        phase.note(note)
    return source


def content_of(source: Source, shard: Shard) -> ShardContent:
    """Return the images, labels and float16 probabilities of one shard."""
    rows = slice(shard.start, shard.stop)
    labels, soft = source.labels[rows], source.probabilities
    if soft is None:
        probabilities = np.eye(len(source.class_names), dtype=np.float16)[labels]
    else:
        probabilities = np.asarray(soft[rows])
    return ShardContent(source.pictures(shard.start, shard.stop), labels, probabilities)


def reopen(
    plan: ImportedPlan,
    parts: Sequence[Path] | None = None,
    on_bytes: OnBytes = lambda count: None,
) -> Source:
    """Open the source of an import again, to repair single shards.

    `parts` is where its files are now, by default where the plan says. Raises ValueError if they
    are missing, or would not give the same bytes.
    """
    # Where the files are, and which split each was.
    form, files = plan.source.form, plan.about.files
    paths = [Path(file.path) for file in files] if parts is None else list(parts)
    if form == "pack" and parts is None:
        paths = [paths[0].parent]
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} is not there: set `parts` to where the imported files are")
    named = dict(zip(paths, files, strict=False))
    test = [path for path, file in named.items() if file.split == "test"]
    said = "train" if any(file.split for file in files) else None
    options: dict[str, Any] = (
        {"split": said, "test": test, "keys": files[0].keys} if form in KEYED else {}
    )
    source = open_source(paths, form, files, on_bytes, **options)
    # The same files must give the same plan.
    again = plan_of(with_class_names(source, plan.class_names), plan.shard_size)
    if again.fingerprint != plan.fingerprint:
        source.close()
        raise ValueError(
            f"{paths[0]} is not what was imported; differing: "
            f"{'; '.join(differences(plan.content(), again.content()))}"
        )
    return source


class Estimate(NamedTuple):
    """Cost of an import, from the source's first images encoded on this machine."""

    image_bytes: float  # of the tar, an image
    write_seconds: float  # an image, on one core

    def bytes(self, images: int) -> int:
        """Return the bytes of shards and side files."""
        return int(images * (self.image_bytes + _SIDE_BYTES))


def estimate(source: Source) -> Estimate:
    """Encode up to 256 images and write them as a tar to memory."""
    with closing(source):
        images = list(source.pictures(0, min(_SAMPLED, len(source.labels))))
    start = time.perf_counter()
    pngs = [encode_png(image) for image in images]
    samples = ((index, data, 0) for index, data in enumerate(pngs))
    write_tar(HashingStream(io.BytesIO()), samples, "png")  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    # Two tar headers, the PNG and the label, each filled up to 512 bytes.
    blocks = [3 + -(-len(data) // 512) for data in pngs]
    return Estimate(512 * float(np.mean(blocks)), seconds / len(images))
