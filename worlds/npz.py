"""Read an array of an uncompressed .npz in place: a member stored without compression is a plain
.npy inside the zip, so it can be memory-mapped where it lies, at no cost in memory.
"""

import zipfile
from pathlib import Path
from typing import IO

import numpy as np

_LOCAL_HEADER = 30  # bytes before the name in a zip's local file header (APPNOTE 4.3.7)


def map_member(path: Path, name: str) -> np.ndarray:
    """Array `name` of the .npz at `path`, read-only, mapped rather than loaded."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no .npz, or is cut short: {error}") from error
    member = members.get(f"{name}.npy")
    if member is None:
        raise ValueError(f"{path} has no array {name!r}; it holds {sorted(members)}")
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(
            f"{path}: {name!r} is compressed, so it cannot be read in place; "
            f"write the arrays again with numpy.savez"
        )
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        header = stream.read(_LOCAL_HEADER)
        name_length, extra_length = np.frombuffer(header[26:30], dtype="<u2").tolist()
        stream.seek(member.header_offset + _LOCAL_HEADER + name_length + extra_length)
        return map_npy(path, stream)


def map_npy(path: Path, stream: IO[bytes]) -> np.ndarray:
    """The .npy that begins where `stream`, open on `path`, stands."""
    major, _ = np.lib.format.read_magic(stream)
    read = (
        np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(stream)
    if dtype.hasobject or fortran:
        raise ValueError(f"{path}: expected a plain array in C order, got {dtype}")
    try:
        return np.memmap(path, dtype=dtype, mode="r", offset=stream.tell(), shape=shape)
    except ValueError as error:
        raise ValueError(f"{path} is cut short: {error}") from error
