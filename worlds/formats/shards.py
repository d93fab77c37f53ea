"""Shards: WebDataset tars of `{index:09d}.png` + `{index:09d}.cls`, each with two side files.

The side file `meta/{split}-{k:05d}.npz` holds `index` int64 (N,), `label` int64 (N,) and
`probabilities` float16 (N, C), and of a conditional generator `requested` int64 (N,), the class
that it was asked for; the record `meta/{split}-{k:05d}.json` holds the tar's sha256 and
bytes, count, class histogram, plan fingerprint, seconds and device. The record is written last: a
shard exists when its record exists and matches.

Equal content gives equal bytes: mtime, uid and gid are 0 and there is no PAX header. An integer
time stamp also saves a third of the size, 4,098 bytes a sample instead of 6,146.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec
import numpy as np
from PIL import Image

from worlds.formats.layout import Shard
from worlds.formats.npz import load_npz
from worlds.runtime.errors import first_line
from worlds.runtime.files import HashingStream, atomic_write, write_json
from worlds.runtime.json_files import load_json

BLOCK = 512
MOST_PIXELS = 1 << 26  # of one image; ImageNet's largest has a quarter of that
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # others may start programs
_MOST_CLASSES = 1 << 12  # bounds what a side file may hold for each image
_SIDE_ARRAYS = ("index", "label", "probabilities", "requested")
Natural = Annotated[int, msgspec.Meta(ge=0, le=10**15)]


class Record(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """The record of a shard: of the dataset, or of its labels in a second labeling."""

    tar: str  # the name of the file
    sha256: str  # of the tar
    bytes: Natural = 0  # of the tar; a second labeling leaves it out
    arrays_sha256: str
    count: Natural
    classes: tuple[Natural, ...]
    agreed: Natural | None = None  # images in which the labeler finds the requested class
    fingerprint: str  # of the plan
    seconds: float | None = None
    device: str = "unknown"


@dataclass(frozen=True)
class SideArrays:
    """The arrays of a shard's side file."""

    index: np.ndarray  # int64 (N,)
    label: np.ndarray  # int64 (N,)
    probabilities: np.ndarray  # float16 (N, C)
    requested: np.ndarray | None = None  # int64 (N,), of a conditional generator

    @property
    def by_name(self) -> dict[str, np.ndarray]:
        """The arrays that there are, as the side file names them."""
        return {name: array for name, array in vars(self).items() if array is not None}

    @property
    def sha256(self) -> str:
        """Hash of the content (the npz container itself carries time stamps)."""
        digest = hashlib.sha256()
        for array in self.by_name.values():
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def agreed(self) -> int | None:
        """Images whose most probable class is the requested one; None without requested classes."""
        if self.requested is None:
            return None
        return int((self.probabilities.argmax(axis=1) == self.requested).sum())


def encode_png(image: np.ndarray) -> bytes:
    """One uint8 (H, W, 3) RGB image as PNG."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    return stream.getvalue()


def decode_image(data: bytes) -> np.ndarray:
    """Decode an image to uint8 (H, W, 3) RGB; ValueError as `load_image`."""
    return np.asarray(load_image(data))


def load_image(data: bytes) -> Image.Image:
    """Decode an image to RGB.

    Raises ValueError in one line if it is corrupt or none of FORMATS, and before decoding if it
    declares more than MOST_PIXELS.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(
                f"{image.width} x {image.height} pixels are more than the {MOST_PIXELS:,} allowed"
            )
        image.load()
        return image if image.mode == "RGB" else to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a corrupt file brings up
        raise ValueError(first_line(error).partition(" <_io.BytesIO")[0]) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB; 16-bit gray becomes its high byte.

    Raises ValueError for modes whose range is unknown (32-bit integers, floats).
    """
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
        high = np.asarray(image).astype(np.uint16) >> 8
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"a mode {image.mode} image has no known range: store it with 8 bits")
    return image.convert("RGB")


def write_tar(stream: IO[bytes], samples: Iterable[tuple[int, bytes, int]], extension: str) -> None:
    """Write each (index, image bytes, label) as `{index:09d}.{extension}` and `.cls`."""
    with tarfile.open(mode="w|", fileobj=stream, format=tarfile.USTAR_FORMAT) as tar:
        for index, data, label in samples:
            for suffix, content in ((extension, data), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{index:09d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_shard(
    folder: Path,
    shard: Shard,
    samples: Iterable[bytes],
    labels: np.ndarray,
    probabilities: np.ndarray,
    facts: dict[str, Any],
    extension: str = "png",
    requested: np.ndarray | None = None,
) -> None:
    """Write the tar, the side file and, last, the record of one shard.

    `samples` are encoded images in index order; `labels` int (N,), `probabilities` float (N, C),
    `requested` int (N,) the classes that a conditional generator was asked for.
    `facts` (fingerprint, seconds, device ...) go into the record. Whatever fails, nothing
    half-written keeps a final name, and without its record the shard does not exist.
    """
    labels = np.asarray(labels, dtype=np.int64)
    index = np.arange(shard.start, shard.stop, dtype=np.int64)
    probabilities = np.asarray(probabilities, dtype=np.float16)
    _check_side_arrays(shard, labels, probabilities)
    if requested is not None:
        requested = np.asarray(requested, dtype=np.int64)
        _check_side_arrays(shard, requested, probabilities)
    arrays = SideArrays(index, labels, probabilities, requested)
    (folder / shard.record).unlink(missing_ok=True)
    with atomic_write(folder / shard.tar) as stream:
        hashing = HashingStream(stream)
        rows = zip(index.tolist(), samples, labels.tolist(), strict=True)
        write_tar(hashing, rows, extension)  # type: ignore[arg-type]
    write_arrays(folder / shard.arrays, arrays)
    record: dict[str, Any] = {
        "tar": shard.tar.name,
        "sha256": hashing.sha256.hexdigest(),
        "bytes": hashing.bytes,
        "arrays_sha256": arrays.sha256,
        "count": len(shard),
        "classes": np.bincount(labels, minlength=probabilities.shape[1]).tolist(),
    }
    if arrays.agreed is not None:
        record["agreed"] = arrays.agreed
    write_json(folder / shard.record, record | facts)


def write_arrays(path: Path, arrays: SideArrays) -> None:
    """Write a side file atomically."""
    with atomic_write(path) as stream:
        np.savez(stream, **arrays.by_name)  # type: ignore[arg-type]


def _check_side_arrays(shard: Shard, labels: np.ndarray, probabilities: np.ndarray) -> None:
    """Refuse what would otherwise be found only after the tar was written, or never."""
    if labels.shape != (len(shard),) or probabilities.shape[:-1] != (len(shard),):
        raise ValueError(
            f"shard {shard.name} holds {len(shard)} images, got labels {labels.shape} and "
            f"probabilities {probabilities.shape}"
        )
    classes = probabilities.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"shard {shard.name}: labels must be 0 to {classes - 1}, got {labels.min()} to "
            f"{labels.max()}"
        )


def load_record(folder: Path, shard: Shard) -> Record:
    """Return the record of a shard; ValueError if it is missing or names what is wrong in it."""
    return load_json(folder / shard.record, Record)


def find_record(folder: Path, shard: Shard) -> Record | None:
    """Return the record of a shard, None if there is none that is valid."""
    try:
        return load_record(folder, shard)
    except ValueError:
        return None


def read_arrays(folder: Path, shard: Shard) -> SideArrays:
    """Load the side file of a shard; raises ValueError if it is corrupt."""
    path = folder / shard.arrays
    arrays = load_npz(path, most_bytes=4096 + len(shard) * 4 * _MOST_CLASSES)
    try:
        names = [name for name in _SIDE_ARRAYS if name != "requested" or name in arrays]
        found = SideArrays(**{name: arrays[name] for name in names})
    except KeyError as error:
        raise ValueError(f"{path} is not a side file: it has no array {error}") from error
    for name in ("index", "label"):
        if (dtype := getattr(found, name).dtype).kind not in "iu":
            raise ValueError(f"{path} is not a side file: its {name} is {dtype}, not integers")
    return found


def is_finished(folder: Path, shard: Shard, fingerprint: str) -> bool:
    """Return whether the shard exists: its record is of this plan, and the tar has the recorded
    size.
    """
    record = find_record(folder, shard)
    if record is None or record.fingerprint != fingerprint:
        return False
    try:
        size = os.stat(folder / shard.tar).st_size
    except FileNotFoundError:
        return False
    return size == record.bytes and (folder / shard.arrays).is_file()


def tar_members(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, offset of its data, size) of every member of an uncompressed tar without PAX headers.

    Reads headers only, so that a loader can fetch any sample later by its offset. Raises ValueError
    where the archive is cut short or is not such a tar.
    """
    total = os.stat(path).st_size
    with path.open("rb") as stream:
        offset = 0
        while offset + BLOCK <= total:
            stream.seek(offset)
            header = stream.read(BLOCK)
            if not header.strip(b"\0"):
                return
            try:
                size = int(header[124:136].strip(b" \0") or b"0", 8)
                name = header[:100].rstrip(b"\0").decode()
            except ValueError as error:
                raise ValueError(f"{path}: no tar header at byte {offset}") from error
            if header[156:157] not in (b"0", b"\0"):
                raise ValueError(f"{path}: member {name!r} is not a plain file without extensions")
            offset += BLOCK
            if offset + size > total:
                break
            yield name, offset, size
            offset += -(-size // BLOCK) * BLOCK
    raise ValueError(f"{path}: the archive is cut short at {total} bytes")


def read_samples(path: Path) -> Iterator[tuple[int, bytes, int]]:
    """(index, encoded image, label) of every sample of a shard's tar, in order."""
    with path.open("rb") as stream:
        members = tar_members(path)
        for (name, offset, size), (cls_name, cls_offset, cls_size) in zip(
            members, members, strict=True
        ):
            key, cls_key = name.partition(".")[0], cls_name.partition(".")
            if cls_key[0] != key or cls_key[2] != "cls" or not key.isdigit():
                raise ValueError(
                    f"{path}: expected an image and its .cls, got {name!r} and {cls_name!r}"
                )
            stream.seek(offset)
            data = stream.read(size)
            stream.seek(cls_offset)
            yield int(key), data, int(stream.read(cls_size))
