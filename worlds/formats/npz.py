"""Read an array of an uncompressed .npz in place: a member stored without compression is a plain
.npy inside the zip, so it can be memory-mapped where it lies, at no cost in memory.
"""

import math
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np

_LOCAL_HEADER = 30  # bytes before the name in a zip's local file header (APPNOTE 4.3.7)


def map_member(path: Path, name: str) -> np.ndarray:
    """Array `name` of the .npz at `path`, read-only, mapped rather than loaded."""
    member = find_member(path, name)
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(
            f"{path}: {name!r} is compressed, so it cannot be read in place; "
            f"write the arrays again with numpy.savez"
        )
    with path.open("rb") as stream:
        stream.seek(member_offset(path, member))
        return map_npy(path, stream)


def load_npz(path: Path, most_bytes: int) -> dict[str, np.ndarray]:
    """Load all arrays of an .npz; nothing larger than `most_bytes` is allocated.

    numpy's own loader believes the sizes that a file declares. Raises ValueError with the path if
    an array is too large, cut short, corrupt, or not of numbers.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.file_size > most_bytes:
                    raise ValueError(f"{info.filename} declares {info.file_size:,} bytes")
                with archive.open(info) as stream:
                    shape, fortran, dtype = read_header(stream)
                    size = math.prod(shape) * dtype.itemsize
                    if dtype.hasobject or fortran or size != info.file_size - stream.tell():
                        raise ValueError(f"{info.filename} is not a plain array of its size")
                    array = np.frombuffer(stream.read(), dtype).reshape(shape)
                arrays[info.filename.removesuffix(".npy")] = array
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise ValueError(f"{path} is corrupt, or not an .npz of arrays: {error}") from error
    return arrays


def find_member(path: Path, name: str) -> zipfile.ZipInfo:
    """Find array `name` in the .npz at `path`; raises ValueError if it is missing."""
    members = read_members(path)
    if name not in members:
        raise ValueError(f"{path} has no array {name!r}; it holds {sorted(members)}")
    return members[name]


def read_members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The arrays of the .npz at `path` by name; ValueError where it is none, or is cut short."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not an .npz, or is cut short: {error}") from error


def member_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """The position in the file of a member's first byte, after its local header."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        header = stream.read(_LOCAL_HEADER)
    name_length, extra_length = np.frombuffer(header[26:30], dtype="<u2").tolist()
    return member.header_offset + _LOCAL_HEADER + int(name_length) + int(extra_length)


def map_npy(path: Path, stream: IO[bytes]) -> np.ndarray:
    """The .npy that begins where `stream`, open on `path`, stands."""
    shape, fortran, dtype = read_header(stream)
    if dtype.hasobject or fortran:
        raise ValueError(f"{path}: expected a plain array in C order, got {dtype}")
    try:
        return np.memmap(path, dtype=dtype, mode="r", offset=stream.tell(), shape=shape)
    except ValueError as error:
        raise ValueError(f"{path} is cut short: {error}") from error


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and dtype of the .npy that begins where `stream` stands."""
    major, _ = np.lib.format.read_magic(stream)
    try:
        if major == 1:
            return np.lib.format.read_array_header_1_0(stream)
        return np.lib.format.read_array_header_2_0(stream)
    except (TokenError, SyntaxError) as error:  # numpy reads a header of version 1 as Python text
        raise ValueError("the header of the array is damaged") from error
