"""The first half of a build: every photograph is read once, in the order of the source, converted,
and staged with the hash of the file it came from.

    rows = stage(Path("dogbird.staging"), source.pieces, Format(), workers=8)

A piece becomes `{key}.bin`, the converted photographs one after the other, and then `{key}.json`,
what they are. The key names the piece and everything that decides the bytes, so a killed run goes
on with the pieces that have no .json, and what another run left there is never mistaken.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from PIL import features

from dogbird.convert import BrokenPhotographError, Format, convert
from dogbird.pieces import Piece
from worlds.runtime.files import LOCK, atomic_write, clean_folders, write_json
from worlds.runtime.json_files import load_json
from worlds.runtime.processes import in_workers
from worlds.runtime.progress import OnProgress, Phase


class Row(NamedTuple):
    """One photograph, converted: `size` bytes at `offset` of `path`; or broken, and why."""

    split: str
    wnid: str
    name: str
    sha256: str  # of the file it came from
    path: str
    offset: int
    size: int
    error: str | None


Listed = list[tuple[str, str, str, int, str | None]]  # wnid, name, sha256, bytes, what is broken


@dataclass(frozen=True)
class StageJob:
    """One piece, the format, and the directory that it goes to."""

    folder: Path
    piece: Piece
    form: Format

    @property
    def key(self) -> str:
        name = f"{self.piece.key} {self.form!r} {sorted(encoder_versions().items())}"
        return hashlib.sha256(name.encode()).hexdigest()[:32]

    @property
    def photographs(self) -> Path:
        return self.folder / f"{self.key}.bin"

    @property
    def listing(self) -> Path:
        return self.folder / f"{self.key}.json"


def encoder_versions() -> dict[str, str]:
    """Return the versions that decide the bytes beside the format: Pillow and the JPEG library in
    it.
    """
    return {"pillow": version("pillow"), "jpeg": f"{features.version('libjpeg_turbo')}"}


def stage(
    folder: Path,
    pieces: Sequence[Piece],
    form: Format,
    workers: int = 1,
    on_progress: OnProgress | None = None,
) -> list[Row]:
    """Convert what is not staged yet; return the rows of all pieces, in their order.

    The processes are spawned, so a script that calls this needs the `__main__` guard.
    """
    # A piece is staged once both of its files exist.
    clean_folders(folder)
    jobs = [StageJob(folder, piece, form) for piece in pieces]
    waiting = [job for job in jobs if not (job.listing.is_file() and job.photographs.is_file())]
    total, left = (sum(len(job.piece.wnids) for job in some) for some in (jobs, waiting))
    phase = Phase("convert", total, on_progress, total - left)
    for count in in_workers(stage_piece, waiting, workers):
        phase(count)
    return [row for job in jobs for row in read_rows(job)]


def stage_piece(job: StageJob) -> int:
    """Convert one piece, in a worker process; return the number of its photographs."""
    # Photographs one after the other; the listing comes last.
    listed: Listed = []
    with atomic_write(job.photographs) as stream:
        for wnid, name, data in job.piece.read():
            sha256, size, broken = hashlib.sha256(data).hexdigest(), 0, None
            try:
                size = stream.write(convert(data, job.form))
            except BrokenPhotographError as error:
                broken = str(error)
            listed.append((wnid, name, sha256, size, broken))
    write_json(job.listing, listed)
    return len(listed)


def read_rows(job: StageJob) -> list[Row]:
    """Load the rows of a staged piece."""
    # Offsets follow from the sizes.
    rows, offset, path = [], 0, str(job.photographs)
    for wnid, name, sha256, size, broken in load_json(job.listing, Listed):
        rows.append(Row(job.piece.split, wnid, name, sha256, path, offset, size, broken))
        offset += size
    return rows


def remove_staged(folder: Path, pieces: Sequence[Piece], form: Format) -> None:
    """Delete what these pieces became, and the directory if nothing else is in it."""
    for piece in pieces:
        job = StageJob(folder, piece, form)
        job.listing.unlink(missing_ok=True)
        job.photographs.unlink(missing_ok=True)
    if [path.name for path in folder.iterdir()] == [LOCK]:
        (folder / LOCK).unlink()
        folder.rmdir()
