"""Load pickles of arrays without trusting them.

A pickle can call any function. Here it can only build dicts, lists, text, numbers, and arrays of
numbers: every numpy name that a pickled array needs is replaced by a class of this module, which
checks sizes before it makes an array of bytes that are really in the file.
"""

import io
import math
import pickle
from typing import Any, Final

import numpy as np

_KINDS: Final = "biuf"  # booleans, integers, floats: nothing that holds addresses


class _DType:
    """Stands for numpy.dtype: a type code, then a byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str | bytes):
            raise ValueError(f"unexpected dtype {code!r}")
        self.code, self.order = code if isinstance(code, str) else code.decode("ascii"), "="

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError(f"unexpected byte order {state[1]!r}")
        self.order = state[1]

    def resolve(self) -> np.dtype:
        dtype = np.dtype(self.code)
        if self.order in ("<", ">"):
            dtype = np.dtype(self.order + dtype.str[1:])
        if dtype.kind not in _KINDS:
            raise ValueError(f"arrays must hold numbers, got dtype {self.code!r}")
        return dtype


class _Array:
    """Stands for numpy.ndarray as its reconstruction function returns it: empty, then a state."""

    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _from_bytes(data, dtype, shape, "F" if fortran else "C")


def _from_bytes(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    if not isinstance(dtype, _DType) or not isinstance(data, bytes | bytearray):
        raise ValueError("an array's data must be bytes of a numeric dtype")
    resolved, sizes = dtype.resolve(), tuple(int(n) for n in shape)
    if min(sizes, default=0) < 0 or math.prod(sizes) * resolved.itemsize != len(data):
        raise ValueError(f"{len(data):,} bytes do not make {resolved} {sizes}")
    return np.frombuffer(data, resolved).reshape(sizes, order="F" if order == "F" else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any, data: Any) -> Any:
    return _from_bytes(data, dtype, (1,), "C")[0].item()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    return _from_bytes(data, dtype, shape, order)  # as pickle protocol 5 stores arrays


def _encode(text: Any, encoding: str = "latin1") -> bytes:
    """Return bytes as pickle protocols 0 to 2 store them."""
    if encoding != "latin1" or not isinstance(text, str):
        raise ValueError(f"unexpected encoding {encoding!r}")
    return text.encode("latin1")


_NAMES: Final[dict[tuple[str, str], Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}


class _ArraysOnly(pickle._Unpickler):
    """In Python: the C version allocates whatever a damaged length or memo index asks for."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise ValueError(f"the file may hold arrays and lists, not {module}.{name}")
        return _NAMES[module, name]


def load_arrays(data: bytes) -> dict[str, Any]:
    """Load a pickled dict; its keys become text, its arrays numpy arrays.

    Raises ValueError for anything else, in one line.
    """
    try:
        found = _ArraysOnly(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(found, dict):
            raise ValueError(f"expected a dict, got {type(found).__name__}")
        return {_text(key): _plain(value) for key, value in found.items()}
    except Exception as error:  # a damaged pickle raises whatever its opcodes stumble over
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"not a pickle of arrays: {reason[:200]}") from error


def _text(key: Any) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value
