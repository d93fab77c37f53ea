"""Read the folder that torchvision's CIFAR10 downloads (cifar-10-batches-py) without trusting it.

Its files are pickles, which can run code; here only the four names that an array of bytes needs can
be looked up, and anything else is refused.
"""

import codecs
import pickle
from pathlib import Path
from typing import Any, Final

import numpy as np

FOLDER: Final = "cifar-10-batches-py"
TRAIN_FILES: Final = tuple(f"data_batch_{k}" for k in range(1, 6))
TEST_FILES: Final = ("test_batch",)

_RECONSTRUCT: Final[Any] = np.empty(0).__reduce__()[0]  # what a pickled array is rebuilt by
_ALLOWED: Final = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("_codecs", "encode"): codecs.encode,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise ValueError(f"a CIFAR-10 batch holds arrays and lists, not {module}.{name}")
        return _ALLOWED[module, name]


def find_cifar10(path: Path) -> Path | None:
    """The folder of batches at or directly below `path`, None where there is none."""
    for folder in (path, path / FOLDER):
        if (folder / TRAIN_FILES[0]).is_file() or (folder / TEST_FILES[0]).is_file():
            return folder
    return None


def read_batches(folder: Path, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, 32, 32, 3) and int64 (N,) of some batch files, one after the other."""
    images, labels = [], []
    for name in names:
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing: the CIFAR-10 folder is not complete")
        with path.open("rb") as stream:
            try:
                batch = _ArraysOnly(stream, encoding="bytes").load()
                pixels = np.asarray(batch[b"data"]).reshape(-1, 3, 32, 32)
            except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path} is no CIFAR-10 batch, or is damaged: {error}") from error
        images.append(pixels.transpose(0, 2, 3, 1))
        labels.append(np.asarray(batch[b"labels"], dtype=np.int64))
    return np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels)
