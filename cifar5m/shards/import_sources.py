"""What can be imported: released .npz parts, image/label sets, folders of images, packs.

`open_source` reads a source whole once, so that nothing is found to be bad after shards were
written: every array against its CRC, every label, every file's sha256 for the plan. A later run on
unchanged files (same path, bytes and time of change) takes the hashes from the plan of the first.

Of the released parts, 0 to 4 are train and 5 is test, as the authors' own code reads them; the
paper's test set is the first 10,000 images of part 5.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from cifar5m.shards.npz_parts import NpzArray, OnBytes, Slices, find_array
from worlds.formats.layout import CIFAR10_CLASSES
from worlds.formats.npz import read_header, read_members
from worlds.formats.plan import SourceFile
from worlds.formats.shards import decode_image

BASE_URL: Final = "https://storage.googleapis.com/gresearch/cifar5m"  # of the released parts
FORMS: Final = ("parts", "pairs", "folder", "pack")
KEYS: Final = {"parts": ("X", "Y"), "pairs": ("image", "label")}
RELEASED: Final = re.compile(r"(?:cifar5m_)?part(\d+)\.npz")
TEST_PART: Final = 5
PAPER_TEST: Final = 10_000
SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"})
_BLOCK: Final = 1 << 20  # bytes or labels at a time
_MANIFEST: Final = "pack.json"

Remembered = Sequence[SourceFile]  # the `files` of a plan's `about`


@dataclass(frozen=True)
class Pictures:
    """The images of one shard: pieces that a worker process iterates over one after the other."""

    pieces: tuple[Iterable[np.ndarray], ...]

    def __iter__(self) -> Iterator[np.ndarray]:
        return chain.from_iterable(self.pieces)


@dataclass(frozen=True)
class ImageFiles:
    """Encoded images in files of their own."""

    paths: tuple[str, ...]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (decode_image(Path(path).read_bytes()) for path in self.paths)


Piece = Callable[[int, int], Iterable[np.ndarray]]  # images [start, stop) of one part


@dataclass(frozen=True)
class Source:
    """A checked set of images with labels, in the order in which it is imported."""

    form: str
    splits: tuple[tuple[str, int], ...]
    labels: np.ndarray = field(repr=False)  # integers (N,)
    parts: tuple[tuple[int, Piece], ...] = field(repr=False)  # length, how to read
    files: tuple[SourceFile, ...] = field(repr=False)
    class_names: tuple[str, ...] = CIFAR10_CLASSES
    image_shape: tuple[int, ...] = (32, 32, 3)
    probabilities: np.ndarray | None = field(default=None, repr=False)  # float16 (N, C)
    subsets: dict[str, Any] = field(default_factory=dict)

    def pictures(self, start: int, stop: int) -> Pictures:
        """Images [start, stop) of all."""
        pieces, ends = [], accumulate(length for length, _ in self.parts)
        for (length, read), end in zip(self.parts, ends, strict=True):
            first, last = max(start, end - length), min(stop, end)
            if first < last:
                pieces.append(read(first - (end - length), last - (end - length)))
        return Pictures(tuple(pieces))

    def close(self) -> None:
        """Let go of the files that are read as streams."""
        for _, read in self.parts:
            if isinstance(read, Slices):
                read.close()


def open_source(
    paths: Sequence[Path],
    form: str = "auto",
    remembered: Remembered = (),
    on_bytes: OnBytes = lambda count: None,
) -> Source:
    """Read and check a source; ValueError with the file and what is wrong with it."""
    if not paths:
        raise ValueError("nothing to import: give .npz files or a folder")
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist")
    form = form_of(paths) if form == "auto" else form
    if form in KEYS:
        return _open_arrays(paths, form, remembered, on_bytes)
    if len(paths) != 1 or not paths[0].is_dir():
        raise ValueError(f"form={form} takes one directory, got {', '.join(map(str, paths))}")
    if form == "pack":
        return _open_pack(paths[0], remembered, on_bytes)
    return _open_folder(paths[0], on_bytes)


def form_of(paths: Sequence[Path]) -> str:
    """One of FORMS, by what the first path holds."""
    if paths[0].is_dir():
        return "pack" if (paths[0] / _MANIFEST).is_file() else "folder"
    names = read_members(paths[0])
    for form, (images, labels) in KEYS.items():
        if images in names and labels in names:
            return form
    raise ValueError(
        f"{paths[0]} holds {sorted(names)}; expected X and Y (released parts) or image and label"
    )


def read_bytes_of(paths: Sequence[Path]) -> int:
    """How many bytes `open_source` reads of .npz files that it does not remember, for progress."""
    return sum(2 * path.stat().st_size for path in paths if path.is_file())


def _open_arrays(
    paths: Sequence[Path], form: str, remembered: Remembered, on_bytes: OnBytes
) -> Source:
    ordered = _in_order(paths, form)
    pairs = [_find_pair(path, form) for _, path in ordered]
    files, labels = [], []
    for images, classes in pairs:
        files.append(_seal(images.path, remembered, (images, classes), on_bytes))
        labels.append(_read_labels(classes))
    lengths: dict[str, int] = {}
    for (split, _), (images, _) in zip(ordered, pairs, strict=True):
        lengths[split] = lengths.get(split, 0) + len(images)
    subsets = {}
    if "test" in lengths:
        stop = min(PAPER_TEST, lengths["test"])
        subsets["paper_test"] = {"split": "test", "start": 0, "stop": stop}
    return Source(
        form=form,
        splits=tuple(lengths.items()),
        labels=np.concatenate(labels),
        parts=tuple((len(images), Slices(images)) for images, _ in pairs),
        files=tuple(files),
        subsets=subsets,
    )


def _in_order(paths: Sequence[Path], form: str) -> list[tuple[str, Path]]:
    """(split, file): the released parts by number, others in the order given, all of them train."""
    twice = [path for path in paths if sum(path.resolve() == p.resolve() for p in paths) > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given twice")
    matches = [RELEASED.fullmatch(path.name) if form == "parts" else None for path in paths]
    if not any(matches):
        return [("train", path) for path in paths]
    numbered: dict[int, Path] = {}
    for path, match in zip(paths, matches, strict=True):
        if match is None:
            raise ValueError(f"{path.name} among released parts: name it part0.npz to part5.npz")
        if int(match[1]) in numbered or int(match[1]) > TEST_PART:
            raise ValueError(f"{path}: parts are 0 to {TEST_PART}, each given once")
        numbered[int(match[1])] = path
    train = sorted(set(numbered) - {TEST_PART})
    if train != list(range(len(train))):
        missing = min(set(range(TEST_PART)) - set(train))
        raise ValueError(
            f"part {missing} is missing: got parts {', '.join(map(str, sorted(numbered)))}; "
            f"train is part 0 and those that follow it without a gap"
        )
    return [("test" if k == TEST_PART else "train", numbered[k]) for k in sorted(numbered)]


def _find_pair(path: Path, form: str) -> tuple[NpzArray, NpzArray]:
    """Images and labels of one file, by their headers."""
    images_key, labels_key = KEYS[form]
    images, labels = find_array(path, images_key), find_array(path, labels_key)
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or not len(images):
        raise ValueError(
            f"{path}: {images_key} must be uint8 (N, 32, 32, 3), got {images.dtype} {images.shape}"
        )
    if labels.dtype.kind not in "iu" or len(labels.shape) != 1:
        raise ValueError(
            f"{path}: {labels_key} must be integers (N,), got {labels.dtype} {labels.shape}"
        )
    if len(images) != len(labels):
        raise ValueError(f"{path}: {len(images):,} images but {len(labels):,} labels")
    return images, labels


def _read_labels(array: NpzArray) -> np.ndarray:
    found = np.empty(len(array), np.uint8)
    start = 0
    for block in array.blocks(_BLOCK):
        wrong = (block < 0) | (block >= len(CIFAR10_CLASSES))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"{array.path}: labels must be 0 to 9, got {block[row]} in row {start + row}"
            )
        found[start : start + len(block)] = block
        start += len(block)
    return found


def _seal(
    path: Path, remembered: Remembered, arrays: Iterable[NpzArray], on_bytes: OnBytes
) -> SourceFile:
    """Path, bytes, time of change and sha256 of a file that was read whole, now or before."""
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
        while block := stream.read(_BLOCK):
            digest.update(block)
            on_bytes(len(block))
    name, size, changed = facts
    return SourceFile(path=name, bytes=size, mtime_ns=changed, sha256=digest.hexdigest())


def _open_pack(folder: Path, remembered: Remembered, on_bytes: OnBytes) -> Source:
    from worlds.data.pack import read_manifest  # brings torch, which nothing else here needs

    manifest = read_manifest(folder)
    files = []
    for name, recorded in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing: the pack is damaged, make it again")
        files.append(_seal(path, remembered, (), on_bytes))
        if files[-1].sha256 != recorded.sha256:
            raise ValueError(f"{path} does not match the sha256 of its manifest: make it again")
    images_path = folder / "images.npy"
    with images_path.open("rb") as stream:
        shape, _, dtype = read_header(stream)
        images = NpzArray(images_path, "images", shape, dtype, True, stream.tell(), 0)
    soft = folder / "probabilities.npy"
    return Source(
        form="pack",
        splits=tuple(manifest.splits.items()),
        labels=np.load(folder / "labels.npy"),
        parts=((len(images), Slices(images)),),
        files=tuple(files),
        class_names=manifest.class_names,
        image_shape=shape[1:],
        probabilities=np.load(soft, mmap_mode="r") if soft.name in manifest.files else None,
    )


def _open_folder(folder: Path, on_bytes: OnBytes) -> Source:
    """ROOT/{train,test}/CLASS/*, or ROOT/CLASS/* as train; classes and files sorted by name."""
    roots = {name: folder / name for name in ("train", "test") if (folder / name).is_dir()}
    roots = roots or {"train": folder}
    listed = {name: _classes_of(root) for name, root in roots.items()}
    names = next(iter(listed.values()))
    if not names or any(classes != names for classes in listed.values()):
        raise ValueError(
            f"{folder} must hold one folder a class, the same in each split; found "
            + "; ".join(
                f"{name}: {', '.join(classes) or 'none'}" for name, classes in listed.items()
            )
        )
    paths: list[str] = []
    labels: list[int] = []
    splits = []
    for split, root in roots.items():
        before = len(paths)
        for label, name in enumerate(names):
            found = sorted(p for p in (root / name).iterdir() if p.suffix.lower() in SUFFIXES)
            paths += map(str, found)
            labels += [label] * len(found)
        splits.append((split, len(paths) - before))
        if len(paths) == before:
            raise ValueError(f"{root} holds no images ({', '.join(sorted(SUFFIXES))})")
    sha256 = _check_images(folder, paths, on_bytes)
    digits = names == [str(label) for label in range(len(CIFAR10_CLASSES))]
    return Source(
        form="folder",
        splits=tuple(splits),
        labels=np.asarray(labels),
        parts=((len(paths), lambda start, stop: ImageFiles(tuple(paths[start:stop]))),),
        files=(SourceFile(path=str(folder.resolve()), sha256=sha256),),
        class_names=CIFAR10_CLASSES if digits else tuple(names),
    )


def _classes_of(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _check_images(folder: Path, paths: Sequence[str], on_bytes: OnBytes) -> str:
    """Decode every image; the sha256 of all names and contents in order."""
    digest = hashlib.sha256()
    for path in paths:
        data = Path(path).read_bytes()
        try:
            shape = decode_image(data).shape
        # Pillow's decoders raise SyntaxError on a bad checksum, and OSError on most of the rest.
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{path} cannot be decoded: {error}") from error
        if shape != (32, 32, 3):
            raise ValueError(f"{path} is {shape[1]}x{shape[0]}, expected 32x32")
        name = Path(path).relative_to(folder).as_posix()
        digest.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
        on_bytes(len(data))
    return digest.hexdigest()
