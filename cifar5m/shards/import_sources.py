"""Open what can be imported: released .npz parts, other image/label sets, packs, directories of
images and EDM's zips (cifar5m/shards/image_sources.py).

`open_source` reads a source whole once, so that nothing is found to be bad after shards were
written: every array against its CRC, every label, every file's sha256 for the plan. A later run on
unchanged files (same path, bytes and time of change) takes the hashes from the plan of the first.

Of the released parts, 0 to 4 are train and 5 is test, as the authors' own code reads them; the
paper's test set is the first 10,000 images of part 5.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from cifar5m.shards.image_sources import open_folder, open_zip
from cifar5m.shards.npz_parts import NpzArray, OnBytes, Slices, find_array
from cifar5m.shards.source import MOST_CLASSES, Remembered, Source
from worlds.formats.npz import map_file
from worlds.formats.plan import SourceFile
from worlds.formats.pools import (
    PAPER_TEST,
    RELEASED,
    TEST_PART,
    find_keys,
    part_number,
    split_of,
    usual_classes,
)

if TYPE_CHECKING:
    from worlds.data.splits import Split

BASE_URL: Final = "https://storage.googleapis.com/gresearch/cifar5m"  # of the released parts
FORMS: Final = ("parts", "pairs", "folder", "zip", "pack")
KEYED: Final = ("parts", "pairs")  # those of .npz files
_BLOCK: Final = 1 << 20  # bytes or labels at a time
_MANIFEST: Final = "pack.json"


def open_source(
    paths: Sequence[Path],
    form: str = "auto",
    remembered: Remembered = (),
    on_bytes: OnBytes = lambda count: None,
    *,
    split: str | None = None,
    test: Sequence[Path] = (),
    keys: tuple[str, str] | None = None,
) -> Source:
    """Read and check a source.

    Args:
        paths: .npz files, or one directory or zip.
        form: One of FORMS, or "auto".
        remembered: Files that an earlier import has read and hashed.
        on_bytes: Called with bytes read since the last call.
        split: The split of .npz files whose names do not decide it.
        test: Those of `paths` that are the test split.
        keys: Names of the images and labels in .npz files.

    Raises:
        ValueError: With the file and what is wrong with it.
    """
    if not paths:
        raise ValueError("nothing to import: give .npz files or a directory")
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist")
    # Options of .npz files make no sense for the other forms.
    form = form_of(paths, keys) if form == "auto" else form
    if form in ("parts", "pairs"):
        return _open_arrays(_in_order(paths, form, split, test), form, keys, remembered, on_bytes)
    if split is not None or test or keys:
        raise ValueError(f"split, test and keys are for .npz files, {paths[0]} is a {form}")
    if len(paths) != 1 or paths[0].is_dir() != (form != "zip"):
        what = "zip" if form == "zip" else "directory"
        raise ValueError(f"form={form} takes one {what}, got {', '.join(map(str, paths))}")
    if form == "pack":
        return _open_pack(paths[0], remembered, on_bytes)
    return open_folder(paths[0], on_bytes) if form == "folder" else open_zip(paths[0], on_bytes)


def form_of(paths: Sequence[Path], keys: tuple[str, str] | None = None) -> str:
    """Return one of FORMS, by what the first path holds."""
    if paths[0].is_dir():
        return "pack" if (paths[0] / _MANIFEST).is_file() else "folder"
    if paths[0].suffix == ".zip":
        return "zip"
    released = all(RELEASED.fullmatch(path.name) for path in paths)
    return "parts" if find_keys(paths[0], keys) == ("X", "Y") and released else "pairs"


def read_bytes_of(paths: Sequence[Path]) -> int:
    """Count the bytes that `open_source` reads of .npz files that it does not remember."""
    return sum(2 * path.stat().st_size for path in paths if path.is_file())


def _open_arrays(
    ordered: Sequence[tuple[str, Path]],
    form: str,
    keys: tuple[str, str] | None,
    remembered: Remembered,
    on_bytes: OnBytes,
) -> Source:
    pairs = [_find_pair(path, keys) for _, path in ordered]
    files, labels = [], []
    for (split, _), (images, classes) in zip(ordered, pairs, strict=True):
        file = _seal(images.path, remembered, (images, classes), on_bytes)
        files.append(msgspec.structs.replace(file, split=split, keys=keys))
        labels.append(_read_labels(classes, 10 if form == "parts" else MOST_CLASSES))
    # Sizes of splits and images.
    lengths: dict[str, int] = {}
    for (split, _), (images, _) in zip(ordered, pairs, strict=True):
        lengths[split] = lengths.get(split, 0) + len(images)
    shapes = {images.shape[1:] for images, _ in pairs}
    if len(shapes) > 1:
        raise ValueError(f"all images must have one size, got {sorted(shapes)}")
    subsets = {}
    if form == "parts" and "test" in lengths:
        stop = min(PAPER_TEST, lengths["test"])
        subsets["paper_test"] = {"split": "test", "start": 0, "stop": stop}
    everything = np.concatenate(labels)
    # What a user should know of the files.
    notes = [f"{path.name}: {split}" for split, path in ordered]
    is_sorted = (everything[1:] >= everything[:-1]).all()
    if is_sorted and everything[0] != everything[-1]:
        notes.append("the images are sorted by class: take no prefix of them as a sample")
    return Source(
        form=form,
        splits=tuple(lengths.items()),
        labels=everything,
        parts=tuple((len(images), Slices(images)) for images, _ in pairs),
        files=tuple(files),
        class_names=usual_classes(int(everything.max()), ordered[0][1]),
        image_shape=pairs[0][0].shape[1:],
        subsets=subsets,
        notes=tuple(notes),
    )


def _in_order(
    paths: Sequence[Path], form: str, split: str | None, test: Sequence[Path]
) -> list[tuple[str, Path]]:
    """Return (split, file): train first, released parts by number, others in the order given.

    Raises ValueError unless the names decide the splits or the caller does: no file that may be
    test data becomes train without a word.
    """
    counts = Counter(path.resolve() for path in paths)
    if twice := next((path for path in paths if counts[path.resolve()] > 1), None):
        raise ValueError(f"{twice} is given twice")
    if split not in (None, "train", "test"):
        raise ValueError(f'split must be "train" or "test", got {split!r}')
    # What the caller says counts before the names of the files.
    said = {path.resolve() for path in test}
    rest = split or ("train" if test else None)  # of names that decide nothing
    found = {p: "test" if p.resolve() in said else split_of(p.name) or rest for p in paths}
    if len({part_number(path.name) is None for path in paths}) > 1 and split is None:
        other = next(path for path in paths if part_number(path.name) is None)
        raise ValueError(f"{other.name} among released parts: name it part0.npz to part5.npz")
    undecided = [path for path in paths if found[path] is None]
    # A pool that was sampled in several parts has no test data among them.
    parts_of_a_pool = all(re.search(r"\d", path.name) for path in undecided)
    if undecided and len(paths) > 1 and not (parts_of_a_pool and len(undecided) == len(paths)):
        raise ValueError(
            f"the name of {undecided[0].name} does not say whether it is train or test: give "
            "split or test"
        )
    if not test and form == "parts":
        _check_parts(paths)
    ordered = sorted(paths, key=lambda path: part_number(path.name) or 0)
    pairs = [(found[path] or "train", path) for path in ordered]
    return sorted(pairs, key=lambda pair: pair[0] != "train")


def _check_parts(paths: Sequence[Path]) -> None:
    """Raise ValueError unless released parts 0, 1, ... are there once each, without a gap."""
    known = {path: part_number(path.name) for path in paths}
    numbers = [number for number in known.values() if number is not None]
    for path, number in known.items():
        if number is not None and (numbers.count(number) > 1 or number > TEST_PART):
            raise ValueError(f"{path}: parts are 0 to {TEST_PART}, each given once")
    # A gap would shift every index that follows it.
    train = sorted(set(numbers) - {TEST_PART})
    if train != list(range(len(train))):
        missing = min(set(range(TEST_PART)) - set(train))
        raise ValueError(
            f"part {missing} is missing: got parts {', '.join(map(str, sorted(numbers)))}; "
            f"train is part 0 and those that follow it without a gap"
        )


def _find_pair(path: Path, keys: tuple[str, str] | None) -> tuple[NpzArray, NpzArray]:
    """Return images and labels of one file, by their headers."""
    images_key, labels_key = find_keys(path, keys)
    images, labels = find_array(path, images_key), find_array(path, labels_key)
    # Headers tell shapes and types, so nothing is read yet.
    pixels = images.dtype == np.uint8 and len(images.shape) == 4 and images.shape[3] == 3
    if not pixels or 0 in images.shape:
        raise ValueError(
            f"{path}: {images_key} must be uint8 (N, height, width, 3), got {images.dtype} "
            f"{images.shape}"
        )
    if labels.dtype.kind not in "iu" or len(labels.shape) != 1:
        raise ValueError(
            f"{path}: {labels_key} must be integers (N,), got {labels.dtype} {labels.shape}"
        )
    if len(images) != len(labels):
        raise ValueError(f"{path}: {len(images):,} images but {len(labels):,} labels")
    return images, labels


def _read_labels(array: NpzArray, classes: int) -> np.ndarray:
    # Block by block: six million labels take 12 MB, not 48.
    found = np.empty(len(array), np.uint16)
    start = 0
    for block in array.blocks(_BLOCK):
        wrong = (block < 0) | (block >= classes)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"{array.path}: labels must be 0 to {classes - 1}, got {block[row]} in row "
                f"{start + row}"
            )
        found[start : start + len(block)] = block
        start += len(block)
    return found


def _seal(
    path: Path, remembered: Remembered, arrays: Iterable[NpzArray], on_bytes: OnBytes
) -> SourceFile:
    """Return path, bytes, time of change and sha256 of a file, read whole now or before."""
    # An unchanged file need not be read again.
    state = path.stat()
    facts = (str(path.resolve()), state.st_size, state.st_mtime_ns)
    for before in remembered:
        if facts == (before.path, before.bytes, before.mtime_ns):
            on_bytes(2 * state.st_size)
            return before
    for array in arrays:
        array.check(on_bytes)
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(partial(stream.read, _BLOCK), b""):
            digest.update(block)
            on_bytes(len(block))
    name, size, changed = facts
    return SourceFile(path=name, bytes=size, mtime_ns=changed, sha256=digest.hexdigest())


def _open_pack(folder: Path, remembered: Remembered, on_bytes: OnBytes) -> Source:
    # They bring torch, which nothing else here needs.
    from worlds.data.pack import open_pack, read_manifest

    # Every file of the pack against its manifest.
    manifest, splits = read_manifest(folder), open_pack(folder)
    kind = splits[0]
    if not (kind.holds_images and kind.class_names and kind.image_shape[-1] == 3):
        raise ValueError(f"{folder} must hold RGB images of classes, got {kind.image_shape}")
    files = []
    for name, recorded in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing: the pack is damaged, make it again")
        files.append(_seal(path, remembered, (), on_bytes))
        if files[-1].sha256 != recorded.sha256:
            raise ValueError(f"{path} does not match the sha256 of its manifest: make it again")
    soft = folder / "probabilities.npy"
    return Source(
        form="pack",
        splits=tuple(manifest.splits.items()),
        labels=np.concatenate([split.clean_labels for split in splits]),
        parts=tuple((len(split), partial(_gather, split)) for split in splits),
        files=tuple(files),
        class_names=manifest.class_names,
        image_shape=kind.image_shape,
        probabilities=map_file(soft) if soft.name in manifest.files else None,
    )


def _gather(split: "Split", start: int, stop: int) -> np.ndarray:
    """Return the images [start, stop) of a pack's split, uint8 (N, H, W, 3)."""
    return split.gather(np.arange(start, stop))
