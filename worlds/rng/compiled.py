"""numba's njit with a cache on disk where one can be written, and without one elsewhere."""

import warnings
from collections.abc import Callable
from typing import Any

from numba import njit

_warned = False


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function for numba: without the GIL, cached on disk if possible.

    Where neither the package's directory nor the user's cache is writable (a read-only container,
    an unknown user), the function is compiled anew in each process, with one warning.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        global _warned
        # numba says only by an error that it found no place for its cache.
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError as error:
            if "cache" not in str(error):
                raise
            if not _warned:
                _warned = True
                warnings.warn(
                    "numba has no writable cache directory, so the loader's kernels are compiled "
                    "in every process: set NUMBA_CACHE_DIR to a writable directory",
                    stacklevel=2,
                )
            return njit(nogil=True, **options)(function)

    return decorate
