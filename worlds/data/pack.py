"""Packs: the fast path of every loader. One folder, made once from any store, then memory-mapped.

    images.npy          uint8 (N, height, width, 1 or 3), the splits one after the other; or float
                        features or integer sequences (N, ...)
    labels.npy          int64 (N,), or targets
    probabilities.npy   float16 (N, K), where every split of the source has them
    pack.json           splits, class names, fingerprint; bytes and sha256 of files; written last

Opening checks the sizes of the files; `verify_pack` reads them whole and checks the hashes.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from msgspec.structs import replace

from worlds.data.images import ArrayImages
from worlds.data.photographs import PhotographImages
from worlds.data.splits import Split
from worlds.formats.npz import map_file
from worlds.formats.plan import Count, check_names
from worlds.runtime.files import HashingStream, atomic_write, sha256_of, write_json
from worlds.runtime.json_files import load_json

MANIFEST: Final = "pack.json"
FORMAT: Final = 1
_FILES: Final = ("images.npy", "labels.npy")
FileName = Literal["images.npy", "labels.npy", "probabilities.npy"]
_CHUNK: Final = 4096  # images at a time, 12 MB of CIFAR


class FileFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size and hash of a file in the manifest."""

    bytes: Annotated[int, msgspec.Meta(ge=1, le=10**15)]
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of pack.json, which is written last, with its `files`."""

    format: Literal[1]
    splits: dict[str, Count]
    split_fingerprints: dict[str, str]
    fingerprint: str
    class_names: tuple[str, ...]
    files: dict[FileName, FileFacts]

    def __post_init__(self) -> None:
        check_names(self.class_names)


def write_pack(
    splits: Sequence[Split],
    folder: str | Path,
    report: Callable[[int, int], None] | None = None,
) -> None:
    """Write `splits`, clean labels, as a pack. `report` is called with (images written, total).

    A folder that already holds this content is left as it is; one that holds another is refused.
    """
    # The same content again is no work, other content no place for it.
    folder = Path(folder)
    manifest = manifest_of(splits)
    if holds_pack(folder, manifest):
        return
    total = sum(len(split) for split in splits)
    shape = (total, *splits[0].image_shape)
    done = 0

    def images() -> Iterator[np.ndarray]:
        nonlocal done
        for split in splits:
            for start in range(0, len(split), _CHUNK):
                chunk = split.gather(np.arange(start, min(start + _CHUNK, len(split))))
                yield chunk
                done += len(chunk)
                if report is not None:
                    report(done, total)

    # Images first, the manifest last: it says that the pack is whole.
    files: dict[FileName, FileFacts] = {
        "images.npy": write_npy(folder / "images.npy", shape, splits[0].images.dtype, images()),
        **write_labels(splits, folder),
    }
    write_json(folder / MANIFEST, replace(manifest, files=files))


def holds_pack(folder: Path, manifest: Manifest) -> bool:
    """Return whether `folder` already holds this content; raises ValueError if it holds another."""
    if not (folder / MANIFEST).exists():
        return False
    if read_manifest(folder).fingerprint != manifest.fingerprint:
        raise ValueError(f"{folder} holds another pack: give an empty folder")
    return True


def write_labels(splits: Sequence[Split], folder: Path) -> dict[FileName, FileFacts]:
    """Write all files of a pack but the images; what the manifest says of each, by name."""
    labels = np.concatenate([split.clean_labels for split in splits])
    facts = write_npy(folder / "labels.npy", labels.shape, labels.dtype, iter([labels]))
    files: dict[FileName, FileFacts] = {"labels.npy": facts}
    # A labeler's probabilities, if all splits have them.
    known = [split.probabilities for split in splits if split.probabilities is not None]
    if len(known) == len(splits):
        path, shape = folder / "probabilities.npy", (len(labels), known[0].shape[1])
        rows = (np.asarray(part, dtype=np.float16) for part in known)
        files["probabilities.npy"] = write_npy(path, shape, np.dtype(np.float16), rows)
    return files


def manifest_of(splits: Sequence[Split]) -> Manifest:
    """Return the manifest of a pack of these splits, but for its `files`."""
    if not isinstance(splits, Sequence) or not splits:
        raise ValueError(f"give one split or more, such as [store.train, store.test], got {splits}")
    if any(isinstance(split.images, PhotographImages) for split in splits):
        raise ValueError(
            "photographs of many sizes make no pack: loaders take them from the shards"
        )
    if len({(split.image_shape, split.class_names) for split in splits}) != 1:
        raise ValueError("the splits of a pack must share image size and class names")
    # The pack's name is that of its splits' content.
    names = "".join(f"{split.name} {len(split)} {split.fingerprint}\n" for split in splits)
    return Manifest(
        format=FORMAT,
        splits={split.name: len(split) for split in splits},
        split_fingerprints={split.name: split.fingerprint for split in splits},
        fingerprint=hashlib.sha256(names.encode()).hexdigest(),
        class_names=splits[0].class_names,
        files={},
    )


def write_npy(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, chunks: Iterator[np.ndarray]
) -> FileFacts:
    """Write the rows that `chunks` hold, atomically; the file's bytes and sha256."""
    with atomic_write(path) as stream:
        hashed = HashingStream(stream)
        hashed.write(npy_header(shape, dtype))
        for chunk in chunks:
            hashed.write(np.ascontiguousarray(chunk).data)
    return FileFacts(hashed.bytes, hashed.sha256.hexdigest())


def npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Return the header of the .npy file of an array in C order."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a pack; ValueError names what is wrong in it."""
    manifest = load_json(folder / MANIFEST, Manifest)
    missing = {*_FILES} - {*manifest.files} or {*manifest.splits} - {*manifest.split_fingerprints}
    if missing:
        raise ValueError(
            f"{folder / MANIFEST} does not name {', '.join(map(repr, missing))}: make it again"
        )
    return manifest


def open_pack(folder: Path) -> list[Split]:
    """Map the splits of a pack. Raises ValueError if a file has not the recorded size."""
    manifest = read_manifest(folder)
    # A file that was cut short shows by its size, without reading it.
    for name, facts in manifest.files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else 0
        if size != facts.bytes:
            raise ValueError(
                f"{path} has {size:,} bytes, its manifest says {facts.bytes:,}: "
                "the pack is damaged, make it again"
            )
    # Map the arrays, and cut them into the splits.
    arrays = {name: map_file(folder / name) for name in manifest.files}
    rows, said = len(arrays["images.npy"]), sum(manifest.splits.values())
    if rows != said:
        raise ValueError(f"{folder} holds {rows:,} images, its manifest says {said:,}")
    probabilities = arrays.get("probabilities.npy")
    splits, start = [], 0
    for split_name, length in manifest.splits.items():
        part = slice(start, start + length)
        split = Split(
            name=split_name,
            images=ArrayImages([arrays["images.npy"][part]]),
            clean_labels=arrays["labels.npy"][part],
            class_names=manifest.class_names,
            fingerprint=manifest.split_fingerprints[split_name],
            probabilities=None if probabilities is None else probabilities[part],
        )
        splits.append(split)
        start += length
    return splits


def verify_pack(folder: str | Path) -> None:
    """Read a pack whole; ValueError names the first file whose hash is not the recorded one."""
    folder = Path(folder)
    open_pack(folder)
    for name, facts in read_manifest(folder).files.items():
        if sha256_of(folder / name) != facts.sha256:
            raise ValueError(f"{folder / name} does not match the sha256 of its manifest")
