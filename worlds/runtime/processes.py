"""Worker processes: a process pool of the standard library that a batch system can stop cleanly.

with Workers(decode, count=4, on_result=show) as workers:
    for job in jobs:
        workers.put(job)
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Any, Final

from worlds.runtime.checks import check_positive

_TRIM_THRESHOLD: Final = -1  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_MMAP_THRESHOLD: Final = -3

KILLED: Final = "a worker process was killed; run the command again"


class _Process(SpawnProcess):
    """A spawned process that ignores Ctrl-C and SIGTERM from its first instruction on: they reach
    the whole process group, and the parent decides. It does not run the user's script again.
    """

    def start(self) -> None:
        resource_tracker.ensure_running()  # `start` would do it, and unblock the signals
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        script, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = script
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    terminate = SpawnProcess.kill  # what a pool does with the others when one was killed


class _Context(SpawnContext):
    Process = _Process


SPAWN: Final = _Context()  # fork is not safe beside torch's threads


def start_pool(
    count: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """Start `count` worker processes, which end at once when this process is killed."""
    # The pool would start its processes one by one as jobs come.
    arguments = (initializer, initargs)
    pool = ProcessPoolExecutor(count, SPAWN, initializer=_begin, initargs=arguments)
    for _ in range(count):
        pool.submit(int)  # starts a process
    return pool


def _begin(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def start_process(function: Callable[..., None], *arguments: Any) -> Connection:
    """Start a process that runs function(connection, *arguments), and ends when this one does;
    return the other end of the connection.
    """
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_run, args=(function, there, *arguments), daemon=True)
    process.start()
    there.close()  # the process has its own: once it ends, `here` is at its end
    return here


def _run(function: Callable[..., None], *arguments: Any) -> None:
    _begin(None, ())
    function(*arguments)


class Workers:
    """`count` processes that apply one function to jobs; `put` waits while each has a job.

    `function` is a module's function, its jobs and results can be pickled. `on_result` is called in
    this process with each result, in the order they come. An error in a worker is raised by the
    next `put` or by `finish`. Leaving the `with` block without an exception waits for every job.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        count: int = 1,
        on_result: Callable[[Any], None] | None = None,
    ) -> None:
        if count < 1:
            raise ValueError(f"there must be at least 1 worker process, got {count}")
        self._function, self._count = function, count
        self._on_result = on_result or (lambda result: None)
        self._pool = start_pool(count)
        self._running: set[Future[Any]] = set()

    def put(self, job: Any) -> None:
        """Hand one job to a worker that is free."""
        # Jobs wait here, not in the pool: what they hold would pile up there.
        while len(self._running) >= self._count:
            self._collect()
        try:
            self._running.add(self._pool.submit(self._function, job))
        except BrokenProcessPool:
            raise RuntimeError(KILLED) from None

    def finish(self) -> None:
        """Wait until all jobs are done."""
        while self._running:
            self._collect()

    def _collect(self) -> None:
        """Take the results that have come, waiting for one at least."""
        done, self._running = wait(self._running, return_when=FIRST_COMPLETED)
        for future in done:
            try:
                result = future.result()
            except BrokenProcessPool:
                raise RuntimeError(KILLED) from None
            self._on_result(result)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error, too, each worker ends the job it has: nothing that was made is lost.
        try:
            if kind is None:
                self.finish()
        finally:
            self._pool.shutdown()


def in_workers(function: Callable[[Any], Any], jobs: Sequence[Any], count: int) -> Iterator[Any]:
    """Yield the result of each job, in the order they come, from up to `count` processes: none are
    started that would have no job. As `Workers` otherwise.
    """
    if not jobs:
        return
    results: deque[Any] = deque()
    with Workers(function, min(count, len(jobs)), results.append) as workers:
        for job in jobs:
            workers.put(job)
            while results:
                yield results.popleft()
        workers.finish()
        yield from results


def cpu_count() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_count(workers: int | None) -> int:
    """Return `workers`, by default one a CPU; ValueError below 1."""
    check_positive("workers", workers)
    return cpu_count() if workers is None else workers


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, where the C library is glibc.

    A network's activations are freed and asked for again at every batch; to give them back to the
    system each time takes a tenth of a small training on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 << 20)  # bytes, the most that it takes
        mallopt(_TRIM_THRESHOLD, 1 << 30)
