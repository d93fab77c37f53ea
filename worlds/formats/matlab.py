"""Read arrays of .mat files by scipy, in a process of its own: a corrupt file may crash it."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from worlds.formats.npz import load_npz
from worlds.runtime.errors import reading

_LARGEST: Final = 1 << 31  # bytes of an array; SVHN's largest has 1.6 GB
_PROGRAM: Final = """
import sys, numpy, scipy.io
path, out, *names = sys.argv[1:]
arrays = {}
for name in names:
    variable, _, field = name.partition(".")
    value = scipy.io.loadmat(path, squeeze_me=bool(field), variable_names=[variable])[variable]
    arrays[name] = numpy.array(value[field].tolist() if field else value, order="C")
numpy.savez(out, **arrays)
"""


def load_mat(path: Path, expected: str, *names: str) -> dict[str, np.ndarray]:
    """Load variables of a .mat file, or fields of a structure as "variable.field".

    Raises ValueError that says what was `expected` if one is missing or the file is corrupt.
    """
    if find_spec("scipy") is None:
        raise ValueError(f"{path} needs scipy to be read: pip install scipy")
    with reading(path, expected), TemporaryDirectory() as folder:
        out = Path(folder, "arrays.npz")
        command = [sys.executable, "-c", _PROGRAM, str(path), str(out), *names]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise ValueError(said[-1] if said else f"scipy ended with {done.returncode}")
        return load_npz(out, _LARGEST)
