"""Several processes on this machine, one a GPU or as many as asked: each is cifar5m-generate with a
rank of its own, and this one watches the shards appear.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cifar5m.sampling.job import Options
from worlds.formats.dataset import DatasetFolder
from worlds.formats.layout import Shard
from worlds.runtime.processes import cpu_count
from worlds.runtime.progress import Phase
from worlds.runtime.signals import PARENT

_POLL_SECONDS = 0.5


def run_workers(arguments: Sequence[str], count: int, dataset: DatasetFolder, phase: Phase) -> None:
    """Run `count` copies of the command with these arguments, one rank each.

    `phase` counts images as the records of their shards appear. If it raises, the workers are
    stopped and awaited first. Raises RuntimeError if a worker fails, which has said why on stderr.
    """
    # The workers write; this process only counts what appears.
    workers = [_start(arguments, rank, count) for rank in range(count)]
    waiting = dataset.unfinished()
    stopped: BaseException | None = None
    while any(worker.poll() is None for worker in workers):
        time.sleep(_POLL_SECONDS)
        try:
            waiting = report_finished(dataset, waiting, phase)
        except BaseException as error:  # the callback is not called again
            stopped, phase = error, Phase(phase.name, phase.total, None)
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
    report_finished(dataset, waiting, phase)
    # Workers that were told to stop have no error of their own.
    if stopped is not None:
        raise stopped
    if any(worker.returncode for worker in workers):
        codes = sorted({worker.returncode for worker in workers} - {0})
        raise RuntimeError(f"worker processes failed with exit code {', '.join(map(str, codes))}")


def report_finished(dataset: DatasetFolder, waiting: list[Shard], phase: Phase) -> list[Shard]:
    """Count the shards that have appeared since, and return those that are still waited for."""
    left = dataset.unfinished(waiting)
    phase(sum(map(len, waiting)) - sum(map(len, left)))
    return left


def worker_arguments(out: Path, options: Options, device: str, writers: int) -> list[str]:
    """Return the arguments of cifar5m-generate that make one worker's share of a run."""
    # Options by the names of the parameters; flags that are off are left out.
    given: dict[str, Any] = asdict(options) | {"out": out, "device": device, "writers": writers}
    arguments = ["--quiet"]
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, dict):
            value = ",".join(f"{key}={count}" for key, count in value.items())
        if value is True:
            arguments.append(option)
        elif value is not None and value is not False:
            arguments.append(f"{option}={value}")
    return arguments


def _start(arguments: Sequence[str], rank: int, count: int) -> subprocess.Popen[bytes]:
    # The CPUs are shared, unless the user has shared them.
    threads = max(1, cpu_count() // count)
    environment = os.environ | {
        "RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_RANK": str(rank),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        PARENT: str(os.getpid()),
    }
    command = [sys.executable, "-m", "cifar5m.commands.generate", *arguments]
    # A process group of its own, so that Ctrl-C reaches the workers once, through this process.
    return subprocess.Popen(command, env=environment, start_new_session=True)
