"""Processes that apply one function to jobs as they come, a job at a time each.

    with Workers(decode, count=4, on_result=show) as workers:
        for job in jobs:
            workers.put(job)

A worker ends when its pipe does, so that none outlives a killed parent for longer than its job;
the executors of the standard library wait for ever there.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

_KILLED = "a worker process was killed; run the command again"


def _work_until_closed(function: Callable[[Any], Any], pipe: Connection) -> None:
    try:
        while True:
            job = pipe.recv()
            result, error = None, None
            try:
                result = function(job)
            except Exception as failure:  # handed to the parent, which raises it
                error = failure
            del job  # before the next one comes, so that two are never held
            pipe.send((result, error))
    except (EOFError, ConnectionError):
        return


def _start(process: BaseProcess) -> None:
    """Start a process that is deaf to Ctrl-C and SIGTERM from its first instruction on: they reach
    the whole process group, and the parent decides.
    """
    resource_tracker.ensure_running()  # which `start` would do, and unblock the signals after it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Workers:
    """`count` processes; `put` waits while each has a job.

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
        self._on_result = on_result or (lambda result: None)
        context = multiprocessing.get_context("spawn")  # fork is not safe beside torch's threads
        self._idle: list[Connection] = []
        self._busy: list[Connection] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            arguments = (function, theirs)
            process = context.Process(target=_work_until_closed, args=arguments, daemon=True)
            _start(process)
            theirs.close()
            self._idle.append(ours)
            self._processes.append(process)

    def put(self, job: Any) -> None:
        """Hand one job to a worker that is free."""
        while not self._idle:
            self._collect()
        pipe = self._idle.pop()
        self._busy.append(pipe)
        try:
            pipe.send(job)
        except ConnectionError:
            raise RuntimeError(_KILLED) from None

    def finish(self) -> None:
        """Wait until all jobs are done."""
        while self._busy:
            self._collect()

    def _collect(self) -> None:
        """Take the answers that have come, waiting for one at least."""
        for pipe in wait(self._busy):
            assert isinstance(pipe, Connection)
            self._busy.remove(pipe)
            try:
                result, error = pipe.recv()
            except (EOFError, ConnectionError):  # the latter where a job was left unread
                raise RuntimeError(_KILLED) from None
            self._idle.append(pipe)
            if error is not None:
                raise error
            self._on_result(result)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error, too, each worker ends the job it has: nothing that was made is lost.
        try:
            if error is None:
                self.finish()
        finally:
            for pipe in self._idle + self._busy:
                pipe.close()
            for process in self._processes:
                process.join()


def cpu_count() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
