"""From names to runs, each once.

    chosen = [expand(recipe, "small") for recipe in find_recipes(["fig2a", "fig4a"])]
    jobs = jobs_of(chosen)       # ResNet18 at 50,000 is of both, and there once

A run is told from others by its config's fingerprint and the data it is trained on, and lies in
RUNS/runs under a name made of both, whatever experiments it belongs to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from worlds.experiments.registry import Data, Recipe, Scope
from worlds.experiments.scales import Scale
from worlds.experiments.spec import Experiment, Group
from worlds.training.config import RUN, TrainConfig
from worlds.training.run_folder import SUMMARY

RUNS: Final = "runs"  # the folder of the runs in the folder of the experiments
NOT_JUDGED: Final = (
    "Not judged at smoke scale, where made data and stand-in networks show that everything runs."
)


@dataclass(frozen=True)
class Expanded:
    """An experiment at some scale."""

    recipe: Recipe
    experiment: Experiment

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def groups(self) -> tuple[Group, ...]:
        return self.experiment.groups

    def kind(self, group: Group) -> Data:
        """Return the kind of data that a group is trained on."""
        return group.data or self.recipe.data  # type: ignore[return-value]

    @property
    def kinds(self) -> set[Data]:
        return {self.kind(group) for group in self.groups}


@dataclass(frozen=True)
class Job:
    """One run, and the experiments that it is of."""

    config: TrainConfig
    data: Data
    experiments: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of its directory: readable, and unique by the fingerprint."""
        # Data, network, world and n, as far as they say something.
        c = self.config
        size = f"n{c.n}-" if not c.fresh or c.disjoint else ""
        data = f"{self.data}-" if self.data not in ("cifar5m", "none") else ""
        world = c.world.replace(":", "")  # no name of a file on every system
        return f"{data}{c.arch}-{world}-{size}trial{c.trial}-{c.fingerprint()[:12]}"

    def folder(self, root: Path) -> Path:
        return root / RUNS / self.name

    @property
    def needs(self) -> str | None:
        """The end of the name of the run that it begins from; None without one."""
        initial = self.config.initial or ""
        return f"-{initial.removeprefix(RUN)[:12]}" if initial.startswith(RUN) else None

    def is_ready(self, root: Path) -> bool:
        return self.needs is None or any((root / RUNS).glob(f"*{self.needs}/{SUMMARY}"))


def _of_model(experiment: Experiment, model: str) -> Experiment:
    """Return the experiment with another network in all of its runs; what begins from a run, which
    comes before it, begins from that run's other network.
    """
    # A run that others begin from has another fingerprint with the other network.
    renamed: dict[str, str] = {}

    def other(config: TrainConfig) -> TrainConfig:
        initial = config.initial and renamed.get(config.initial, config.initial)
        made = replace(config, arch=model, options={}, initial=initial)
        renamed[RUN + config.fingerprint()] = RUN + made.fingerprint()
        return made

    groups = [
        replace(group, real=tuple(map(other, group.real)), ideal=tuple(map(other, group.ideal)))
        for group in experiment.groups
    ]
    note = f"{experiment.note} All runs are of {model}, not of the paper's networks.".strip()
    return replace(experiment, groups=tuple(groups), note=note)


def expand(
    recipe: Recipe,
    scale: Scale = "paper",
    trials: int | None = None,
    model: str | None = None,
    **asked: Any,
) -> Expanded:
    """Return the experiment's runs at a scale, of `model` in place of its own networks.

    `asked` are the other fields of a Scope: precision, weights, cheap, whole_test. Without `trials`
    it is the paper's number at paper scale, else one; the toy example, which costs nothing, always
    has its own scale and number. ValueError for less than one trial, or weights where nothing
    begins from them.
    """
    # The paper's number of trials, or one.
    free = recipe.data == "none"
    if trials is None:
        trials = recipe.trials if free or scale == "paper" else 1
    if trials < 1:
        raise ValueError(f"trials must be 1 or more, got {trials}")
    image_size = 224 if recipe.data == "dogbird" else 32
    scope = Scope(scale, tuple(range(trials)), image_size, **asked)
    if scope.weights is not None and recipe.absent == "":
        raise ValueError(
            f"{recipe.name} takes no --weights: they are for the pretrained networks of fig5b, "
            "fig13 and fig14"
        )
    # Its groups at the scope, and of another network where one is asked for.
    experiment = recipe.build(scope)
    # The command that trains it again.
    how = f" --precision {scope.precision}" if scope.precision else ""
    how += f" --weights {recipe.name}={scope.weights}" if scope.weights else ""
    how += " --cheap-train-error" * scope.cheap + " --whole-test" * scope.whole_test
    if model is not None and not free and experiment.kind != "sheet":
        how += f" --model {model}"
        experiment = _of_model(experiment, model)
    wanted = f"{recipe.name} --scale {scale} --trials {trials}{how}"
    command = f"worlds-experiment run {wanted}{_options(Expanded(recipe, experiment), scale)}"
    # Made data and stand-ins at smoke scale meet no claim.
    own: Scale = "paper" if free else scale
    experiment = replace(experiment, command=command, scale=own)
    if own == "smoke":
        note = f"{experiment.note} {NOT_JUDGED}".strip()
        experiment = replace(experiment, checks=(), note=note)
    return Expanded(recipe, experiment)


def _options(one: Expanded, scale: Scale) -> str:
    """Return the options that name the data; smoke makes its own of 32 px."""
    # A kind of data and its option.
    given = {"cifar5m": "data", "cifar10": "cifar10", "dogbird": "dogbird"}
    made = ("cifar5m", "cifar10") if scale == "smoke" else ()
    kinds = {"cifar5m" if kind in ("first5", "last5") else kind for kind in one.kinds}
    return "".join(
        f" --{option} DIR" for kind, option in given.items() if kind in kinds and kind not in made
    )


def jobs_of(chosen: Sequence[Expanded]) -> list[Job]:
    """Return all runs of the experiments, each once, in their order."""
    # By what tells runs apart: the config and the data.
    found: dict[tuple[str, Data], tuple[TrainConfig, dict[str, None]]] = {}
    for one in chosen:
        for group in one.groups:
            for config in (*group.real, *group.ideal):
                key = config.fingerprint(), one.kind(group)
                found.setdefault(key, (config, {}))[1][one.name] = None
    return [Job(config, data, tuple(names)) for (_, data), (config, names) in found.items()]
