"""Pack a folder of shards with several processes: the same bytes as `worlds.data.pack.write_pack`.

    pack("out/cifar5m")      # writes out/cifar5m.pack

The processes decode into one preallocated `.images.npy.part`; beside it `.images.npy.journal` says
which shards are in, by the sha256 of their tars. After a kill the same call goes on with the
others. The images take their final name when all are in, and the manifest is written last.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from msgspec.structs import replace

from cifar5m.shards.decode import DecodeJob, decode_shard
from worlds.data.pack import (
    MANIFEST,
    FileFacts,
    FileName,
    holds_pack,
    manifest_of,
    npy_header,
    write_labels,
)
from worlds.data.splits import Split
from worlds.data.stores import open_store
from worlds.formats.layout import PLAN, Shard
from worlds.formats.plan import Plan, load_plan
from worlds.formats.shards import find_record
from worlds.runtime.files import check_disk, clean_folders, json_text, lock_stream, sync, write_json
from worlds.runtime.processes import in_workers, worker_count
from worlds.runtime.progress import OnProgress, Phase

IMAGES: Final = "images.npy"
_PART: Final = f".{IMAGES}.part"
_JOURNAL: Final = f".{IMAGES}.journal"
_BLOCK: Final = 1 << 20
_LABEL_BYTES: Final = 28  # an image: the label and ten probabilities


@dataclass(frozen=True, repr=False)
class PackResult:
    """A pack: where it is, its arrays' bytes, and whether this call wrote it."""

    path: Path
    bytes: int
    written: bool

    def __repr__(self) -> str:
        return f"PackResult({str(self.path)!r}, {self.bytes:,} bytes, written={self.written})"

    def __str__(self) -> str:
        return (
            f"{'written' if self.written else 'there already'}, {self.bytes:,} bytes: {self.path}"
        )


def pack(
    directory: str | Path,
    out: str | Path | None = None,
    *,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> PackResult:
    """Write the shards of a dataset as a memory-mapped pack; the same call again resumes.

    Args:
        directory: The dataset directory; every shard is hashed before it is decoded.
        out: Directory of the pack, by default `directory` with ".pack" added.
        workers: Processes that decode, at least 1; by default one a CPU. They are spawned, so a
            script needs the `__main__` guard.
        on_progress: Called with images done; may raise to stop.

    Returns:
        Where the pack is, its bytes, and whether it was written by this call.

    Raises:
        ValueError: If a shard is missing or damaged, or `out` holds something else.
    """
    directory = Path(directory)
    out = default_pack(directory) if out is None else Path(out)
    written = _write(directory, out, worker_count(workers), on_progress)
    return PackResult(out, sum(path.stat().st_size for path in out.glob("*.npy")), written)


def default_pack(directory: Path) -> Path:
    """Return the default path of a directory's pack: beside it."""
    directory = directory.absolute()
    return directory.with_name(f"{directory.name}.pack")


def _write(folder: Path, out: Path, workers: int, on_progress: OnProgress | None) -> bool:
    """Write the pack; return False if it exists already."""
    if (out / PLAN).exists():
        raise ValueError(f"{out} is a folder of shards: choose another `out` for the pack")
    # What the pack would be, and whether it is there.
    plan = load_plan(folder)
    splits = list(open_store(folder).splits.values())
    manifest = manifest_of(splits)
    if holds_pack(out, manifest):
        return False
    clean_folders(out)
    # Decode what no earlier run has.
    with (out / _JOURNAL).open("a+b") as journal:
        lock_stream(journal)  # for this process alone; another one waits
        if holds_pack(out, manifest):  # made by another process, while this one waited
            return False
        images = _Images(out, splits, plan)
        done = images.resume(journal, folder, manifest.fingerprint)
        waiting = [shard for shard in images.shards if shard not in done]
        phase = Phase.of("pack", images.shards, waiting, on_progress)
        jobs = [images.job(folder, shard) for shard in waiting]
        for shard, sha256 in in_workers(decode_shard, jobs, workers):
            _append(journal, {"shard": shard.name, "sha256": sha256})
            done.add(shard)
            images.hash_completed_prefix(done)
            phase(len(shard))
        images.hash_completed_prefix(done)
        # Final names: images, labels, then the manifest.
        files: dict[FileName, FileFacts] = {
            "images.npy": images.finish(),
            **write_labels(splits, out),
        }
        write_json(out / MANIFEST, replace(manifest, files=files))
        (out / _JOURNAL).unlink()
    return True


class _Images:
    """The file of all images on its way: where each shard goes, and the hash of what is in."""

    def __init__(self, out: Path, splits: Sequence[Split], plan: Plan) -> None:
        self.shards = plan.shards
        self.shape = splits[0].image_shape
        self.extension = plan.extension
        total = self.shards[-1].stop
        self.header = npy_header((total, *self.shape), np.dtype(np.uint8))
        self.bytes = len(self.header) + total * int(np.prod(self.shape))
        self.out, self.part = out, out / _PART
        self._digest, self._hashed, self._next = hashlib.sha256(), 0, 0

    def offset(self, index: int) -> int:
        """Return the offset of image `index` in the file."""
        return len(self.header) + index * int(np.prod(self.shape))

    def job(self, folder: Path, shard: Shard) -> DecodeJob:
        offset = self.offset(shard.start)
        return DecodeJob(folder, shard, self.extension, self.shape, self.part, offset)

    def resume(self, journal: IO[bytes], folder: Path, fingerprint: str) -> set[Shard]:
        """Return the shards that an earlier run has decoded from the present tars."""
        # The journal's first line says of which pack it is.
        head = {"fingerprint": fingerprint, "bytes": self.bytes}
        lines = _read_lines(journal)
        if not self.part.exists() and lines and (self.out / IMAGES).exists():
            os.replace(self.out / IMAGES, self.part)  # killed between the last two renames
        size = self.part.stat().st_size if self.part.exists() else 0
        if lines[:1] != [head] or size != self.bytes:
            journal.truncate(0)
            self._allocate(size)
            _append(journal, head)
            return set()
        # A shard that was made again since is decoded again.
        found = {line["shard"]: line["sha256"] for line in lines[1:]}
        records = ((shard, find_record(folder, shard)) for shard in self.shards)
        return {s for s, record in records if record and record.sha256 == found.get(s.name)}

    def _allocate(self, size: int) -> None:
        """Take the whole of the file from the disk now: a full disk must not be met in a map."""
        # Images and labels must fit before the first is decoded.
        labels = self.shards[-1].stop * _LABEL_BYTES
        check_disk(self.out, self.bytes + labels - size)
        with self.part.open("r+b" if size else "wb") as stream:
            stream.truncate(self.bytes)
            os.posix_fallocate(stream.fileno(), 0, self.bytes)
            stream.write(self.header)

    def hash_completed_prefix(self, done: set[Shard]) -> None:
        """Hash the images as far as they are complete from the start on."""
        # Shards end in any order; the hash needs the file's own.
        while self._next < len(self.shards) and self.shards[self._next] in done:
            self._next += 1
        stop = self.offset(self.shards[self._next - 1].stop) if self._next else 0
        with self.part.open("rb") as stream:
            stream.seek(self._hashed)
            while self._hashed < stop:
                block = stream.read(min(_BLOCK, stop - self._hashed))
                self._digest.update(block)
                self._hashed += len(block)

    def finish(self) -> FileFacts:
        """Give the complete file its final name; what the manifest says of it."""
        assert self._hashed == self.bytes
        sync(self.part)
        os.replace(self.part, self.out / IMAGES)
        return FileFacts(self.bytes, self._digest.hexdigest())


def _read_lines(journal: IO[bytes]) -> list[dict[str, Any]]:
    """Load the journal's complete lines; one that a kill has cut is removed."""
    # A line without its end was being written when the process died.
    journal.seek(0)
    lines, end = [], 0
    for line in journal:
        if not line.endswith(b"\n"):
            journal.truncate(end)
            break
        end += len(line)
        lines.append(json.loads(line))
    return lines


def _append(journal: IO[bytes], line: dict[str, Any]) -> None:
    journal.write(json_text(line))
    journal.flush()
    sync(Path(journal.name))
