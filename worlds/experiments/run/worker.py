"""One run, trained to its end in this process: what a worker process and a Ray task do."""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING

from worlds.experiments.plan import Job
from worlds.experiments.registry import Data
from worlds.experiments.sources import Sources
from worlds.runtime.errors import first_line
from worlds.runtime.files import Busy
from worlds.runtime.processes import keep_freed_memory

if TYPE_CHECKING:
    from worlds.training.build import Data as RunData

_stop: list[Event] = []  # of this worker process


class _Stopped(Exception):
    """The command asked its workers to stop."""


def start_worker(stop: Event, threads: int) -> None:
    """Prepare a worker process that trains until `stop` is set, with `threads` CPU threads unless
    $OMP_NUM_THREADS says otherwise.
    """
    import torch

    keep_freed_memory()
    _stop.append(stop)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)


def train_job(job: Job, folder: Path, sources: Sources, device: str) -> dict[str, str]:
    """Train a run in a worker process; as `run_job`, or {"stopped": ""} with the state saved."""

    def on_step(updates: int) -> None:
        if _stop[0].is_set():
            raise _Stopped

    try:
        return run_job(job, folder, sources, device, on_step)
    except _Stopped:
        return {"stopped": ""}


def run_job(
    job: Job,
    folder: Path,
    sources: Sources,
    device: str,
    on_step: Callable[[int], None] = lambda updates: None,
) -> dict[str, str]:
    """Train a run in `folder`; return {"ended": how} as its summary says, {"error": "one line"}, or
    {"busy": "one line"} if another process trains it. Other exceptions of `on_step` pass through,
    with the state saved.
    """
    try:
        return {"ended": _train(job, folder, sources, device, on_step)}
    except Busy as busy:
        return {"busy": str(busy)}
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        return {"error": f"{type(error).__name__}: {first_line(error)}"}


@cache
def _data_of(sources: Sources) -> "Callable[[Data], RunData]":
    """Open each kind of data once a process, which trains one run after the other."""
    return cache(sources.data)


def _train(
    job: Job, folder: Path, sources: Sources, device: str, on_step: Callable[[int], None]
) -> str:
    from worlds.experiments import linear_regression as toy
    from worlds.experiments import sheets
    from worlds.training.run_folder import read_run
    from worlds.training.stepper import NotFinite
    from worlds.training.train import train

    # The toy example and sample sheets train no network.
    if job.config.arch == toy.ARCH:
        toy.write_run(folder, job.config)
        return "schedule"
    if job.config.arch == sheets.ARCH:
        data = _data_of(sources)(job.data)
        accuracy = sources.labeler_accuracy(job.data)
        sheets.run_sheet(folder, job.config, data, accuracy)
        return "schedule"
    # All other runs are the trainer's.
    with suppress(NotFinite):  # the summary says so
        train(job.config, _data_of(sources)(job.data), folder, device=device, on_step=on_step)
    summary = read_run(folder).summary
    assert summary is not None
    return summary.ended
