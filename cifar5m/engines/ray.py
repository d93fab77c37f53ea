"""Generation on a Ray cluster: an actor a GPU, or a CPU where there is none, with the networks
resident, and shards as tasks that may be done twice.

    with connect("auto") as ray:
        generate_on_ray(ray, dataset, options, phase)

The directory is on a file system that all nodes share; all have the package installed.
An actor that dies with its node gives its shard back; where nodes join, actors are added. A shard
counts as made when its record is there, whoever wrote it, so the end is that of a single process.
"""

import platform
from pathlib import Path
from typing import Any

from cifar5m.engines.local import report_finished
from cifar5m.sampling.job import GeneratedPlan, Options
from worlds.formats.dataset import DatasetFolder
from worlds.formats.layout import PLAN, Shard
from worlds.formats.plan import differences, load_plan
from worlds.runtime.errors import first_line
from worlds.runtime.progress import Phase
from worlds.runtime.ray import ActorPool


class ShardMaker:
    """Ray actor: both networks on one device; makes the shards it is given."""

    def __init__(self, folder: str, options: Options, plan: GeneratedPlan, device: str) -> None:
        from cifar5m.sampling.job import find_sources, load_job, plan_of

        # Every node must see the directory and agree with its plan.
        self.folder = Path(folder)
        host = platform.node()
        if not (self.folder / PLAN).is_file():
            raise ValueError(f"{host} does not see {folder}: `out` must be on shared storage")
        sources = find_sources(options)
        own = plan_of(options, sources)
        if not own.fingerprint == plan.fingerprint == load_plan(self.folder).fingerprint:
            found = "; ".join(differences(plan.content(), own.content())) or "the plan in --out"
            raise ValueError(f"{host} would make another set, differing: {found}")
        self.job = load_job(options, sources, plan, device)

    def make(self, shard: Shard) -> None:
        """Make one shard, unless another actor has."""
        from cifar5m.sampling.generate import generate_shards
        from worlds.formats.writers import write_job

        generate_shards(self.folder, self.job, [shard], write_job)


def generate_on_ray(
    ray: Any, dataset: DatasetFolder, options: Options, phase: Phase, most_actors: int | None = None
) -> None:
    """Make every shard of the dataset that is not finished yet, on the whole cluster.

    `phase` is called twice a second and may raise. Raises RuntimeError if a shard cannot be made.
    """
    pool = _Pool(ray, dataset, options, most_actors)
    waiting = dataset.unfinished()
    pool.queue.extend(waiting)
    try:
        while waiting:
            pool.step()
            waiting = report_finished(dataset, waiting, phase)
            if waiting and not pool.queue and not pool.running:
                # Made, but not seen: a network file system may be behind; else it was lost.
                pool.queue.extend(waiting)
    finally:
        pool.close()


class _Pool(ActorPool):
    """Actors that make shards; what one refuses, or a shard raises, ends the run."""

    def __init__(
        self, ray: Any, dataset: DatasetFolder, options: Options, most_actors: int | None
    ) -> None:
        super().__init__(ray, most_actors)
        self._arguments = (str(dataset.path.resolve()), options, dataset.plan)

    def start(self, share: dict[str, int], device: str) -> Any:
        return self.ray.remote(**share)(ShardMaker).remote(*self._arguments, device)

    def submit(self, actor: Any, item: Shard) -> Any:
        return actor.make.remote(item)

    def failed(self, item: Shard, error: Exception) -> None:
        raise RuntimeError(first_line(error)) from error

    def died(self, error: Exception) -> None:
        """Raise ValueError if the actor never came to be, in its own words."""
        # Ray wraps the error in a traceback; its last line says it.
        lines = str(error).strip().splitlines()
        refused = [line for line in lines if line.startswith(("ValueError: ", "cifar5m."))]
        if refused:
            raise ValueError(refused[-1].partition(": ")[2])
