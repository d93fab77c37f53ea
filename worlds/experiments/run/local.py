"""Runs in worker processes, one a device: a failed run is reported, and the others go on.

    results = run_jobs(jobs, root, sources, ["cpu", "cpu"], on_progress=..., stopped=...)

A worker trains one run after the other, so that starting Python and torch is paid once. If one is
killed, the next command resumes its run, and another worker takes its place.
"""

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from worlds.experiments.plan import Job
from worlds.experiments.run.worker import start_worker, train_job
from worlds.experiments.sources import Sources
from worlds.runtime.files import is_locked
from worlds.runtime.processes import SPAWN, cpu_count, start_pool

POLL_SECONDS: Final = 0.2
_TAIL_BYTES: Final = 8192  # of the metrics, several rows


@dataclass
class Progress:
    """State of a command's runs, by their names: how each ended, why it failed, which ones
    another process was seen to train, and how far those are that are being trained here.
    """

    ended: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    fraction: dict[str, float] = field(default_factory=dict)

    @property
    def done(self) -> float:
        """Runs, with the parts of those being trained."""
        return len(self.ended) + len(self.failed) + sum(self.fraction.values())

    def notes(self) -> list[str]:
        """Return a line for each run that went wrong, and one if another process trains some."""
        lines = [f"failed {name}: {why}" for name, why in self.failed.items()]
        for name, how in self.ended.items():
            if how == "not_finite":
                lines.append(f"the loss was not finite, ended there: {name}")
        if self.elsewhere:
            lines.append("another process trains some of these runs: they are waited for")
        return lines

    def update(self, running: Iterable[Job], root: Path) -> None:
        """Note how far the running jobs are, by their metrics."""
        self.fraction = {job.name: _updates(job.folder(root)) / job.config.steps for job in running}


def _updates(folder: Path) -> int:
    """Return the updates of a run in training at its last log point; 0 before the first."""
    from worlds.training.run_folder import METRICS

    try:
        with (folder / METRICS).open("rb") as stream:
            # The last whole row.
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL_BYTES))
            *rows, _ = stream.read().split(b"\n")
        return int(json.loads(rows[-1])["updates"])
    except (OSError, ValueError, IndexError):
        return 0


def run_jobs(
    jobs: Sequence[Job],
    root: Path,
    sources: Sources,
    devices: Sequence[str],
    on_progress: Callable[[Progress], None],
    stopped: Callable[[], bool],
) -> Progress:
    """Train `jobs` in one worker a device named; `stopped` is asked, and ends them resumably."""
    progress, waiting = Progress(), deque(jobs)
    devices = devices[: len(jobs)]
    stop, threads = SPAWN.Event(), max(1, cpu_count() // max(1, len(devices)))  # of each worker
    pools: dict[int, ProcessPoolExecutor] = {}  # by worker; one that was killed is replaced
    running: dict[Future[Any], tuple[int, Job]] = {}
    with ExitStack() as stack:
        while waiting or running:
            # Give each idle worker a run, unless another process trains it.
            idle = set(range(len(devices))) - {worker for worker, _ in running.values()}
            for worker in sorted(idle):
                if (job := next_free(waiting, root, progress)) is None:
                    break
                if worker not in pools:
                    pools[worker] = start_pool(1, start_worker, (stop, threads))
                    stack.enter_context(pools[worker])
                task = (job, job.folder(root), sources, devices[worker])
                running[pools[worker].submit(train_job, *task)] = worker, job
            # Note what has ended, and how far the others are.
            done = wait(running, POLL_SECONDS, "FIRST_COMPLETED").done
            for future in done:
                worker, job = running.pop(future)
                try:
                    message = future.result()
                except BrokenProcessPool:
                    del pools[worker]
                    message = {"error": "its worker process was killed"}
                if "ended" in message:
                    progress.ended[job.name] = message["ended"]
                elif "busy" in message:
                    waiting.append(job)
                elif not stop.is_set():
                    progress.failed[job.name] = message["error"]
            if not running and not done:  # other processes train what is waiting
                time.sleep(POLL_SECONDS)
            progress.update((job for _, job in running.values()), root)
            on_progress(progress)
            if stopped():
                stop.set()
                waiting.clear()
    return progress


def next_free(waiting: deque[Job], root: Path, progress: Progress) -> Job | None:
    """Take the first job that no other process trains, and whose run to begin from is finished; the
    others are looked at again later.
    """
    for _ in range(len(waiting)):
        job = waiting.popleft()
        # It begins from a run that failed, from one to come, or is free.
        if job.needs and any(name.endswith(job.needs) for name in progress.failed):
            progress.failed[job.name] = "the run that it begins from failed"
            continue
        if not job.is_ready(root):
            waiting.append(job)
        elif not is_locked(job.folder(root)):
            return job
        else:
            progress.elsewhere.add(job.name)
            waiting.append(job)
    return None
