"""Import: an existing set becomes the same shards, side files and plan that generating makes.

    source = open_source([Path("part0.npz"), Path("part5.npz")])
    plan = plan_of(source, shard_size=10_000)
    claim_folder(folder, plan)
    with ShardWriters(4) as writers:
        import_shards(folder, source, plan, writers)

Hard labels are all that those sets have, so the side files hold one-hot probabilities, and the plan
says so. The same command again goes on where it stopped.
"""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from cifar5m.shards.import_sources import Pictures, Remembered, Source, open_source
from cifar5m.shards.npz_parts import OnBytes
from worlds.formats.layout import FORMAT, PLAN, Shard
from worlds.formats.plan import About, Plan, differences, load_plan, seal
from worlds.formats.shards import encode_png, is_finished, write_tar
from worlds.formats.writers import ShardWriters
from worlds.runtime.files import HashingStream, remove_stale

DATASET: Final = "import"  # what a plan calls an imported set
DEVICE = "import"  # in the records, where generating names the device
_SIDE_BYTES = 36  # an image: index, label, ten probabilities
_SAMPLED = 256  # images encoded to foresee bytes and time


class SourceFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was imported: one of FORMS, and the hash of each file in order."""

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


def remembered_files(folder: Path) -> Remembered:
    """The source files that an earlier run of this folder has read and hashed."""
    if not (folder / PLAN).is_file():
        return ()
    return load_plan(folder).about.files


def import_shards(
    folder: Path,
    source: Source,
    plan: ImportedPlan,
    writers: ShardWriters,
    shards: Sequence[Shard] | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Hand each of `shards` (default: all) that does not exist yet to a writer.

    `check` is called before each shard, and may raise.
    """
    for place in (folder, folder / "data", folder / "meta"):
        place.mkdir(parents=True, exist_ok=True)
        remove_stale(place)
    facts = {"fingerprint": plan.fingerprint, "device": DEVICE}
    try:
        for shard in plan.shards if shards is None else shards:
            check()
            if is_finished(folder, shard, plan.fingerprint):
                continue
            writers.put((folder, shard, *content_of(source, shard), facts))
    finally:
        source.close()


def content_of(source: Source, shard: Shard) -> tuple[Pictures, np.ndarray, np.ndarray]:
    """Images, labels (N,) and float16 probabilities (N, C) of one shard."""
    rows = slice(shard.start, shard.stop)
    labels, soft = source.labels[rows], source.probabilities
    if soft is None:
        soft_rows = np.eye(len(source.class_names), dtype=np.float16)[labels]
    else:
        soft_rows = np.asarray(soft[rows])
    return source.pictures(shard.start, shard.stop), labels, soft_rows


def reopen(
    plan: ImportedPlan,
    parts: Sequence[Path] | None = None,
    on_bytes: OnBytes = lambda count: None,
) -> Source:
    """The source of an import again, to repair single shards.

    `parts` is where its files lie now, by default where the plan says that they lay. ValueError
    where they are gone, or would not give the same bytes.
    """
    form, files = plan.source.form, plan.about.files
    paths = [Path(file.path) for file in files] if parts is None else list(parts)
    if form == "pack" and parts is None:
        paths = [paths[0].parent]
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} is not there: say with --parts where what was imported lies")
    source = open_source(paths, form, files, on_bytes)
    again = plan_of(source, plan.shard_size)
    if again.fingerprint != plan.fingerprint:
        source.close()
        raise ValueError(
            f"{paths[0]} is not what was imported; differing: "
            f"{'; '.join(differences(plan.content(), again.content()))}"
        )
    return source


@dataclass(frozen=True)
class Estimate:
    """What an import takes, by the source's first images encoded and written on this machine."""

    image_bytes: float  # of the tar, an image
    write_seconds: float  # an image, on one core

    def bytes(self, images: int) -> int:
        """Of shards and side files."""
        return int(images * (self.image_bytes + _SIDE_BYTES))


def estimate(source: Source) -> Estimate:
    """Encode up to 256 images and write them as a tar to memory."""
    try:
        images = list(source.pictures(0, min(_SAMPLED, len(source.labels))))
    finally:
        source.close()
    sizes: list[int] = []

    def samples() -> Iterator[tuple[int, bytes, int]]:
        for index, image in enumerate(images):
            data = encode_png(image)
            sizes.append(len(data))
            yield index, data, 0

    start = time.perf_counter()
    write_tar(HashingStream(io.BytesIO()), samples(), "png")  # type: ignore[arg-type]
    seconds = (time.perf_counter() - start) / len(images)
    # Two tar headers, the PNG and the label, each filled up to 512 bytes.
    blocks = [3 + -(-size // 512) for size in sizes]
    return Estimate(512 * float(np.mean(blocks)), seconds)
