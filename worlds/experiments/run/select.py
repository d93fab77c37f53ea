"""Select the experiments that the data can feed, their runs, and those left to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worlds.experiments.plan import Expanded, Job, expand, jobs_of
from worlds.experiments.registry import find_recipes
from worlds.experiments.scales import Scale
from worlds.experiments.sources import Sources, why_not
from worlds.experiments.state import ended
from worlds.runtime.checks import check_positive
from worlds.runtime.processes import cpu_count
from worlds.training.config import Precision
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
    trials: int | None,
    precision: Precision | None,
    weights: dict[str, str],
    sources: Sources,
    root: Path,
    model: str | None = None,
    cheap: bool = False,
    whole_test: bool = False,
) -> Selection:
    """Return what to run of the experiments `names`; `root` holds the runs.

    `weights` has the initial weights of experiments by name, `model` replaces their networks;
    `cheap` and `whole_test` are readings (worlds.experiments.registry.Scope).

    Raises ValueError if the data can feed none, or weights are for an experiment that is not among
    them.
    """
    recipes, left = find_recipes(list(names)), dict(weights)
    for path in ",".join(left.values()).split(",") if left else ():
        weights_file(path)
    expanded = [
        expand(
            recipe, scale, trials, precision, left.pop(recipe.name, None), model, cheap, whole_test
        )
        for recipe in recipes
    ]
    chosen, skipped = _feasible(expanded, sources)
    if left:
        raise ValueError(f"weights are given for {', '.join(left)}, which is not run here")
    jobs = jobs_of(chosen)
    known = {
        kind: None if kind == "none" else sources.data(kind).describe()
        for kind in {job.data for job in jobs}
    }
    waiting = [job for job in jobs if not ended(job, root, known[job.data])]
    return Selection(chosen, jobs, waiting, skipped)


def _feasible(expanded: list[Expanded], sources: Sources) -> tuple[list[Expanded], dict[str, str]]:
    """Return what the data can feed, and why not the others; ValueError if nothing is left."""
    reasons = {one.name: why_not(one, sources) for one in expanded}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    left = [one for one in expanded if one.name not in skipped]
    if not left:
        name, reason = next(iter(skipped.items()))
        raise ValueError(f"{name}: {reason}")
    return left, skipped


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

    gpus = torch.cuda.device_count()
    if device != "auto":
        check_device(device)
    if workers is None:
        workers = cpu_count() if device == "cpu" or not gpus else gpus if device == "auto" else 1
    check_positive("workers", workers)
    if device == "auto":
        return [f"cuda:{i % gpus}" if gpus else "cpu" for i in range(workers)]
    return [device] * workers
