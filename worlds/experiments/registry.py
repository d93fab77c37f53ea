"""The experiments by name: rows of what is run and what is claimed of it.

    RECIPES = (
        Recipe("fig5c", "Convolutions against dense layers", "curves", pairs({"D-FC": ...}),
               claim="...", checks=(Check("gap", "within", tolerance=0.05),), text="Expected: ..."),
    )

The text of a row, and the docstring of its module, are what `worlds-experiment show` prints: the
command, the cost and the expected result.
"""

import difflib
import importlib
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from worlds.experiments.scales import Scale
from worlds.experiments.spec import Center, Check, Experiment, Group, Kind
from worlds.training.config import Precision

Data = Literal["cifar5m", "cifar10", "dogbird", "teacher", "gray", "first5", "last5", "none"]
MODULES: Final = (
    "intro",
    "architectures",
    "photographs",
    "samples",
    "measured",
    "appendix_a",
    "pretraining",
    "noise",
    "decelerators",
    "between",
    "without_labels",
    "open_questions",
)
# Fields of a Recipe that the Experiment takes as they are.
_SAME: Final = ("name", "title", "kind", "claim", "metric", "center", "zoom", "axis", "panels")


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


@dataclass(frozen=True)
class Recipe:
    """One experiment of the list: its groups at a scope, and what an `Experiment` says of them.

    `absent` says, where something is needed that this project has not got, what it is and how to
    get it: what can be run without it is in the groups.
    """

    name: str
    title: str
    kind: Kind
    groups: Callable[[Scope], Iterable[Group]]
    claim: str = ""
    checks: tuple[Check, ...] | Callable[[tuple[Group, ...]], tuple[Check, ...]] = ()
    text: str = ""
    data: Data = "cifar5m"  # what its groups are trained on, where they do not say
    trials: int = 10  # the paper's
    absent: str = ""
    metric: str = "soft_error"
    note: str | Callable[[Scope], str] = ""
    center: Center = "median"
    zoom: float | None = None
    axis: str = ""
    panels: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.data not in get_args(Data):
            raise ValueError(f"data must be one of {', '.join(get_args(Data))}, got {self.data!r}")

    def build(self, scope: Scope) -> Experiment:
        """Return the experiment at a scope."""
        groups = tuple(self.groups(scope))
        same = {name: getattr(self, name) for name in _SAME}
        checks = self.checks(groups) if callable(self.checks) else self.checks
        note = self.note(scope) if callable(self.note) else self.note
        return Experiment(**same, groups=groups, checks=checks, note=note)


def recipes() -> list[Recipe]:
    """Return all recipes, in the order of MODULES; their texts begin with their modules'."""
    found: list[Recipe] = []
    for name in MODULES:
        module = importlib.import_module(f"worlds.experiments.figures.{name}")
        # The module's docstring, then the recipe's own paragraphs.
        about = (module.__doc__ or "").strip()
        for each in module.RECIPES:
            paragraphs = [textwrap.fill(part, 100) for part in each.text.split("\n\n")]
            found.append(replace(each, text="\n\n".join(filter(None, [about, *paragraphs]))))
    # A name is a file's name, too.
    name, count = Counter(recipe.name for recipe in found).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{count} experiments are called {name}")
    return found


def find_recipes(names: list[str]) -> list[Recipe]:
    """Return the recipes of these names, each once; "all" is every one. ValueError lists them."""
    # Misspelled names are all told, the first with what is close to it.
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
