"""Many processes, one folder: a static split of the shards, and local processes for several GPUs.

A process does every WORLD_SIZE-th shard from RANK on. torchrun sets the two; in a SLURM array or
step they are read from SLURM's own variables. There is no process group, no lock and no heartbeat:
shards are idempotent, so whatever was not finished is done by running the command again.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worlds.formats.layout import Shard
from worlds.formats.shards import is_finished
from worlds.runtime.processes import cpu_count
from worlds.runtime.signals import PARENT

_POLL_SECONDS = 0.5
_SLURM_ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")


@dataclass(frozen=True)
class Rank:
    """This process is `rank` of `world_size`; `local_rank` picks the GPU."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"RANK must be in [0, WORLD_SIZE), got RANK={self.rank} of {self.world_size}"
            )

    def share(self, shards: Sequence[Shard]) -> list[Shard]:
        """This process's part of the shards."""
        return list(shards[self.rank :: self.world_size])


def rank_of(environment: Mapping[str, str]) -> Rank | None:
    """The rank that torchrun or SLURM gave this process, None where neither did."""

    def number(name: str) -> int:
        value = environment.get(name, "0")
        if not value.isdigit():
            raise ValueError(f"{name} must be a number, got {value!r}")
        return int(value)

    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Rank(number("RANK"), number("WORLD_SIZE"), number("LOCAL_RANK"))
    if all(name in environment for name in _SLURM_ARRAY):
        task, first, count = (number(name) for name in _SLURM_ARRAY)
        if task - first >= count:
            raise ValueError(
                "a SLURM array's tasks must be numbered without gaps, as --array=0-7; finished "
                "shards are skipped, so submit the whole array again"
            )
        return Rank(task - first, count, 0)
    if number("SLURM_NTASKS") > 1:
        return Rank(number("SLURM_PROCID"), number("SLURM_NTASKS"), number("SLURM_LOCALID"))
    return None


def run_workers(
    arguments: Sequence[str],
    count: int,
    folder: Path,
    shards: Sequence[Shard],
    fingerprint: str,
    on_finished: Callable[[int], None],
    stop_signal: Callable[[], int | None],
) -> int:
    """Run `count` copies of the command on this machine, one rank each.

    `on_finished(images)` is told of shards as their records appear. A stop signal is handed on to
    all workers. Returns the largest exit code.
    """
    workers = [_start(arguments, rank, count) for rank in range(count)]
    waiting = [shard for shard in shards if not is_finished(folder, shard, fingerprint)]
    told = False
    while any(worker.poll() is None for worker in workers):
        time.sleep(_POLL_SECONDS)
        if stop_signal() is not None and not told:
            told = True
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
        waiting = _report_finished(folder, waiting, fingerprint, on_finished)
    _report_finished(folder, waiting, fingerprint, on_finished)
    return max(abs(worker.returncode) for worker in workers)


def _report_finished(
    folder: Path, waiting: list[Shard], fingerprint: str, on_finished: Callable[[int], None]
) -> list[Shard]:
    still = []
    for shard in waiting:
        if is_finished(folder, shard, fingerprint):
            on_finished(len(shard))
        else:
            still.append(shard)
    return still


def _start(arguments: Sequence[str], rank: int, count: int) -> subprocess.Popen[bytes]:
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
