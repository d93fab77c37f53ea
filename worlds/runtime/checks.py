"""Numbers that a user gives: integers are integers, and become Python's own."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np


def integer(name: str, value: Any) -> int:
    """`value` as an int, from numpy's integers too; ValueError for a float, text or nothing."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None


def count(name: str, value: Any) -> int:
    """`value` as an int above zero; ValueError if it is none."""
    whole = integer(name, value)
    if whole < 1:
        raise ValueError(f"{name} must be 1 or more, got {whole}")
    return whole


def check_positive(name: str, value: int | None) -> None:
    """Raise ValueError for a count below 1; None stands for a default."""
    if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def integers(indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """`indices`, (B,), as an array; ValueError for a mask, or numbers that are no integers."""
    array = np.asarray(indices)
    if array.ndim != 1:
        raise ValueError(f"indices must be (B,), got {array.shape}")
    if len(array) and array.dtype.kind not in "iu":
        raise ValueError(f"indices must be integers, got {array.dtype}")
    return array
