"""Generation on a Ray cluster: an actor a GPU, or a CPU where there is none, with the networks
resident, and shards as tasks that may be done twice.

    with connect("auto") as ray:
        generate_on_ray(ray, folder, options, plan, shards, on_finished)

The folder lies on a file system that all nodes share, and the package is installed on all of them.
An actor that dies with its node gives its shard back; where nodes join, actors are added. A shard
counts as made when its record is there, whoever wrote it, so the end is that of a single process.
"""

import platform
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cifar5m.sampling.job import GeneratedPlan, Options
from worlds.formats.layout import PLAN, Shard
from worlds.formats.plan import differences, load_plan
from worlds.formats.shards import is_finished
from worlds.runtime.errors import first_line
from worlds.runtime.ray import DEATHS

_POLL_SECONDS = 0.5

OnFinished = Callable[[float], None]  # images of shards that are finished since the last call


class ShardMaker:
    """Ray actor: both networks on one device; makes the shards it is given."""

    def __init__(self, folder: str, options: Options, plan: GeneratedPlan, device: str) -> None:
        from cifar5m.sampling.job import find_sources, load_job, plan_of

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
        """Make one shard, unless it is there by now."""
        from cifar5m.sampling.generate import generate_shards
        from worlds.formats.writers import WriteHere

        for _ in generate_shards(self.folder, self.job, [shard], WriteHere()):
            pass


def generate_on_ray(
    ray: Any,
    folder: Path,
    options: Options,
    plan: GeneratedPlan,
    shards: Sequence[Shard],
    on_finished: OnFinished = lambda images: None,
    most_actors: int | None = None,
) -> None:
    """Make every one of `shards` that is not finished yet, on the whole cluster.

    `on_finished` is called twice a second and may raise. Raises RuntimeError if a shard cannot be
    made.
    """
    pool = _Pool(ray, folder, options, plan, most_actors)
    waiting = [shard for shard in shards if not is_finished(folder, shard, plan.fingerprint)]
    pool.queue.extend(waiting)
    try:
        while waiting:
            pool.step()
            finished = {s for s in waiting if is_finished(folder, s, plan.fingerprint)}
            on_finished(sum(map(len, finished)))
            waiting = [shard for shard in waiting if shard not in finished]
            if waiting and not pool.queue and not pool.running:
                # Made, but not seen: a network file system may be behind; else it was lost.
                pool.queue.extend(waiting)
    finally:
        pool.close()


class _Pool:
    """Actors, each with at most one shard, and the shards that wait for one."""

    def __init__(
        self,
        ray: Any,
        folder: Path,
        options: Options,
        plan: GeneratedPlan,
        most_actors: int | None,
    ) -> None:
        self.ray = ray
        self.queue: deque[Shard] = deque()
        self.running: dict[Any, tuple[Any, Shard]] = {}  # task: its actor and shard
        self._idle: list[Any] = []
        self._deaths: Counter[Shard] = Counter()
        self._most = most_actors
        self._arguments = (str(folder.resolve()), options, plan)

    def step(self) -> None:
        """Start actors where there is room, give each idle one a shard, wait for one to end."""
        room = self._room() - len(self.running) - len(self._idle)
        for _ in range(min(room, len(self.queue) - len(self._idle))):
            self._idle.append(self._start())
        while self._idle and self.queue:
            actor, shard = self._idle.pop(), self.queue.popleft()
            self.running[actor.make.remote(shard)] = actor, shard
        # The others have nothing to do: an actor that still waits for a place may have theirs.
        while self._idle:
            self.ray.kill(self._idle.pop())
        if not self.running:
            time.sleep(_POLL_SECONDS)  # until a node joins
            return
        ended, _ = self.ray.wait(list(self.running), timeout=_POLL_SECONDS)
        for task in ended:
            self._end(task)

    def _end(self, task: Any) -> None:
        actor, shard = self.running.pop(task)
        errors = self.ray.exceptions
        try:
            self.ray.get(task)
        except errors.RayTaskError as error:  # what the shard's own code raised
            raise RuntimeError(first_line(error.cause or error)) from error
        except errors.ActorDiedError as error:
            self._give_back(shard, error)
        except (errors.RayActorError, errors.RaySystemError, errors.ObjectLostError) as error:
            self.ray.kill(actor)  # its node does not answer: should it come back, it is too late
            self._give_back(shard, error)
        else:
            self._idle.append(actor)

    def _give_back(self, shard: Shard, error: Exception) -> None:
        """A shard whose actor is gone waits again; where the actor never came to be, or the shard
        has taken many with it, that is told.
        """
        lines = str(error).strip().splitlines()
        refused = [line for line in lines if line.startswith(("ValueError: ", "cifar5m."))]
        if refused:
            raise ValueError(refused[-1].partition(": ")[2])
        self._deaths[shard] += 1
        if self._deaths[shard] >= DEATHS:
            raise RuntimeError(
                f"shard {shard.name} ended {DEATHS} actors, the last with: {first_line(error)}"
            )
        self.queue.appendleft(shard)

    def _room(self) -> int:
        """Actors that the cluster has room for now: one a GPU, else one a CPU."""
        resources = self.ray.cluster_resources()
        slots = int(resources.get("GPU", 0) or resources.get("CPU", 0))
        return slots if self._most is None else min(slots, self._most)

    def _start(self) -> Any:
        gpu = self.ray.cluster_resources().get("GPU", 0) > 0
        share = {"num_gpus": 1} if gpu else {"num_cpus": 1}
        maker = self.ray.remote(**share)(ShardMaker)
        return maker.remote(*self._arguments, "cuda:0" if gpu else "cpu")

    def close(self) -> None:
        for actor in [*self._idle, *(actor for actor, _ in self.running.values())]:
            self.ray.kill(actor)
