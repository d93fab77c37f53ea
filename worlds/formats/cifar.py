"""Read CIFAR-10 and CIFAR-100 as their home page serves them, without trusting the files.

cifar-10-batches-py/     data_batch_1 ... 5, test_batch: pickles, as torchvision too
                             leaves them
cifar-10-batches-bin/    data_batch_1.bin ... 5, test_batch.bin: label byte, 3,072 pixel bytes
cifar-100-python/        train, test
cifar-100-binary/        train.bin, test.bin: coarse and fine label byte, pixels
cifar-10-python.tar.gz   and the other three archives, read without unpacking
"""

import gzip
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from worlds.formats.layout import CIFAR10_CLASSES
from worlds.formats.pickles import load_arrays
from worlds.runtime.errors import reading
from worlds.runtime.files import BoundedReads

_PIXELS: Final = 3 * 32 * 32
_LARGEST: Final = 1 << 28  # bytes of one file; CIFAR-100's training pickle has 155 MB

Pair = tuple[np.ndarray, np.ndarray]  # uint8 (N, 3072), int64 (N,)


def _parse_pickle(data: bytes, labels: str) -> Pair:
    batch = load_arrays(data)
    pixels = np.asarray(batch["data"])
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        raise ValueError(f"data must be uint8 (N, {_PIXELS}), got {pixels.dtype} {pixels.shape}")
    classes = np.asarray(batch[labels])
    if classes.dtype.kind not in "iu" or classes.size != len(pixels):
        raise ValueError(f"labels must be integers (N,), got {classes.dtype} {classes.shape}")
    return pixels, classes.reshape(-1).astype(np.int64)


def _parse_binary(data: bytes, label_bytes: int) -> Pair:
    if not data or len(data) % (label_bytes + _PIXELS):
        raise ValueError(f"{len(data):,} bytes are not rows of {label_bytes + _PIXELS}")
    rows = np.frombuffer(data, np.uint8).reshape(-1, label_bytes + _PIXELS)
    return rows[:, label_bytes:], rows[:, label_bytes - 1].astype(np.int64)  # the fine label


def _pickled_names(data: bytes, key: str) -> list[str]:
    return [
        name.decode() if isinstance(name, bytes) else str(name) for name in load_arrays(data)[key]
    ]


@dataclass(frozen=True)
class Form:
    """One published form: its directory, archive, files, and how a file is read."""

    directory: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    parse: Callable[[bytes], Pair]
    names_file: str = ""  # holds the class names, if they are not CIFAR-10's
    parse_names: Callable[[bytes], list[str]] = lambda data: data.decode().split()


FORMS: Final = (
    Form(
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        tuple(f"data_batch_{k}" for k in range(1, 6)),
        ("test_batch",),
        partial(_parse_pickle, labels="labels"),
    ),
    Form(
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        tuple(f"data_batch_{k}.bin" for k in range(1, 6)),
        ("test_batch.bin",),
        partial(_parse_binary, label_bytes=1),
    ),
    Form(
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        ("train",),
        ("test",),
        partial(_parse_pickle, labels="fine_labels"),
        "meta",
        partial(_pickled_names, key="fine_label_names"),
    ),
    Form(
        "cifar-100-binary",
        "cifar-100-binary.tar.gz",
        ("train.bin",),
        ("test.bin",),
        partial(_parse_binary, label_bytes=2),
        "fine_label_names.txt",
    ),
)


def find_cifar(path: Path) -> tuple[Form, Path] | None:
    """Return the form and its directory or archive at or directly below `path`, else None."""
    for form in FORMS:
        for place in (path, path / form.directory, path / form.archive):
            named = place.name in (form.directory, form.archive) or place is path
            if place.is_file() and place.name == form.archive:
                return form, place
            # CIFAR-100's files are called train and test, which says nothing by itself.
            known = form.train[0] not in ("train", "train.bin") or place.name == form.directory
            if named and known and any((place / n).is_file() for n in form.train[:1] + form.test):
                return form, place
    return None


def read_cifar(form: Form, place: Path) -> tuple[dict[str, Pair], tuple[str, ...]]:
    """Load every split: uint8 (N, 32, 32, 3) and int64 (N,) by name, and the class names.

    Raises ValueError with the file if one is missing, too large or corrupt.
    """
    files: Mapping[str, bytes] = _read_archive(form, place) if place.is_file() else {}

    def content(name: str) -> bytes:
        if place.is_file():
            if name not in files:
                raise ValueError(f"{place} has no {name}: the archive is incomplete")
            return files[name]
        return _read_file(place / name)

    splits = {}
    for split, names in (("train", form.train), ("test", form.test)):
        if place.is_file() or any((place / name).is_file() for name in names):
            parts = [_parse(form.parse, content(name), place / name) for name in names]
            pixels = np.concatenate([part[0] for part in parts]).reshape(-1, 3, 32, 32)
            images = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))  # (N, 32, 32, 3)
            splits[split] = images, np.concatenate([part[1] for part in parts])
    if not form.names_file:
        return splits, CIFAR10_CLASSES
    if place.is_dir() and not (place / form.names_file).is_file():
        return splits, tuple(str(label) for label in range(100))
    path = place / form.names_file
    return splits, tuple(_parse(form.parse_names, content(form.names_file), path))


def _parse(parse: Callable[[bytes], Any], data: bytes, path: Path) -> Any:
    with reading(path, "a CIFAR batch"):
        return parse(data)


def _read_file(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path} is missing: the CIFAR directory is incomplete")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, more than any CIFAR batch")
    return path.read_bytes()


def _read_archive(form: Form, path: Path) -> dict[str, bytes]:
    """Load the form's files from its archive, by file name."""
    wanted = {*form.train, *form.test, form.names_file}
    found: dict[str, bytes] = {}
    with reading(path, "a gzip-compressed tar"), gzip.open(path) as stream:
        bounded: Any = BoundedReads(stream, _LARGEST)
        for member in (archive := tarfile.open(fileobj=bounded, mode="r:")):  # noqa: SIM115
            name = PurePosixPath(member.name).name
            if member.isfile() and name in wanted and member.size <= _LARGEST:
                content = archive.extractfile(member)
                assert content is not None  # of a plain file it never is
                found[name] = content.read()
    return found
