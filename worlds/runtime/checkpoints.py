"""Files of torch.save: nothing but tensors and plain values, and no flipped bit unnoticed."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, Final

import torch

from worlds.runtime.files import BoundedReads, atomic_write, zip_members

_BLOCK: Final = 1 << 16  # bytes that a reader may ask for whatever the file holds


def save_checkpoint(path: Path, state: Any) -> None:
    """Write a state by torch.save, atomically.

    Through memory: torch's own writer hides why a write fails, a full disk above all.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_write(path) as stream:
        stream.write(buffer.getbuffer())


def load_checkpoint(file: Path | io.BytesIO, device: str | torch.device = "cpu") -> Any:
    """Load a file of torch.save with `weights_only`, after checking its CRCs.

    torch.load itself does not check them. Raises ValueError if a part of the file is corrupt, and
    whatever torch raises for a file of another kind.
    """
    # torch's format since 1.6 is a zip: check every member's CRC.
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            zip_members(archive)
            if (corrupt := archive.testzip()) is not None:
                raise ValueError(f"{corrupt} inside is corrupt: its checksum does not match")
    elif isinstance(file, Path):  # of an old form, whose lengths may ask for any memory
        with file.open("rb") as stream:
            most = file.stat().st_size + _BLOCK
            return _load(BoundedReads(stream, most), device)
    if isinstance(file, io.BytesIO):
        file.seek(0)
    return _load(file, device)


def _load(file: Any, device: str | torch.device) -> Any:
    try:
        return torch.load(file, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:  # whose message advises to trust the file
        raise ValueError("it holds more than tensors and plain values") from error
