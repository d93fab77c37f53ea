"""Numbers that a user gives: integers are integers, and become Python's own."""

import operator
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np


def integer(name: str, value: Any) -> int:
    """Return `value` as an int, from numpy's too; ValueError for a float, text or nothing."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None


def count(name: str, value: Any) -> int:
    """Return `value` as an int above zero; ValueError if it is none."""
    whole = integer(name, value)
    if whole < 1:
        raise ValueError(f"{name} must be 1 or more, got {whole}")
    return whole


def check_positive(name: str, value: int | None) -> None:
    """Raise ValueError for a count below 1; None stands for a default."""
    if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def integers(indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return `indices`, (B,), as an array; ValueError for a mask, or numbers with fractions."""
    array = np.asarray(indices)
    if array.ndim != 1:
        raise ValueError(f"indices must be (B,), got {array.shape}")
    if len(array) and array.dtype.kind not in "iu":
        raise ValueError(f"indices must be integers, got {array.dtype}")
    return array


def plain(value: Any) -> Any:
    """Return numpy's numbers as Python's, sequences and arrays as tuples, a path as text; inside of
    mappings and sequences, too.
    """
    # From the outside in: mappings, arrays, sequences, single values.
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple | range):
        return tuple(plain(one) for one in value)
    return str(value) if isinstance(value, PurePath) else value
