"""Shards once more as Parquet, which the Hub's viewer shows whole and fast: one file a shard.

Columns: image (the encoded bytes, as `datasets` stores an image), label, index, and probabilities
(float32, as many as classes). Needs pyarrow, which comes with `pip install datasets`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cifar5m.hub.publish import parquet_path
from worlds.formats.layout import Shard
from worlds.formats.shards import load_record, read_arrays, read_samples
from worlds.runtime.files import atomic_write


def pyarrow_or_hint() -> Any:
    """Return the pyarrow.parquet module; ValueError that names what to install."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("parquet needs pyarrow: pip install pyarrow") from error
    return pyarrow.parquet


def write_parquets(folder: Path, shards: Sequence[Shard], extension: str) -> Iterator[Shard]:
    """Write what is not there yet of these shards; yields each when its file is there."""
    parquet = pyarrow_or_hint()
    for shard in shards:
        path = folder / parquet_path(shard)
        # A file of other tars or labels is made again.
        made_from = _made_from(folder, shard)
        if _metadata(parquet, path) != made_from:
            table = _table(folder, shard, extension).replace_schema_metadata(made_from)
            with atomic_write(path) as stream:
                parquet.write_table(table, stream, row_group_size=len(shard))
        yield shard


def _metadata(parquet: Any, path: Path) -> dict[bytes, bytes] | None:
    """Return a file's metadata, None if it is missing or corrupt."""
    try:
        return dict(parquet.read_schema(path).metadata or {})
    except (OSError, ValueError):  # pyarrow's own errors are among these
        return None


def _made_from(folder: Path, shard: Shard) -> dict[bytes, bytes]:
    """Return the hashes that a file carries, by which a stale one is known."""
    record = load_record(folder, shard)
    names = "sha256", "arrays_sha256"
    return {name.encode(): getattr(record, name).encode() for name in names}


def _table(folder: Path, shard: Shard, extension: str) -> Any:
    import pyarrow as pa

    # One row an image; the bytes stay encoded.
    arrays = read_arrays(folder, shard)
    images = [
        {"bytes": data, "path": f"{index:09d}.{extension}"}
        for index, data, _ in read_samples(folder / shard.tar)
    ]
    rows = pa.array(arrays.probabilities.astype("float32").ravel())  # (N * C,)
    offsets = range(0, len(rows) + 1, arrays.probabilities.shape[1])
    return pa.table(
        {
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": pa.array(arrays.label),
            "index": pa.array(arrays.index),
            "probabilities": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), rows),
        }
    )
