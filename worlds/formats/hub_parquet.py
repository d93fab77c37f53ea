"""Read image datasets in the Hub's Parquet form: CIFAR-10, CIFAR-100, MNIST and their like.

    plain_text/train-00000-of-00001.parquet     img or image: {bytes, path}; label or fine_label

Class names come from the schema that `datasets` writes into each file.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from worlds.formats.pools import Arrays, numbered_classes
from worlds.formats.shards import decode_image
from worlds.runtime.errors import reading

_IMAGES: Final = ("img", "image")
_LABELS: Final = ("label", "fine_label", "labels")
_SPLITS: Final = {"train": "train", "test": "test", "validation": "val", "valid": "val"}
_BATCH: Final = 1024  # rows at a time


def parquet_files(path: Path) -> dict[str, list[Path]]:
    """Return the Parquet files of each split at or below `path`."""
    found: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*.parquet")) if path.is_dir() else []:
        split = _SPLITS.get(file.name.partition("-")[0].removesuffix(".parquet"))
        if split is not None:
            found.setdefault(split, []).append(file)
    return found


def open_parquet(files: dict[str, list[Path]]) -> list[Arrays]:
    """Decode every image; each split becomes one array uint8 (N, H, W, 3).

    Raises ValueError with the file and row for columns, images or labels that do not fit.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError("Parquet files need pyarrow: pip install datasets") from error
    splits = []
    for split, paths in files.items():
        images: list[np.ndarray] = []
        labels: list[int] = []
        names: tuple[str, ...] = ()
        for path in paths:
            with reading(path, "a Parquet file"), parquet.ParquetFile(path) as file:
                schema = file.schema_arrow
                image, label = (_column(path, schema.names, k) for k in (_IMAGES, _LABELS))
                names = names or _class_names(schema.metadata, label)
                for row, (cell, number) in enumerate(_rows(file, image, label)):
                    images.append(_decode(cell, path, row, images))
                    labels.append(_number(number, path, row))
        if not images:
            raise ValueError(f"{paths[0]} holds no rows")
        names = names or numbered_classes(max(labels))
        splits.append(Arrays(split, [np.stack(images)], np.array(labels, np.int64), names))
    return splits


def _column(path: Path, names: list[str], known: tuple[str, ...]) -> str:
    found = next((name for name in known if name in names), None)
    if found is None:
        raise ValueError(
            f"{path} has columns {', '.join(names[:8])}: expected {' or '.join(known)}"
        )
    return found


def _rows(file: Any, image: str, label: str) -> Iterator[tuple[Any, Any]]:
    for batch in file.iter_batches(_BATCH, columns=[image, label]):
        yield from zip(batch[image].to_pylist(), batch[label].to_pylist(), strict=True)


def _decode(cell: Any, path: Path, row: int, before: list[np.ndarray]) -> np.ndarray:
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    try:
        if not isinstance(data, bytes):
            raise ValueError("no bytes")
        image = decode_image(data)
    except ValueError as error:
        raise ValueError(f"{path}: the image of row {row} could not be decoded: {error}") from error
    if before and image.shape != before[0].shape:
        raise ValueError(f"{path}: row {row} is {image.shape}, the first is {before[0].shape}")
    return image


def _number(label: Any, path: Path, row: int) -> int:
    if not isinstance(label, int):
        raise ValueError(f"{path}: row {row} has label {label!r}, expected an integer")
    return label


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...]:
    """Return the names in the features that `datasets` keeps in the file, if there are any."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()
