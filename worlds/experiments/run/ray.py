"""Runs as tasks on a Ray cluster: a GPU each, or a CPU where the cluster has no GPU.

    with connect("auto") as ray:
        results = run_on_ray(ray, jobs, root, sources, on_progress=..., stopped=...)

The folder of the runs and the data lie on storage that all nodes share, and the package is
installed on all of them. A run whose node dies goes on from its checkpoint on another; one that
fails is told, and the rest goes on. How far a run is, its own metrics say.
"""

import platform
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from worlds.experiments.plan import Job
from worlds.experiments.run.local import Progress
from worlds.experiments.sources import Sources
from worlds.runtime.errors import first_line
from worlds.runtime.files import is_locked
from worlds.runtime.ray import DEATHS

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
    for initial in {job.config.initial or "" for job in jobs} - {""}:
        if not Path(initial).expanduser().is_absolute():
            raise ValueError(f"--ray needs initial weights by an absolute path, got {initial}")
    progress, waiting = Progress(), deque(jobs)
    tasks = _Tasks(ray, root, sources, progress)
    try:
        while (waiting or tasks.running) and not stopped():
            for _ in range(min(tasks.room(), len(waiting))):
                tasks.submit(waiting.popleft())
            tasks.wait()
            on_progress(progress)
    finally:
        for task in tasks.running:
            ray.cancel(task, force=True)
    return progress


class _Tasks:
    """The runs that were given to the cluster, as many as it has room for."""

    def __init__(self, ray: Any, root: Path, sources: Sources, progress: Progress) -> None:
        self.ray, self.root, self.sources = ray, root.resolve(), _absolute(sources)
        self.progress = progress
        self.running: dict[Any, Job] = {}
        retries = DEATHS - 1  # of a task whose process died; not of one that raised
        self._on_gpu = ray.remote(num_gpus=1, max_retries=retries)(train_on_node)
        self._on_cpu = ray.remote(num_cpus=1, max_retries=retries)(train_on_node)

    def room(self) -> int:
        """Further runs that the cluster has room for now."""
        resources = self.ray.cluster_resources()
        slots = int(resources.get("GPU", 0) or resources.get("CPU", 0))
        return max(0, slots - len(self.running))

    def submit(self, job: Job) -> None:
        gpu = self.ray.cluster_resources().get("GPU", 0) > 0
        remote, device = (self._on_gpu, "cuda:0") if gpu else (self._on_cpu, "cpu")
        self.running[remote.remote(job, str(self.root), self.sources, device)] = job

    def wait(self) -> None:
        """Note what has ended, after half a second at most, and how far the others are."""
        if self.running:
            ended, _ = self.ray.wait(list(self.running), timeout=_POLL_SECONDS)
            for task in ended:
                self._end(task)
        else:
            time.sleep(_POLL_SECONDS)  # until a node joins
        self.progress.update(self.running.values(), self.root)

    def _end(self, task: Any) -> None:
        job = self.running.pop(task)
        try:
            message = self.ray.get(task)
        except self.ray.exceptions.RayTaskError as error:  # what the node's own code raised
            message = {"error": first_line(error.cause or error)}
        except self.ray.exceptions.RayError as error:
            message = {"error": f"it ended {DEATHS} workers, the last with: {first_line(error)}"}
        if "ended" in message:
            self.progress.ended[job.name] = message["ended"]
        else:
            self.progress.failed[job.name] = message["error"]


def _absolute(sources: Sources) -> Sources:
    """The same stores under names that hold in every working directory."""
    given = sources.to_json()
    for name, path in given.items():
        if isinstance(path, str) and "://" not in path:
            given[name] = str(Path(path).expanduser().resolve())
    return Sources(**given)  # type: ignore[arg-type]


def train_on_node(job: Job, root: str, sources: Sources, device: str) -> dict[str, str]:
    """Train one run to its end as a Ray task; returns what `worker.run_job` returns."""
    from worlds.experiments.run.worker import run_job

    folder = job.folder(Path(root))
    if not Path(root).is_dir():
        node = platform.node()
        return {"error": f"{node} does not see {root}: --runs must lie on shared storage"}
    deadline = time.monotonic() + _LOCK_SECONDS
    while is_locked(folder) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)  # a worker outlives its node by a moment
    message = run_job(job, folder, sources, device)
    return {"error": message["busy"]} if "busy" in message else message
