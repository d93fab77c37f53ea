"""The experiments by name: a function that returns what is to be run, and what it takes.

    @register("cifar5m", trials=10)
    def fig5c(scope: Scope) -> Experiment:
        "D-CONV against D-FC ..."

The name is the function's. Its docstring, and that of its module, are what `worlds-experiment show`
prints: the command, the cost and the expected result.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from worlds.experiments.scales import Scale
from worlds.experiments.spec import Experiment
from worlds.training.config import Precision

Data = Literal["cifar5m", "cifar10", "dogbird", "none"]
MODULES: Final = (
    "intro",
    "architectures",
    "photographs",
    "samples",
    "appendix_a",
    "pretraining",
    "noise",
    "decelerators",
)


@dataclass(frozen=True)
class Scope:
    """Scale, trials, image size and weights that an experiment is built for."""

    scale: Scale = "paper"
    trials: tuple[int, ...] = (0,)
    image_size: int = 32  # of its data
    precision: Precision | None = None  # None: the config's
    weights: str | None = None  # what its pretrained networks begin from
    cheap: bool = False  # read train metrics as the configs say, not from all n with fresh crops
    whole_test: bool = False  # measure on the whole test split


Build = Callable[[Scope], Experiment]


@dataclass(frozen=True)
class Recipe:
    """One experiment of the list. `absent` says, where something is needed that this project has
    not got, what it is and how to get it: what can be run without it is in the groups.
    """

    name: str
    build: Build
    data: Data  # what its groups are trained on, where they do not say
    trials: int  # the paper's
    absent: str = ""

    @property
    def text(self) -> str:
        """The docstrings: of the module, and of the experiment."""
        module = inspect.getdoc(inspect.getmodule(self.build)) or ""
        return f"{module}\n\n{inspect.getdoc(self.build) or ''}"


_RECIPES: dict[str, Recipe] = {}


def register(data: Data, trials: int = 10, absent: str = "") -> Callable[[Build], Build]:
    """Enter a function under its name; ValueError for a second one of that name."""
    if data not in get_args(Data):
        raise ValueError(f"data must be one of {', '.join(get_args(Data))}, got {data!r}")

    def enter(build: Build) -> Build:
        name: Any = getattr(build, "__name__", None)
        if name in _RECIPES:
            raise ValueError(f"an experiment {name} is registered already")
        _RECIPES[name] = Recipe(name, build, data, trials, absent)
        return build

    return enter


def recipes() -> list[Recipe]:
    """All of them, in the order of MODULES."""
    for module in MODULES:
        importlib.import_module(f"worlds.experiments.figures.{module}")
    return list(_RECIPES.values())


def find_recipes(names: list[str]) -> list[Recipe]:
    """Return the recipes of these names, each once; "all" is every one. ValueError lists them."""
    known = {recipe.name: recipe for recipe in recipes()}
    unknown = [name for name in names if name != "all" and name not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ValueError(
            f"no experiment {', '.join(unknown)}; {hint}known: all, {', '.join(known)}"
        )
    chosen = list(known) if "all" in names else dict.fromkeys(names)
    return [known[name] for name in chosen]
