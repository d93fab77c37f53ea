"""Packs: the fast path of every loader. One folder, made once from any store, then memory-mapped.

    images.npy          uint8 (N, height, width, 3), the splits one after the other
    labels.npy          int64 (N,)
    probabilities.npy   float16 (N, K), where every split of the source has them
    pack.json           splits, class names, fingerprint; bytes and sha256 of files; written last

Opening checks the sizes of the files; `verify_pack` reads them whole and checks the hashes.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from worlds.files import atomic_write, sha256_of, write_json
from worlds.images import ArrayImages
from worlds.npz import map_npy
from worlds.splits import Split

MANIFEST: Final = "pack.json"
FORMAT: Final = 1
_CHUNK: Final = 4096  # images at a time, 12 MB of CIFAR


def write_pack(
    splits: list[Split], folder: Path, report: Callable[[int, int], None] | None = None
) -> None:
    """Write `splits`, clean labels, as a pack. `report` is called with (images written, total).

    A folder that already holds this content is left as it is; one that holds another is refused.
    """
    manifest = _manifest(splits)
    if (folder / MANIFEST).exists():
        if read_manifest(folder)["fingerprint"] == manifest["fingerprint"]:
            return
        raise ValueError(f"{folder} holds another pack: give an empty folder")
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

    labels = np.concatenate([split.clean_labels for split in splits])
    files = {
        "images.npy": _write_npy(folder / "images.npy", shape, np.dtype(np.uint8), images()),
        "labels.npy": _write_npy(folder / "labels.npy", labels.shape, labels.dtype, iter([labels])),
    }
    known = [split.probabilities for split in splits if split.probabilities is not None]
    if len(known) == len(splits):
        path, width = folder / "probabilities.npy", known[0].shape[1]
        rows = (np.asarray(part, dtype=np.float16) for part in known)
        files[path.name] = _write_npy(path, (total, width), np.dtype(np.float16), rows)
    write_json(folder / MANIFEST, manifest | {"files": files})


def _manifest(splits: list[Split]) -> dict[str, Any]:
    if len({(split.image_shape, split.class_names) for split in splits}) != 1:
        raise ValueError("the splits of a pack must share image size and class names")
    names = "".join(f"{split.name} {len(split)} {split.fingerprint}\n" for split in splits)
    return {
        "format": FORMAT,
        "splits": {split.name: len(split) for split in splits},
        "split_fingerprints": {split.name: split.fingerprint for split in splits},
        "fingerprint": hashlib.sha256(names.encode()).hexdigest(),
        "class_names": list(splits[0].class_names),
    }


class _Hashed:
    """A stream that hashes and counts what is written through it."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.digest, self.bytes = stream, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.bytes += memoryview(data).nbytes
        return self.stream.write(data)


def _write_npy(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, chunks: Iterator[np.ndarray]
) -> dict[str, Any]:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with atomic_write(path) as stream:
        hashed = _Hashed(stream)
        np.lib.format.write_array_header_1_0(hashed, header)
        for chunk in chunks:
            hashed.write(np.ascontiguousarray(chunk).data)
    return {"bytes": hashed.bytes, "sha256": hashed.digest.hexdigest()}


def read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{path} is not the manifest of a pack of format {FORMAT}")
    return manifest


def open_pack(folder: Path) -> list[Split]:
    """The splits of a pack, memory-mapped; ValueError where a file has not the recorded size."""
    manifest = read_manifest(folder)
    for name, facts in manifest["files"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else 0
        if size != facts["bytes"]:
            raise ValueError(
                f"{path} has {size:,} bytes, its manifest says {facts['bytes']:,}: "
                "the pack is damaged, make it again"
            )
    arrays = {name: _map(folder / name) for name in manifest["files"]}
    probabilities = arrays.get("probabilities.npy")
    splits, start = [], 0
    for name, length in manifest["splits"].items():
        part = slice(start, start + length)
        split = Split(
            name=name,
            images=ArrayImages([arrays["images.npy"][part]]),
            clean_labels=np.array(arrays["labels.npy"][part]),
            class_names=tuple(manifest["class_names"]),
            fingerprint=manifest["split_fingerprints"][name],
            probabilities=None if probabilities is None else probabilities[part],
        )
        splits.append(split)
        start += length
    return splits


def _map(path: Path) -> np.ndarray:
    with path.open("rb") as stream:
        return map_npy(path, stream)


def verify_pack(folder: Path) -> None:
    """Read a pack whole; ValueError names the first file whose hash is not the recorded one."""
    for name, facts in read_manifest(folder)["files"].items():
        if sha256_of(folder / name) != facts["sha256"]:
            raise ValueError(f"{folder / name} does not match the sha256 of its manifest")
