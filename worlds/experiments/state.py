"""What a folder of experiments holds: which runs are done, begun, being trained, missing.

states = states_of(root)            # by the fingerprints of config and training data
table = [tally(experiment, states) for experiment in read_experiments(root)]
"""

import fcntl
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from worlds.config import TrainConfig
from worlds.experiments.plan import RUNS, Expanded, Job
from worlds.experiments.sources import Sources
from worlds.report.experiment import SUFFIX, Experiment, read_experiment, write_experiment
from worlds.runs import CONFIG, Run, read_run

State = Literal["done", "not finite", "running", "begun", "missing"]
STATES: Final[tuple[State, ...]] = ("done", "not finite", "running", "begun", "missing")
Key = tuple[str, str | None]


def state_of(run: Run) -> State:
    if run.summary is not None and run.summary["ended"] != "asked":
        return "not finite" if run.summary["ended"] == "not_finite" else "done"
    return "running" if _is_locked(run.folder) else "begun"


def _is_locked(folder: Path) -> bool:
    """Whether a process holds the run."""
    try:
        with (folder / ".lock").open("r") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def ended(job: Job, root: Path) -> bool:
    """Whether nothing is left to do of a run."""
    folder = job.folder(root)
    if not (folder / CONFIG).is_file():
        return False
    return state_of(read_run(folder)) in ("done", "not finite")


def states_of(root: Path) -> dict[Key, State]:
    """The state of every run in the folder."""
    states: dict[Key, State] = {}
    for path in sorted((root / RUNS).glob(f"*/{CONFIG}")):
        run = read_run(path.parent)
        train = (run.description.get("data") or {}).get("train")
        states[run.config.fingerprint(), train] = state_of(run)
    return states


def tally(experiment: Experiment, states: dict[Key, State]) -> Counter[State]:
    """How many of its runs are in which state."""
    keys: dict[Key, TrainConfig] = {}
    for group in experiment.groups:
        for config in (*group.real, *group.ideal):
            keys[config.fingerprint(), group.data] = config
    return Counter(states.get(key, "missing") for key in keys)


def read_experiments(root: Path, names: list[str]) -> list[Experiment]:
    """Those that were begun in the folder; ValueError where there is none, or not that one."""
    found = [read_experiment(path) for path in sorted(root.glob(f"*{SUFFIX}"))]
    if not found:
        raise ValueError(f"no experiment was begun in {root}; worlds-experiment run begins one")
    unknown = set(names) - {experiment.name for experiment in found} - {"all"}
    if unknown:
        known = ", ".join(experiment.name for experiment in found)
        raise ValueError(f"no {', '.join(sorted(unknown))} in {root}; there are: {known}")
    return [one for one in found if not names or "all" in names or one.name in names]


def bound(one: Expanded, sources: Sources) -> Experiment:
    """The experiment with each group tied to the data that it is trained on."""
    assert one.experiment is not None
    groups = []
    for group in one.groups:
        kind = one.kind(group)
        train = None if kind == "none" else sources.data(kind).train.fingerprint
        groups.append(replace(group, data=train))
    return replace(one.experiment, groups=tuple(groups))


def begin(experiment: Experiment, root: Path) -> None:
    """Put it beside its runs. ValueError where they are of another scale or on other data."""
    path = root / f"{experiment.name}{SUFFIX}"
    if path.is_file():
        before = read_experiment(path)
        same = [group.data for group in before.groups] == [
            group.data for group in experiment.groups
        ]
        if before.scale != experiment.scale or not same:
            what = (
                "on other data" if before.scale == experiment.scale else f"at {before.scale} scale"
            )
            raise ValueError(f"{root} holds {experiment.name} {what}: take another --runs")
    write_experiment(experiment, root)
