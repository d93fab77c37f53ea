"""Open images in files of their own: directories of classes, and the zips that EDM's tools make.

DIR/{train,test,val}/CLASS/*.png    or DIR/CLASS/*.png, all train
edm.zip                             dataset.json with a label for each image beside it
"""

import hashlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np

from cifar5m.shards.npz_parts import OnBytes
from cifar5m.shards.source import MOST_CLASSES, Source
from worlds.formats.layout import CIFAR10_CLASSES
from worlds.formats.plan import SourceFile, check_names
from worlds.formats.pools import usual_classes
from worlds.formats.shards import decode_image
from worlds.runtime.errors import reading
from worlds.runtime.files import zip_members
from worlds.runtime.json_files import parse_json

SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".gif", ".tif", ".tiff"}
)
_SPLITS: Final = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"
}  # fmt: skip
_LARGEST: Final = 1 << 26  # bytes of one encoded image
_SHOWN: Final = 3  # names of what was skipped
_Label = Annotated[int, msgspec.Meta(ge=0, lt=MOST_CLASSES)]


@dataclass(frozen=True)
class ImageFiles:
    """Encoded images in files of their own."""

    paths: tuple[str, ...]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (decode_image(Path(path).read_bytes()) for path in self.paths)


@dataclass(frozen=True)
class ZipImages:
    """Encoded images inside a zip."""

    archive: Path
    names: tuple[str, ...]

    def __iter__(self) -> Iterator[np.ndarray]:
        with zipfile.ZipFile(self.archive) as archive:
            for name in self.names:
                yield decode_image(archive.read(name))


def open_folder(folder: Path, on_bytes: OnBytes) -> Source:
    """Read and check a directory of classes; classes and files are sorted by name.

    Classes that are all numbers are sorted as numbers. Files that are not images of a class, and
    directories inside a class, are skipped and named in the source's notes. Raises ValueError if a
    directory beside the splits is none.
    """
    # Which directories are splits, and which classes they hold.
    inside = {p.name: p for p in sorted(folder.iterdir()) if p.is_dir()}
    roots = {split: inside[name] for name, split in _SPLITS.items() if name in inside}
    for name, path in inside.items():
        if roots and path not in roots.values() and not name.startswith((".", "__MACOSX")):
            splits_found = ", ".join(root.name for root in roots.values())
            raise ValueError(f"{path} is beside the splits {splits_found}: move it away")
    roots = roots or {"train": folder}
    listed = {name: _classes_of(root) for name, root in roots.items()}
    names = next(iter(listed.values()))
    if not names or any(classes != names for classes in listed.values()):
        found = (f"{name}: {', '.join(classes) or 'none'}" for name, classes in listed.items())
        raise ValueError(
            f"{folder} must hold one directory a class, the same in each split; found "
            + "; ".join(found)
        )
    check_names(names)
    # Every image of every class, split after split.
    paths: list[str] = []
    labels: list[int] = []
    tops = dict.fromkeys([folder, *roots.values()])
    loose = [p for top in tops for p in sorted(top.iterdir()) if not p.is_dir()]
    skipped = [p.relative_to(folder).as_posix() for p in loose if not p.name.startswith(".")]
    splits, notes = [], []
    for split, root in roots.items():
        before = len(paths)
        for label, name in enumerate(names):
            images, others = _list_images(root / name)
            paths += map(str, images)
            labels += [label] * len(images)
            skipped += [path.relative_to(folder).as_posix() for path in others]
        splits.append((split, len(paths) - before))
        notes.append(f"{root.name}: {split}, {len(paths) - before:,} images")
        if len(paths) == before:
            raise ValueError(f"{root} holds no images ({', '.join(sorted(SUFFIXES))})")
    if skipped:
        more = f" and {len(skipped) - _SHOWN:,} more" if len(skipped) > _SHOWN else ""
        notes.append(f"skipped, not images of a class: {', '.join(skipped[:_SHOWN])}{more}")
    # All are decoded once, before anything is written.
    contents = ((Path(p).relative_to(folder).as_posix(), Path(p).read_bytes()) for p in paths)
    shape, sha256 = _check_images(folder, contents, on_bytes)
    digits = names == [str(label) for label in range(len(CIFAR10_CLASSES))]
    return Source(
        form="folder",
        splits=tuple(splits),
        labels=np.asarray(labels),
        parts=((len(paths), lambda start, stop: ImageFiles(tuple(paths[start:stop]))),),
        files=(SourceFile(path=str(folder.resolve()), sha256=sha256),),
        class_names=CIFAR10_CLASSES if digits else tuple(names),
        image_shape=shape,
        notes=tuple(notes),
    )


def _classes_of(root: Path) -> list[str]:
    names = [
        p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX"))
    ]
    return sorted(names, key=int if all(map(str.isdecimal, names)) else None)


def _list_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images of a class, and what else its directory holds (but for hidden files)."""
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    images = [path for path in found if path.is_file() and path.suffix.lower() in SUFFIXES]
    return images, [path for path in found if path not in set(images)]


def open_zip(path: Path, on_bytes: OnBytes) -> Source:
    """Read and check a zip of EDM's dataset_tool: images, and their labels in dataset.json."""
    # Names first, then labels, then every image.
    with reading(path, "a zip of images and dataset.json"), zipfile.ZipFile(path) as archive:
        members = [info.filename for info in zip_members(archive)]
        names = [n for n in members if Path(n).suffix.lower() in SUFFIXES]
        if "dataset.json" not in members or not names:
            shown = ", ".join(members[:_SHOWN])
            raise ValueError(f"expected dataset.json and images, found {shown or 'nothing'}")
        too_large = [n for n in names if archive.getinfo(n).file_size > _LARGEST]
        if too_large or archive.getinfo("dataset.json").file_size > _LARGEST:
            raise ValueError(f"{(too_large or ['dataset.json'])[0]} is too large")
        labels = _zip_labels(archive.read("dataset.json"), names)
        contents = ((name, archive.read(name)) for name in names)
        shape, sha256 = _check_images(path, contents, on_bytes)
    return Source(
        form="zip",
        splits=(("train", len(names)),),
        labels=labels,
        parts=((len(names), lambda start, stop: ZipImages(path, tuple(names[start:stop]))),),
        files=(SourceFile(path=str(path.resolve()), sha256=sha256),),
        class_names=usual_classes(int(labels.max()), path),
        image_shape=shape,
        notes=(f"{path.name}: train, {len(names):,} images",),
    )


class _Labels(msgspec.Struct):
    """The part of dataset.json that is read: rows of name and label, or a dict of them."""

    labels: tuple[tuple[str, _Label], ...] | dict[str, _Label] | None = None


def _zip_labels(data: bytes, names: Sequence[str]) -> np.ndarray:
    """Return the label of each image from dataset.json: rows or a dict of name and label."""
    # Rows, as EDM's tools write them, or a dict.
    rows = parse_json(data, _Labels, "dataset.json").labels
    if not rows:
        raise ValueError("dataset.json has no labels: the images are not labeled")
    # Each image needs a label, 0 or more.
    label_of = dict(rows)
    missing = [name for name in names if name not in label_of]
    if missing:
        raise ValueError(f"dataset.json has no label for {missing[0]}")
    return np.array([label_of[name] for name in names], dtype=np.int64)


def _check_images(
    source: Path, contents: Iterable[tuple[str, bytes]], on_bytes: OnBytes
) -> tuple[tuple[int, ...], str]:
    """Decode every image; return their common shape and the sha256 of all names and contents."""
    # One hash of names and contents stands for all files.
    digest, shape = hashlib.sha256(), None
    for name, data in contents:
        try:
            found = decode_image(data).shape
        except ValueError as error:
            raise ValueError(f"{source / name} could not be decoded: {error}") from error
        shape = shape or found
        if found != shape:
            raise ValueError(
                f"{source / name} is {found[1]}x{found[0]}, the first image is "
                f"{shape[1]}x{shape[0]}"
            )
        digest.update(
            f"{name} {hashlib.sha256(data).hexdigest()}\n".encode(errors="surrogateescape")
        )
        on_bytes(len(data))
    assert shape is not None  # callers have found images
    return shape, digest.hexdigest()
