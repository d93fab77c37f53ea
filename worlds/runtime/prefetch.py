"""Make batches ahead of the trainer, in threads, and reuse their memory when nobody holds it."""

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

import numpy as np

Made = TypeVar("Made")

_DEPTH: Final = 2  # blocks that a thread makes ahead of the one in use


class Prefetcher(Generic[Made]):
    """`make(0)`, `make(1)`, ... `make(count - 1)` in order, made ahead by `threads` threads.

    Thread k makes blocks k, k + threads, ...; an exception in a thread is raised where its block is
    asked for. `close` ends the threads; it waits for a block that is being made.
    """

    def __init__(self, make: Callable[[int], Made], count: int, threads: int) -> None:
        self._make, self._count = make, count
        self._closed, self._process = False, os.getpid()
        # Tokens in a queue rather than a semaphore, which is slower by several microseconds.
        self._room: list[SimpleQueue[None]] = [SimpleQueue() for _ in range(threads)]
        for room in self._room * _DEPTH:
            room.put(None)
        self._ready: list[SimpleQueue[tuple[Made | None, BaseException | None]]]
        self._ready = [SimpleQueue() for _ in range(threads)]
        self._threads = [
            threading.Thread(target=self._run, args=(k,), name=f"worlds-{k}", daemon=True)
            for k in range(threads)
        ]
        _running.add(self)
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Iterator[Made]:
        for number in range(self._count):
            if os.getpid() != self._process:  # its threads stayed behind
                raise RuntimeError("the loop began in the process that forked: begin a new one")
            lane = number % len(self._threads)
            made, error = self._ready[lane].get()
            if error is not None:
                raise error
            self._room[lane].put(None)
            yield made  # type: ignore[misc]

    def close(self) -> None:
        if self._closed:
            return  # at the interpreter's exit, and now by a loop that was still open
        self._closed = True
        for room in self._room:
            room.put(None)
        for thread in self._threads:
            thread.join()
        _running.discard(self)

    def _run(self, lane: int) -> None:
        for number in range(lane, self._count, len(self._threads)):
            self._room[lane].get()
            if self._closed:
                return
            try:
                self._ready[lane].put((self._make(number), None))
            except BaseException as error:
                self._ready[lane].put((None, error))
                return


_running: "weakref.WeakSet[Prefetcher[Any]]" = weakref.WeakSet()


def _close_all() -> None:
    """A thread inside the compiled kernel must not outlive the arrays that it writes to."""
    for prefetcher in list(_running):
        prefetcher.close()


atexit.register(_close_all)


class BufferPool:
    """Memory for batches, used again once the last tensor over it is gone.

    Fresh memory costs a page fault every 4 KiB, 11 to 30 % of the time of a batch. A buffer is
    leased as a view; the tensor made from that very view (`torch.from_numpy`) keeps it alive, and
    so do all tensors and arrays that share the tensor's storage. A buffer whose view has died is
    free. So what a user holds is never written to.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._held: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []

    def __reduce__(self) -> tuple[type["BufferPool"], tuple[int]]:
        return BufferPool, (self._limit,)

    def lease(self, size: int, dtype: np.dtype) -> np.ndarray:
        """An uninitialized array (size,); make the tensor from this object, not from a view."""
        with self._lock:
            for k, (memory, last) in enumerate(self._held):
                if last() is None and memory.size >= size and memory.dtype == dtype:
                    view = memory[:size]
                    self._held[k] = memory, weakref.ref(view)
                    return view
            memory = _aligned(size, dtype)
            view = memory[:]
            self._held.append((memory, weakref.ref(view)))
            if len(self._held) > self._limit:
                self._held.pop(0)
            return view


def _aligned(size: int, dtype: np.dtype) -> np.ndarray:
    """An uninitialized array at a multiple of 64 bytes, which JAX takes without a copy."""
    raw = np.empty(size * dtype.itemsize + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * dtype.itemsize].view(dtype)
