"""The runs of a folder, matched to the experiments that lie beside them.

A run counts once it is finished. One that is missing, unfinished or diverged is named with what is
known of it, and the figure is made of the rest. Runs of no experiment are grouped by themselves:
trials of one config together, each Real World with the Ideal runs that differ from it in nothing
that an Ideal World depends on.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from worlds.experiments.spec import SUFFIX, Check, Experiment, Group, read_experiment
from worlds.training.config import TrainConfig, ideal_key
from worlds.training.run_folder import CONFIG, Run, is_run, read_run

PANELS: Final = 12  # of one automatic figure


@dataclass(frozen=True)
class Library:
    """Everything that was found below a folder."""

    runs: tuple[Run, ...]
    experiments: tuple[Experiment, ...]
    problems: tuple[str, ...]  # one sentence each


@dataclass(frozen=True)
class Found:
    """A group with the runs that can be used, by trial.

    `missing` has a phrase for each run that cannot be used, `duplicates` one for each run that
    exists more than once.
    """

    group: Group
    real: tuple[Run, ...]
    ideal: tuple[Run, ...]
    missing: tuple[str, ...]
    duplicates: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.group.label


def read_library(roots: Sequence[Path]) -> Library:
    """Read all runs and experiments at or below `roots`; what cannot be read becomes a problem.
    Raises ValueError if one is not a directory, or they hold neither.
    """
    for root in roots:
        if not root.is_dir():
            raise ValueError(f"{root} is not a directory")
    runs: list[Run] = []
    experiments: dict[str, Experiment] = {}
    problems: list[str] = []
    # Runs; what cannot be read is a problem, not the end.
    for path in _below(roots, CONFIG):
        try:
            if is_run(path.parent):
                runs.append(read_run(path.parent))
        except (ValueError, OSError) as error:
            problems.append(f"not read: {error}")
    # Experiments, of each name the first.
    for path in _below(roots, f"*{SUFFIX}"):
        try:
            experiment = read_experiment(path)
        except (ValueError, OSError) as error:
            problems.append(f"not read: {error}")
            continue
        if experiment.name in experiments and experiments[experiment.name] != experiment:
            problems.append(f"{path}: a second experiment called {experiment.name} is left out")
        experiments.setdefault(experiment.name, experiment)
    if not runs and not experiments:
        found = f" ({problems[0]})" if problems else ""
        places = ", ".join(map(str, roots))
        raise ValueError(f"no run directory at or below {places}{found}; worlds-train makes them")
    ordered = sorted(experiments.values(), key=lambda experiment: _natural(experiment.name))
    return Library(tuple(runs), tuple(ordered), tuple(problems))


def _below(roots: Sequence[Path], pattern: str) -> list[Path]:
    return sorted({path for root in roots for path in root.rglob(pattern)})


def _natural(name: str) -> list[tuple[int, str]]:
    """fig2a before fig10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def exclusion_reason(run: Run) -> str | None:
    """Return why a run cannot be used, or None."""
    if run.summary is None:
        made = run.rows[-1]["updates"] if run.rows else 0  # updates
        return f"unfinished, last measured at {made:,} of {run.config.steps:,} updates"
    if run.summary.ended in ("not_finite", "nan"):
        return f"diverged at {run.summary.updates:,} updates"
    return None if run.rows else "finished without a single row"


def collect(experiment: Experiment, runs: Iterable[Run]) -> list[Found]:
    """Return each group of the experiment with its runs."""
    # By fingerprint: an experiment's file holds its configs in full.
    index: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        index[run.config.fingerprint()].append(run)
    return [_found(group, index) for group in experiment.groups]


def _found(group: Group, index: dict[str, list[Run]]) -> Found:
    chosen: dict[str, list[Run]] = {"real": [], "ideal": []}
    missing: list[str] = []
    duplicates: list[str] = []
    data: tuple[Any, Any] | None = None
    for config in (*group.real, *group.ideal):
        name = f"{group.label}: {describe(config)}"
        # The first usable run of this config, on the data of the group.
        here = index[config.fingerprint()]
        if group.data is not None:
            data_names = [(run, run.description.data) for run in here]
            here = [run for run, known in data_names if group.data in (known.name, known.train)]
        good = [run for run in here if exclusion_reason(run) is None]
        if not good:
            reasons = [f"{exclusion_reason(run)} ({run.folder})" for run in here] or ["not found"]
            missing.append(f"{name}: {reasons[0]}")
            continue
        run = good[0]
        data = data or data_of(run)
        if data_of(run) != data:
            missing.append(f"{name}: on other data than the rest ({run.folder})")
            continue
        # Copies are told, not used.
        if len(good) > 1:
            others = ", ".join(str(other.folder) for other in good[1:])
            duplicates.append(f"{name}: {run.folder} is used, {others} left out")
        chosen["ideal" if config.fresh else "real"].append(run)
    worlds = tuple(chosen["real"]), tuple(chosen["ideal"])
    return Found(group, *worlds, tuple(missing), tuple(duplicates))


def describe(config: TrainConfig) -> str:
    noise = f" with label noise {config.label_noise}" if config.label_noise else ""
    return f"{config.world.capitalize()} World{noise}, trial {config.trial}"


def data_of(run: Run) -> tuple[Any, Any]:
    """Return fingerprints of what was trained and measured on."""
    return run.description.data.train, run.description.data.test


def automatic(runs: Sequence[Run], tolerance: float) -> list[Experiment]:
    """Experiments for runs that belong to none: curves, and where there are enough groups a scatter
    and the scaling with n. `tolerance` is that of the claim that the worlds are close.
    """
    groups = _groups(runs)
    if not groups:
        return []
    # One claim for all of them, where both worlds were run.
    both = [group for group in groups if group.real and group.ideal]
    soft = all("test_soft_error" in row for run in runs for row in run.rows[:1])
    metric = "soft_error" if soft else "loss"
    claim = "Up to T0 the test error of the Real World is close to that of the Ideal World."
    checks = (Check("largest", "at most", tolerance),) if both else ()
    made = []
    # Curves of all groups, some panels a figure.
    parts = [groups[start : start + PANELS] for start in range(0, len(groups), PANELS)]
    for number, part in enumerate(parts, 1):
        name = "curves" if len(parts) == 1 else f"curves-{number}"
        title = "Real and Ideal World" + (f", {number} of {len(parts)}" if len(parts) > 1 else "")
        labels = {group.label for group in both}
        mine = tuple(group.label for group in part if group.label in labels)
        kept = tuple(replace(check, groups=mine) for check in checks if mine)
        made.append(Experiment(name, title, "curves", tuple(part), claim, kept, metric))
    # A scatter of where they end, and the scaling with n.
    if len(both) >= 3:
        title = "Where the two worlds end"
        made.append(Experiment("scatter", title, "scatter", tuple(both), claim, checks, metric))
    for sizes in _sizes(both):
        title = f"{sizes[0].real[0].arch}: more samples train longer"
        claim_n = "With more samples T0 comes later, and the gap shrinks."
        ordered = Check("t0", "rises")
        name = f"samples-{len(made)}"
        made.append(Experiment(name, title, "samples", sizes, claim_n, (ordered,), metric))
    return made


def _groups(runs: Sequence[Run]) -> list[Group]:
    """Return trials of one config on one data set, Real with the Ideal runs that belong to it."""
    real: dict[tuple[Any, ...], list[TrainConfig]] = defaultdict(list)
    ideal: dict[tuple[Any, ...], list[TrainConfig]] = defaultdict(list)
    data_names: dict[tuple[Any, ...], Any] = {}
    for run in sorted(runs, key=lambda run: (run.config.arch, run.config.n, run.config.trial)):
        data = data_of(run)
        data_names[data] = data[0]
        if not run.config.fresh:
            configs = real[run.config.group_key(), data]
        else:
            configs = ideal[ideal_key(run.config), data]
        if run.config.trial not in {config.trial for config in configs}:
            configs.append(run.config)  # one Ideal run of a trial is as good as another
    # Each Real World with the Ideal runs that serve it; Ideal runs of none by themselves.
    groups, used = [], set()
    for (_, data), configs in real.items():
        key = (ideal_key(configs[0]), data)
        used.add(key)
        groups.append((tuple(configs), tuple(ideal.get(key, ())), data))
    groups += [((), tuple(configs), key[1]) for key, configs in ideal.items() if key not in used]
    # Labels say what tells the groups apart.
    labels = _labels([(*real_, *ideal_)[0] for real_, ideal_, _ in groups])
    several = len({data for _, _, data in groups}) > 1
    made = []
    for number, (ours, theirs, data) in enumerate(groups):
        label = labels[number] + (f", data {str(data[0])[:8]}" if several else "")
        made.append(Group(label, ours, theirs, data=data[0]))
    return made


def _labels(configs: Sequence[TrainConfig]) -> list[str]:
    """Return the architecture, where they differ in it, and each other field in which they do."""
    # The fields in which the configs differ.
    values = [config.to_json() for config in configs]
    ignored = {"arch", "trial", "options"}
    for value in values:  # a Real World is not told by its world, those between are
        value["world"] = "real" if value["world"] == "ideal" else value["world"]
    varying = [
        name
        for name in (values[0] if values else {})
        if name not in ignored and len({str(value[name]) for value in values}) > 1
    ]
    # The network where it differs too, then NAME VALUE of each field.
    several = len({value["arch"] for value in values}) > 1
    options = len({str(value["options"]) for value in values}) > 1
    labels = []
    for value in values:
        own = [f"{key} {option}" for key, option in value["options"].items()] if options else []
        own += [f"{_SHORT.get(name, name)} {_plain(value[name])}" for name in varying]
        labels.append(", ".join([value["arch"], *own] if several or not own else own))
    return labels


_SHORT: Final = {"learning_rate": "lr", "augment": "aug", "label_noise": "noise"}


def _plain(value: Any) -> str:
    return f"{value:,}" if type(value) is int else "none" if value is None else str(value)


def _sizes(groups: Sequence[Group]) -> list[tuple[Group, ...]]:
    """Return groups that differ in n alone, three or more, by n; labeled by it."""
    # Groups are of one family if they are equal but for n.
    families: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        families[replace(group.real[0], n=1).group_key() + str(group.data)].append(group)
    chosen = []
    for family in families.values():
        if len({group.real[0].n for group in family}) >= 3:
            ordered = sorted(family, key=lambda group: group.real[0].n)
            relabeled = [replace(group, label=f"n = {group.real[0].n:,}") for group in ordered]
            chosen.append(tuple(relabeled))
    return chosen


def mixed_folders(runs: Sequence[Run]) -> list[str]:
    """Return one sentence for each directory whose runs, side by side, are of different configs."""
    # The runs of a directory, and the fields in which they differ.
    beside: dict[Path, list[Run]] = defaultdict(list)
    for run in runs:
        beside[run.folder.parent].append(run)
    sentences = []
    for folder, siblings in beside.items():
        configs = [run.config.to_json() | {"world": None, "trial": None} for run in siblings]
        fields = {name for one in configs for name in one if one[name] != configs[0][name]}
        if fields:
            sentences.append(
                f"{folder} holds runs of different configs, kept apart here: they differ in "
                f"{', '.join(sorted(fields))}"
            )
    return sentences
