"""The state of a directory of experiments: which runs are done, begun, being trained, missing.

states = states_of(root)            # by the fingerprints of config and training data
table = [tally(experiment, states) for experiment in read_experiments(root)]
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from worlds.experiments.plan import RUNS, Expanded, Job
from worlds.experiments.sources import Sources
from worlds.experiments.spec import SUFFIX, Experiment, read_experiment, write_experiment
from worlds.runtime.files import is_locked
from worlds.runtime.json_files import load_json
from worlds.training.run_folder import (
    CONFIG,
    SUMMARY,
    DataFacts,
    Description,
    Summary,
    read_description,
)

State = Literal["done", "not finite", "running", "begun", "missing"]
STATES: Final[tuple[State, ...]] = ("done", "not finite", "running", "begun", "missing")
Key = tuple[str, str | None]


def state_of(folder: Path) -> State:
    """Return the state of a run's directory, from its small files alone."""
    if not (folder / CONFIG).is_file():
        return "missing"
    # A run that was asked to end early is not done.
    if (folder / SUMMARY).is_file():
        how = load_json(folder / SUMMARY, Summary).ended
        if how != "asked":
            return "not finite" if how == "not_finite" else "done"
    return "running" if is_locked(folder) else "begun"


def ended(job: Job, root: Path, data: DataFacts | None) -> bool:
    """Return whether nothing is left to do of a run on `data` (described; None: the toy's).
    ValueError where the folder has it on other data.
    """
    folder = job.folder(root)
    state = state_of(folder)
    if state != "missing" and data is not None:
        differences = load_json(folder / CONFIG, Description).data.differences(data)
        if differences:
            raise ValueError(
                f"{folder} was trained or measured on other data ({differences[0]}): choose "
                "another directory as --runs"
            )
    return state in ("done", "not finite")


def states_of(root: Path) -> dict[Key, State]:
    """Return the state of every run in the folder."""
    states: dict[Key, State] = {}
    for path in sorted((root / RUNS).glob(f"*/{CONFIG}")):
        described, config = read_description(path.parent)
        states[config.fingerprint(), described.data.train] = state_of(path.parent)
    return states


def tally(experiment: Experiment, states: dict[Key, State]) -> Counter[State]:
    """Count the runs of an experiment in each state."""
    return Counter(states.get(key, "missing") for key in keys_of(experiment))


def keys_of(experiment: Experiment) -> set[Key]:
    """Return the keys of an experiment's runs, each once."""
    return {
        (config.fingerprint(), group.data)
        for group in experiment.groups
        for config in (*group.real, *group.ideal)
    }


def read_experiments(root: Path, names: list[str]) -> list[Experiment]:
    """Load the experiments begun in a directory; raises ValueError if one is missing."""
    found = [read_experiment(path) for path in sorted(root.glob(f"*{SUFFIX}"))]
    if not found:
        raise ValueError(f"no experiment was begun in {root}; worlds-experiment run begins one")
    # Names that were not begun, or all.
    unknown = set(names) - {experiment.name for experiment in found} - {"all"}
    if unknown:
        known = ", ".join(experiment.name for experiment in found)
        raise ValueError(f"no {', '.join(sorted(unknown))} in {root}; there are: {known}")
    return [one for one in found if not names or "all" in names or one.name in names]


def bind_data(one: Expanded, sources: Sources) -> Experiment:
    """Return the experiment with each group tied to the data that it is trained on."""
    groups = []
    for group in one.groups:
        kind = one.kind(group)
        train = None if kind == "none" else sources.data(kind).train.fingerprint
        groups.append(replace(group, data=train))
    return replace(one.experiment, groups=tuple(groups))


def save_spec(experiment: Experiment, root: Path) -> None:
    """Put it beside its runs, unless it lies there with more trials. ValueError where they are of
    another scale.
    """
    path = root / f"{experiment.name}{SUFFIX}"
    if path.is_file():
        # One scale a directory; the one with more trials stays.
        before = read_experiment(path)
        if before.scale != experiment.scale:
            raise ValueError(
                f"{root} holds {experiment.name} at {before.scale} scale: choose another directory "
                "as --runs"
            )
        if keys_of(experiment) < keys_of(before):
            return
    write_experiment(experiment, root)
