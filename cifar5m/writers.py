"""Writer processes: PNG encoding and tar writing beside the device's work.

One core encodes and writes about 2,000 images a second (benchmarks/generation.py), a thousand times
what a GPU makes with the default recipe, so one writer is the default; few-step samplers want more.
A writer ends when its pipe does, so that none outlives a killed parent for longer than its shard.
"""

import multiprocessing
import signal
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from worlds.layout import Shard
from worlds.shards import encode_png, write_shard

Job = tuple[Path, Shard, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


def _write_until_closed(pipe: Connection) -> None:
    # Ctrl-C and a batch system's SIGTERM reach the whole process group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        while True:
            folder, shard, images, labels, probabilities, facts = pipe.recv()
            error: Exception | None = None
            try:
                samples = (encode_png(image) for image in images)
                write_shard(folder, shard, samples, labels, probabilities, facts)
            except Exception as failure:  # handed to the parent, which raises it
                error = failure
            pipe.send((shard, error))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


class ShardWriters:
    """A few processes that write shards; `put` waits while each has one to write.

    An error in a writer is raised by the next `put` or by `finish`. Leaving the `with` block
    without an exception waits for everything to be written.
    """

    def __init__(self, count: int = 1) -> None:
        if count < 1:
            raise ValueError(f"there must be at least 1 writer process, got {count}")
        context = multiprocessing.get_context("spawn")  # fork is not safe beside torch's threads
        self._idle: list[Connection] = []
        self._busy: list[Connection] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_write_until_closed, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._idle.append(ours)
            self._processes.append(process)

    def put(self, job: Job) -> None:
        """Hand one shard to a writer that is free."""
        while not self._idle:
            self._collect()
        pipe = self._idle.pop()
        self._busy.append(pipe)
        pipe.send(job)

    def finish(self) -> None:
        """Wait until all shards are written."""
        while self._busy:
            self._collect()

    def _collect(self) -> None:
        """Take the answers that have come, waiting for one at least."""
        for pipe in wait(self._busy):
            assert isinstance(pipe, Connection)
            self._busy.remove(pipe)
            try:
                _, error = pipe.recv()
            except EOFError:
                raise RuntimeError("a writer process was killed; run the command again") from None
            self._idle.append(pipe)
            if error is not None:
                raise error

    def __enter__(self) -> "ShardWriters":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error, too, each writer ends the shard it has: nothing that was made is lost.
        try:
            if error is None:
                self.finish()
        finally:
            for pipe in self._idle + self._busy:
                pipe.close()
            for process in self._processes:
                process.join()
