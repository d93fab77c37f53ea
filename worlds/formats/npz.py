"""Read an array of an uncompressed .npz in place: a member stored without compression is a plain
.npy inside the zip, so it can be memory-mapped where it lies, at no cost in memory.
"""

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from worlds.runtime.errors import first_line, reading
from worlds.runtime.files import zip_members

_LOCAL_HEADER = 30  # bytes before the name in a zip's local file header (APPNOTE 4.3.7)
_ARCHIVE = "an .npz of arrays"


def map_member(path: Path, name: str) -> np.ndarray:
    """Array `name` of the .npz at `path`, read-only, mapped rather than loaded."""
    member = find_member(path, name)
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(
            f"{path}: {name!r} is compressed, so it cannot be read in place; "
            f"write the arrays again with numpy.savez"
        )
    with path.open("rb") as stream:
        offset = stream.seek(member_offset(path, member))
        return map_npy(path, stream, offset + member.file_size)


def load_npz(path: Path, most_bytes: int) -> dict[str, np.ndarray]:
    """Load all arrays of an .npz; nothing larger than `most_bytes` is allocated.

    numpy's own loader believes the sizes that a file declares. Raises ValueError with the path if
    an array is too large, cut short, corrupt, or not of numbers.
    """
    arrays = {}
    with reading(path, _ARCHIVE), zipfile.ZipFile(path) as archive:
        for info in zip_members(archive):
            if info.file_size > most_bytes:
                raise ValueError(f"{info.filename} declares {info.file_size:,} bytes")
            with archive.open(info) as stream:
                shape, dtype = read_header(stream)
                if math.prod(shape) * dtype.itemsize != info.file_size - stream.tell():
                    raise ValueError(f"{info.filename} is not an array of its size")
                array = np.frombuffer(stream.read(), dtype).reshape(shape)
            arrays[info.filename.removesuffix(".npy")] = array
    return arrays


def find_member(path: Path, name: str) -> zipfile.ZipInfo:
    """Find array `name` in the .npz at `path`; raises ValueError if it is missing."""
    members = read_members(path)
    if name not in members:
        raise ValueError(f"{path} has no array {name!r}; it holds {sorted(members)}")
    return members[name]


def read_members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The arrays of the .npz at `path` by name; ValueError where it is none, or is cut short."""
    with reading(path, _ARCHIVE), zipfile.ZipFile(path) as archive:
        return {info.filename.removesuffix(".npy"): info for info in zip_members(archive)}


def member_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """The position in the file of a member's first byte, after its local header."""
    with reading(path, _ARCHIVE), path.open("rb") as stream:
        stream.seek(member.header_offset)
        header = stream.read(_LOCAL_HEADER)
        name_length, extra_length = np.frombuffer(header[26:30], dtype="<u2").tolist()
        if header[:4] != b"PK\3\4":
            raise ValueError(f"{member.filename} is not where the directory says")
    return member.header_offset + _LOCAL_HEADER + int(name_length) + int(extra_length)


def map_npy(path: Path, stream: IO[bytes], stop: int | None = None) -> np.ndarray:
    """The .npy that begins where `stream`, open on `path`, is, and ends at byte `stop`, by default
    that of the file.
    """
    with reading(path, "an array"):
        shape, dtype = read_header(stream)
        size, stop = math.prod(shape) * dtype.itemsize, stop or path.stat().st_size
        if stream.tell() + size != stop or not shape:
            raise ValueError(f"its size is not that of {dtype} {shape}, it may be cut short")
        return np.memmap(path, dtype=dtype, mode="r", offset=stream.tell(), shape=shape)


def map_file(path: Path) -> np.ndarray:
    """Map the .npy at `path`."""
    with reading(path, "an array"), path.open("rb") as stream:
        return map_npy(path, stream)


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of the .npy that begins where `stream` is.

    Raises ValueError unless it is an array of numbers or text in C order.
    """
    try:
        major, _ = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_2_0
        if major == 1:
            read = np.lib.format.read_array_header_1_0
        shape, fortran, dtype = read(stream)
    except Exception as error:  # numpy reads the header as Python text
        raise ValueError(f"the header of the array is damaged: {first_line(error)}") from error
    if fortran or dtype.kind not in "biufU" or not dtype.itemsize or min(shape, default=0) < 0:
        raise ValueError(f"expected numbers in C order, got {dtype} {shape}")
    return tuple(map(int, shape)), dtype
