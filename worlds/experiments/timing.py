"""Time the networks of runs on a few steps, to say how long all will take on this machine."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import torch

from worlds.cli.tables import duration
from worlds.experiments.costs import cost, estimate, seconds
from worlds.experiments.plan import Job
from worlds.experiments.sources import Sources
from worlds.runtime.device import device_name
from worlds.runtime.processes import cpu_count

PATIENCE: Final = 45.0  # seconds, of a dry run


@dataclass(frozen=True)
class Timing:
    """`seconds` is the sum over the runs, one after another on one device of this kind."""

    seconds: float
    timed: int  # networks; the others are scaled from these by multiply-adds
    networks: int
    device: str
    precision: str
    workers: int

    def report(self) -> str:
        """Return a line: hours of a GPU, or the time on this machine with all workers."""
        of = f"{self.timed} of the {self.networks} networks timed, in {self.precision}"
        if self.device != "CPU":
            return f"about {self.seconds / 3600:,.2g} GPU-hours of {self.device}, {of}"
        took = duration(self.seconds / self.workers)
        return f"about {took} on this CPU, {self.workers} at a time, {of}"


def time_runs(
    jobs: Sequence[Job], sources: Sources, devices: Sequence[str], patience: float = PATIENCE
) -> Timing | None:
    """Return what the runs will take on the first device, a worker a device; None where no run
    trains a network, or all begin from other runs.

    The networks whose runs cost most are timed first, each with a worker's share of the CPU threads
    on a few steps and one batch of evaluation; after `patience` seconds no further one is.
    """
    where, before = torch.device(devices[0]), torch.get_num_threads()
    workers = max(1, min(len(devices), len(jobs)))
    groups: dict[tuple[str, ...], list[Job]] = defaultdict(list)
    for job in jobs:
        c = job.config
        if job.data != "none":
            options = sorted(c.options.items())
            groups[job.data, c.arch, str(options), str(c.batch_size), c.precision].append(job)
    work = {key: sum(estimate(job).total_multiply_adds for job in groups[key]) for key in groups}
    # What begins from another run, which may be still to be trained, is not timed.
    new = {key: [job for job in groups[key] if not job.needs] for key in groups}
    if not any(new.values()):
        return None
    ordered = sorted(groups, key=lambda key: (bool(new[key]), work[key]), reverse=True)
    total, started = 0.0, time.monotonic()
    rates: list[float] = []  # seconds a multiply-add
    torch.set_num_threads(max(1, cpu_count() // workers))
    try:
        for key in ordered:
            if not new[key] or (rates and time.monotonic() - started > patience):
                total += work[key] * median(rates)
                continue
            first, data = new[key][0].config, sources.data(new[key][0].data)
            step, image = seconds(first, data, where)
            taken = sum(cost(job.config, data).timed(step, image) for job in groups[key])
            total += taken
            rates.append(taken / max(1, work[key]))
    finally:
        torch.set_num_threads(before)
    precisions = "/".join(sorted({key[-1] for key in groups}))
    name = "CPU" if where.type == "cpu" else device_name(where)
    return Timing(total, len(rates), len(groups), name, precisions, workers)
