"""Errors of other libraries, told in one line."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def printable(text: str) -> str:
    """Return text on one line, without control characters: a foreign file's names may hold them."""
    return "".join(char if char.isprintable() else "?" for char in text)


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is short, in whatever library it came up."""
    told = ("can't allocate memory", "failed to map segment", "Cannot allocate memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in told)


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Raise whatever a library stumbles over in a foreign file as one ValueError that names it.

    A corrupt file brings up errors of any type in a reader. `expected` ends "PATH is corrupt, or
    not ...". That memory is short, or that a file cannot be read, is not the content's fault.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise ValueError(f"{path} is not a file: expected {expected}")
    try:
        yield
    except Exception as error:
        if lacks_memory(error):
            raise
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        # Anything else is a sign of a corrupt file.
        what = f"no {error}" if isinstance(error, KeyError) else first_line(error)
        what = printable(what[:300])
        raise ValueError(f"{path} is corrupt, or not {expected}: {what}") from error
