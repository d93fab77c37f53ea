"""Make batches ahead of the trainer, in threads, and reuse their memory when nobody holds it."""

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Generator
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import numpy as np

Made = TypeVar("Made")

_DEPTH: Final = 2  # blocks that each thread makes ahead of the one in use


def prefetch(make: Callable[[int], Made], count: int, threads: int) -> Generator[Made, None, None]:
    """Yield `make(0)`, `make(1)`, ... `make(count - 1)`, made ahead by `threads` threads.

    An exception in a thread is raised where its block is asked for. Closing the generator ends the
    threads; it waits for blocks that are being made.
    """
    # The blocks go round among the threads, so that these share nothing: futures of a common pool
    # cost an eighth of the processor time of a block, and a sixth of the samples/s.
    process, workers = os.getpid(), [_Worker(make) for _ in range(min(threads, count))]
    ahead = _DEPTH * len(workers)
    try:
        for number in range(min(ahead, count)):
            workers[number % len(workers)].ask(number)
        for number in range(count):
            if os.getpid() != process:  # its threads stayed behind
                raise RuntimeError("the loop began in the process that forked: begin a new one")
            worker = workers[number % len(workers)]
            made = worker.take()
            if number + ahead < count:
                worker.ask(number + ahead)
            yield made
    finally:
        for worker in workers:
            worker.end()
        for worker in workers:
            worker.join()


class _Worker(threading.Thread):
    """Makes the blocks asked for, one after the other."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        super().__init__(name="worlds", daemon=True)
        self._make, self._ended = make, False
        self._asked: SimpleQueue[int | None] = SimpleQueue()
        self._made: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self.start()

    def ask(self, number: int) -> None:
        self._asked.put(number)

    def take(self) -> Any:
        """Wait for the next block. Raises what `make` raised."""
        made, error = self._made.get()
        if error is not None:
            raise error
        return made

    def end(self) -> None:
        """Leave out what is asked for and not begun."""
        self._ended = True
        self._asked.put(None)

    def run(self) -> None:
        while (number := self._asked.get()) is not None and not self._ended:
            try:
                self._made.put((self._make(number), None))
            except BaseException as error:
                self._made.put((None, error))


@atexit.register
def _end_all() -> None:
    """End the threads of a loop that a program left open, before the interpreter goes."""
    for thread in threading.enumerate():
        if isinstance(thread, _Worker):
            thread.end()
            thread.join()


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
        """Return an uninitialized array (size,); make the tensor from this very object."""
        # Take a buffer that nobody refers to any more and that is large enough.
        with self._lock:
            for k, (memory, last) in enumerate(self._held):
                if last() is None and memory.size >= size and memory.dtype == dtype:
                    view = memory[:size]
                    self._held[k] = memory, weakref.ref(view)
                    return view
            # Else make one; the oldest is forgotten, and freed with its tensors.
            memory = _aligned(size, dtype)
            view = memory[:]
            self._held.append((memory, weakref.ref(view)))
            if len(self._held) > self._limit:
                self._held.pop(0)
            return view


def _aligned(size: int, dtype: np.dtype) -> np.ndarray:
    """Return an uninitialized array at a multiple of 64 bytes, which JAX takes without a copy."""
    raw = np.empty(size * dtype.itemsize + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * dtype.itemsize].view(dtype)
