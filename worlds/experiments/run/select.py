"""Select the experiments that the data can feed, their runs, and those left to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worlds.experiments.plan import Expanded, Job, expand, jobs_of
from worlds.experiments.registry import find_recipes
from worlds.experiments.scales import Scale
from worlds.experiments.sources import Sources, exclusion_reason
from worlds.experiments.state import ended
from worlds.runtime.checks import check_positive
from worlds.runtime.processes import cpu_count
from worlds.training.pretrained import weights_file


@dataclass(frozen=True)
class Selection:
    """Experiments to run, their runs after sharing, the unfinished ones, and what is skipped."""

    chosen: list[Expanded]
    jobs: list[Job]
    waiting: list[Job]
    skipped: dict[str, str]  # experiment: why the data cannot feed it


def select(
    names: Sequence[str],
    scale: Scale,
    sources: Sources,
    root: Path,
    weights: dict[str, str],
    **asked: Any,
) -> Selection:
    """Return what to run of the experiments `names`; `root` holds the runs, `weights` has the
    initial weights of experiments by name, and `asked` are other arguments of `expand`.

    Raises ValueError if the data can feed none, or weights are for an experiment that is not among
    them.
    """
    # Weights that are not there are told before anything is opened.
    recipes, left = find_recipes(list(names)), dict(weights)
    for path in ",".join(left.values()).split(",") if left else ():
        weights_file(path)
    expanded = [
        expand(recipe, scale, weights=left.pop(recipe.name, None), **asked) for recipe in recipes
    ]
    # What the data can feed, and why not the others.
    reasons = {one.name: exclusion_reason(one, sources) for one in expanded}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    chosen = [one for one in expanded if one.name not in skipped]
    if not chosen:
        name, reason = next(iter(skipped.items()))
        raise ValueError(f"{name}: {reason}")
    if left:
        raise ValueError(f"weights are given for {', '.join(left)}, which is not run here")
    # Runs after sharing, and those that are left on these data.
    jobs = jobs_of(chosen)
    known = {
        kind: None if kind == "none" else sources.data(kind).describe()
        for kind in {job.data for job in jobs}
    }
    waiting = [job for job in jobs if not ended(job, root, known[job.data])]
    return Selection(chosen, jobs, waiting, skipped)


def open_sources(
    data: str | None, cifar10: str | None, dogbird: str | None, scale: Scale, root: Path
) -> Sources:
    """Return the stores that were given; made data at smoke scale if none was."""
    if scale == "smoke" and data is None and cifar10 is None:
        return Sources.make(root / "data", dogbird)
    return Sources(data, cifar10, dogbird)


def devices_of(device: str, workers: int | None) -> list[str]:
    """Return a device for each worker: all GPUs in turn, or the one that was named. By default
    there is a worker a GPU, or a core.
    """
    import torch

    from worlds.runtime.device import check_device

    # A worker a GPU, or a core; GPUs in turn.
    gpus = torch.cuda.device_count()
    if device != "auto":
        check_device(device)
    if workers is None:
        workers = cpu_count() if device == "cpu" or not gpus else gpus if device == "auto" else 1
    check_positive("workers", workers)
    if device == "auto":
        return [f"cuda:{i % gpus}" if gpus else "cpu" for i in range(workers)]
    return [device] * workers
