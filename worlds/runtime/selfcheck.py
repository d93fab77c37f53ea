"""A fast path checks itself at its first use on a device: it makes one small batch, and where that
differs from the plain path's, or fails, the plain path takes over with one warning.

    if passes("Triton augmentation", device, lambda: torch.equal(fast(x), plain(x)), "PyTorch"):

What has passed is remembered for the device, the driver and the versions, in the cache directory; a
failure only for this process, since it may have been the moment's (a lack of memory).
"""

import hashlib
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import torch

from worlds.runtime.device import cuda_versions, device_name
from worlds.runtime.errors import first_line
from worlds.runtime.files import atomic_write

_known: Final[dict[str, bool]] = {}  # of this process, by `_fingerprint`


def passes(path: str, device: torch.device, trial: Callable[[], bool], instead: str) -> bool:
    """Return whether a fast path may be used on a device.

    `path` names it with all options that make another program of it. `trial` returns whether its
    result is right, and may raise; torch's generators are put back after it. `instead` is what the
    caller takes otherwise, for the warning.
    """
    # Known from this process, or from a file of an earlier one.
    key = _fingerprint(path, device)
    if key not in _known:
        stamp = _directory() / key
        _known[key] = stamp.is_file() or _try(path, device, trial, instead)
        if _known[key] and not stamp.is_file():
            _remember(stamp, path)
    return _known[key]


def _try(path: str, device: torch.device, trial: Callable[[], bool], instead: str) -> bool:
    # The check must not change what a run draws afterwards.
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            found = "" if trial() else "its result differs from the plain path's"
    except Exception as error:  # of CUDA, Triton, a C compiler: whatever, the plain path is there
        found = f"{type(error).__name__}: {first_line(error)}"
    if found:
        versions = ", ".join(f"{name} {value}" for name, value in _versions().items())
        warnings.warn(
            f"{path} failed its check on {device_name(device)}, {instead} is used: {found}. "
            f"Please report this line ({versions})",
            RuntimeWarning,
            stacklevel=3,
        )
    return not found


def _versions() -> dict[str, str]:
    found = {"torch": torch.__version__, **cuda_versions()}
    with suppress(PackageNotFoundError):  # run from a source tree
        found["deep-bootstrap"] = version("deep-bootstrap")
    return found


def _fingerprint(path: str, device: torch.device) -> str:
    named = [path, device_name(device), *map(str, _versions().items())]
    return hashlib.sha256("\n".join(named).encode()).hexdigest()


def _directory() -> Path:
    named = os.environ.get("DEEP_BOOTSTRAP_CACHE")
    cache = Path(named).expanduser() if named else Path.home() / ".cache" / "deep-bootstrap"
    return cache / "checks"


def _remember(stamp: Path, path: str) -> None:
    with suppress(OSError), atomic_write(stamp) as stream:  # else the next process checks again
        stream.write(f"{path}\n".encode())
