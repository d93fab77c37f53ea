"""Runs on a Ray cluster, by actors with a GPU each, or a CPU where the cluster has no GPU.

    with connect("auto") as ray:
        results = run_on_ray(ray, jobs, root, sources, on_progress=..., stopped=...)

The folder of the runs and the data lie on storage that all nodes share, and the package is
installed on all of them. A run whose node dies goes on from its checkpoint on another; one that
fails is told, and the rest goes on. How far a run is, its own metrics say.
"""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from worlds.experiments.plan import Job
from worlds.experiments.run.local import Progress
from worlds.experiments.sources import Sources
from worlds.runtime.errors import first_line
from worlds.runtime.files import is_locked
from worlds.runtime.ray import ActorPool

_POLL_SECONDS: Final = 0.5
_LOCK_SECONDS: Final = 60.0


def run_on_ray(
    ray: Any,
    jobs: Sequence[Job],
    root: Path,
    sources: Sources,
    on_progress: Callable[[Progress], None],
    stopped: Callable[[], bool],
) -> Progress:
    """Train `jobs` on the cluster that `ray` is connected to; `stopped` is asked twice a second,
    and ends them at their last checkpoints. ValueError where initial weights have a relative path,
    which is of a run's identity and names nothing on the nodes.
    """
    for initial in {job.config.initial or "" for job in jobs if job.needs is None} - {""}:
        if not Path(initial).expanduser().is_absolute():
            raise ValueError(f"--ray needs initial weights by an absolute path, got {initial}")
    # Runs that others begin from come first.
    pool = _Pool(ray, root.resolve(), _absolute(sources))
    pool.queue.extend(sorted(jobs, key=lambda job: job.needs is not None))  # first runs first
    try:
        while (pool.queue or pool.running) and not stopped():
            pool.step()
            pool.progress.update((job for _, job in pool.running.values()), root)
            on_progress(pool.progress)
    finally:
        pool.close()
    return pool.progress


class RunTrainer:
    """Ray actor: trains one run after the other, on data that it opens, and uploads, once."""

    def __init__(self, root: str, sources: Sources, device: str) -> None:
        self._arguments = root, sources, device

    def train(self, job: Job) -> dict[str, str]:
        """Train one run to its end; returns what `worker.run_job` returns."""
        return train_on_node(job, *self._arguments)


class _Pool(ActorPool):
    """Actors that train runs; a run that fails is told, and the others go on."""

    def __init__(self, ray: Any, root: Path, sources: Sources) -> None:
        super().__init__(ray)
        self.progress = Progress()
        self._arguments = str(root), sources

    def start(self, share: dict[str, int], device: str) -> Any:
        return self.ray.remote(**share)(RunTrainer).remote(*self._arguments, device)

    def submit(self, actor: Any, item: Job) -> Any:
        return actor.train.remote(item)

    def done(self, item: Job, value: dict[str, str]) -> None:
        if "ended" in value:
            self.progress.ended[item.name] = value["ended"]
        else:
            self.progress.failed[item.name] = value["error"]

    def failed(self, item: Job, error: Exception) -> None:
        self.progress.failed[item.name] = first_line(error)


def _absolute(sources: Sources) -> Sources:
    """Return the same stores under names that hold in every working directory."""
    given = asdict(sources)
    for name, path in given.items():
        if isinstance(path, str) and "://" not in path:
            given[name] = str(Path(path).expanduser().resolve())
    return Sources(**given)


def train_on_node(job: Job, root: str, sources: Sources, device: str) -> dict[str, str]:
    """Train one run to its end in a Ray actor; returns what `worker.run_job` returns."""
    from worlds.experiments.run.worker import run_job

    folder = job.folder(Path(root))
    # The node must see the directory, and nobody else train there.
    if not Path(root).is_dir():
        node = platform.node()
        return {"error": f"{node} does not see {root}: --runs must lie on shared storage"}
    deadline = time.monotonic() + _LOCK_SECONDS
    while is_locked(folder) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)  # a worker outlives its node by a moment
    if not job.is_ready(Path(root)):
        return {"error": "the run that it begins from is not finished: run the command again"}
    message = run_job(job, folder, sources, device)
    return {"error": message["busy"]} if "busy" in message else message
