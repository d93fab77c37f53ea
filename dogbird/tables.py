"""ImageNet as the Hub serves it: Parquet files, or the Arrow files that `save_to_disk` writes.

A row is an image ({"bytes", "path"}) and a label, the class number 0 to 999 in the order of the
wnids, as in `ILSVRC/imagenet-1k`. Of a file only the labels are read to list it, and of the images
one batch at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dogbird.pieces import FOLDERS, ClassFilter, Piece
from dogbird.tasks import ilsvrc2012
from worlds.runtime.errors import reading

_BATCH = 64  # rows


@dataclass(frozen=True)
class Table(Piece):
    """A piece of the wanted rows of one file."""

    path: str
    rows: tuple[tuple[int, str], ...]  # row number, wnid
    state: tuple[int, int]  # bytes and time of change of the file

    @property
    def wnids(self) -> list[str]:
        return [wnid for _, wnid in self.rows]

    def read(self) -> Iterator[tuple[str, str, bytes]]:
        wanted = dict(self.rows)
        for number, row in enumerate(_rows(Path(self.path), "image")):
            if number in wanted:
                name, data = _named_image(row.as_py())
                yield wanted[number], name or f"{Path(self.path).stem}_{number}", data


def _named_image(cell: Any) -> tuple[str, bytes]:
    """Return name and bytes of an image cell: {"bytes", "path"}, bytes alone, or null.

    A null image has no bytes, so that it is listed as broken when it is decoded.
    """
    if isinstance(cell, bytes):
        return "", cell
    if not isinstance(cell, dict):
        return "", b""
    return Path(cell.get("path") or "").stem, cell.get("bytes") or b""


def tables_of(root: Path, split: str) -> list[Path]:
    """Return the Parquet or Arrow files whose name, or whose directory's, begins with the split."""
    return sorted(
        path
        for pattern in ("*.parquet", "*.arrow")
        for path in root.rglob(pattern)
        if path.name.startswith(FOLDERS[split]) or path.parent.name in FOLDERS[split]
    )


def open_tables(tables: Sequence[Path], split: str, wanted: ClassFilter) -> tuple[str, list[Piece]]:
    """Return the form's name and one piece a file; ValueError if a file is not such a table."""
    # Labels alone are read; images stay on the disk.
    pieces: list[Piece] = []
    wnids = list(ilsvrc2012())
    for path in tables:
        rows = []
        for number, row in enumerate(_rows(path, "label")):
            wanted.on_file()
            label = row.as_py()
            if not isinstance(label, int) or not 0 <= label < len(wnids):
                raise ValueError(f"{path}: row {number} has label {label!r}, expected 0 to 999")
            if wnids[label] in wanted.wnids:
                rows.append((number, wnids[label]))
        if rows:
            state = path.stat()
            stamp = state.st_size, state.st_mtime_ns
            pieces.append(Table(split, str(path.resolve()), tuple(rows), stamp))
    return tables[0].suffix[1:], pieces


def _rows(path: Path, column: str) -> Iterator[Any]:
    """Yield one column of a file as Arrow scalars, a batch in memory at a time."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f"{path} needs pyarrow to be read: pip install datasets") from error
    with reading(path, "a table with columns image and label"):
        if path.suffix == ".parquet":
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(_BATCH, columns=[column]):
                    yield from batch.column(column)
            return
        with pyarrow.memory_map(str(path)) as mapped:
            for batch in pyarrow.ipc.open_stream(mapped):
                batch.validate(full=True)  # Arrow ends the process at offsets that leave the file
                yield from batch.column(column)
