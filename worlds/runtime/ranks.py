"""Many processes, one job: a static split of its parts by rank.

A process does every WORLD_SIZE-th part from RANK on. torchrun sets the two; in a SLURM array or
step they are read from SLURM's own variables. The shell of an sbatch job is no step, whatever
SLURM_NTASKS says: it does everything. There is no process group, no lock and no heartbeat:
parts are idempotent, so whatever was not finished is done by running the command again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Part = TypeVar("Part")

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

    def share(self, parts: Sequence[Part]) -> list[Part]:
        """Return this process's share of the parts."""
        return list(parts[self.rank :: self.world_size])

    def describe(self, parts: int, planned: int) -> str:
        """Return a line that says this process's share."""
        return (
            f"rank {self.rank} of {self.world_size} makes {parts:,} of the {planned:,} shards; "
            "the other ranks make the rest"
        )


def rank_of(environment: Mapping[str, str]) -> Rank | None:
    """Return the rank that torchrun or SLURM gave this process, None if neither did."""

    def number(name: str) -> int:
        value = environment.get(name, "0")
        if not value.isdigit():
            raise ValueError(f"{name} must be a number, got {value!r}")
        return int(value)

    # torchrun says it all.
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Rank(number("RANK"), number("WORLD_SIZE"), number("LOCAL_RANK"))
    tasks = max(1, number("SLURM_STEP_NUM_TASKS"))  # of srun; each is a rank of its own
    task_rank = number("SLURM_PROCID") if tasks > 1 else 0
    # The tasks of an array, each of which may be several processes.
    if all(name in environment for name in _SLURM_ARRAY):
        task, first, count = (number(name) for name in _SLURM_ARRAY)
        if task - first >= count:
            raise ValueError(
                "a SLURM array's tasks must be numbered without gaps, as --array=0-7; finished "
                "shards are skipped, so submit the whole array again"
            )
        local = number("SLURM_LOCALID") if tasks > 1 else 0
        return Rank((task - first) * tasks + task_rank, count * tasks, local)
    return Rank(task_rank, tasks, number("SLURM_LOCALID")) if tasks > 1 else None
