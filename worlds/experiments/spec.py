"""An experiment as the report sees it: groups of runs, a claim about them, the kind of figure.

    Experiment("fig4a", "More samples train longer", claim="...", kind="samples", groups=(...),
               checks=(Check("t0", "rises"), Check("gap", "within", tolerance=0.02)),
               command="worlds-experiment run fig4a --data DIR")

It is written as RUNS/NAME.experiment.json when its runs are started, with every config in full, so
that the report can say what is missing.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec

from worlds.runtime.files import write_json
from worlds.runtime.json_files import convert_json, load_json
from worlds.training.config import TrainConfig, check_fields

Kind = Literal[
    "curves",  # a panel a group: Real, Ideal and train against updates
    "metrics",  # a panel a metric
    "scatter",  # final Ideal against final Real, a dot a group
    "samples",  # the curves of several n over one Ideal World, T(n), L(n) against Ideal(T(n))
    "sizes",  # a panel a network: curves of several n in error and soft-error, and both gaps
    "decompositions",  # test = train + gap beside test = Ideal + bootstrap error
    "rrm",  # robustness, memorization and rationality; a group holds clean and noisy Real runs
    "pairs",  # class-pair noise: the share of a class that is called its partner
    "stopping",  # early stopping by patience against T0
    "table",  # final test errors on each test set
    "sheet",  # sample images of each group's data
    "against",  # quantities of the groups against their `x`, a line a series
]
Relation = Literal["within", "at least", "at most", "rises", "falls", "above", "near"]
Center = Literal["median", "mean"]
SUFFIX: Final = ".experiment.json"
FORMAT: Final = 1


@dataclass(frozen=True)
class Group:
    """The trials that make one panel, dot or bar. `ideal` may be shared with other groups."""

    label: str
    real: tuple[TrainConfig, ...] = ()
    ideal: tuple[TrainConfig, ...] = ()
    panel: str | None = None  # groups of one name share a panel; None: one of its own
    series: str | None = None  # groups of one name share a color in a scatter
    mark: str | None = None  # and of one name here a marker
    drawn: bool = True  # False: only measured, for checks that compare with it
    data: str | None = None  # only runs on this data: its name, or its training fingerprint
    x: float | None = None  # of a group of kind "against"

    def __post_init__(self) -> None:
        for world, configs in (("real", self.real), ("ideal", self.ideal)):
            wrong = [c.world for c in configs if c.fresh != (world == "ideal")]
            if wrong:
                raise ValueError(f"group {self.label!r} lists a run of {wrong[0]} among {world}")
        if not self.real and not self.ideal:
            raise ValueError(f"group {self.label!r} has no run")


@dataclass(frozen=True)
class Check:
    """One number of each group against what the paper says of it.

    within      |quantity - value| <= tolerance        at least, at most     value, with tolerance
    rises       in the order of the groups, each above its predecessor less tolerance; falls
    above       each of `groups` above its counterpart in `others`, less tolerance
    near        each of `groups` within tolerance of its counterpart in `others`

    `quantity` is a name of `worlds.experiments.spec.QUANTITIES`, or METRIC:NAME for another metric
    than the experiment's, such as loss:gap. `groups` are labels; none means all.
    """

    quantity: str
    relation: Relation
    value: float = 0.0
    tolerance: float = 0.0
    groups: tuple[str, ...] = ()
    share: float = 1.0  # of the groups that must be so, where the paper says "mostly"
    others: tuple[str, ...] = ()  # labels, one for each of `groups`

    def __post_init__(self) -> None:
        if self.relation not in get_args(Relation):
            known = ", ".join(get_args(Relation))
            raise ValueError(f"relation must be one of {known}, got {self.relation!r}")
        if self.tolerance < 0:
            raise ValueError(f"tolerance must be 0 or more, got {self.tolerance}")
        compares = self.relation in ("above", "near")
        if compares != bool(self.others) or (compares and len(self.others) != len(self.groups)):
            raise ValueError(
                f"relations above and near take one of `others` for each of `groups`, "
                f"got {self.relation} with {len(self.groups)} and {len(self.others)}"
            )

    def met(self, values: list[float]) -> bool:
        """Return whether the groups' values, in order, are as claimed; `others` come last."""
        if self.relation in ("rises", "falls"):
            sign = 1 if self.relation == "rises" else -1
            steps = [sign * (after - before) for before, after in pairwise(values)]
            return all(step > -self.tolerance for step in steps)
        if self.others:  # their differences are compared with 0
            half = len(values) // 2
            values = [one - other for one, other in zip(values[:half], values[half:], strict=True)]
        has_floor = self.relation != "at most"
        has_ceiling = self.relation in ("within", "near", "at most")
        floor = self.value - self.tolerance if has_floor else -math.inf
        ceiling = self.value + self.tolerance if has_ceiling else math.inf
        met = sum(floor <= value <= ceiling for value in values)
        return met >= self.share * len(values)

    def describe(self, metric: str, labels: Sequence[str]) -> str:
        """Return the claim in words, about groups of these labels."""
        # Pairs of groups, an order of groups, or a value for each.
        name = name_of(self.quantity, metric)
        slack = f" (tolerance {self.tolerance:g})" if self.tolerance else ""
        if self.others:
            first = f"{self.groups[0]} {self.relation} {self.others[0]}"
            more = f" and {len(self.others) - 1} pairs more" if len(self.others) > 1 else ""
            most = f", in {self.share:.0%} of them" if self.share < 1 else ""
            return f"{name}: {first}{more}{most}{slack}"
        if self.relation in ("rises", "falls"):
            return f"{name} {self.relation} from {labels[0]} to {labels[-1]}{slack}"
        of = f" of {labels[0]}" if len(labels) == 1 else ""
        of += f" in {self.share:.0%} of the groups" if self.share < 1 else ""
        if self.relation == "within":
            return f"{name}{of} within {self.tolerance:g} of {self.value:g}"
        return f"{name}{of} {self.relation} {self.value:g}{slack}"


_NAME: Final = re.compile(r"""[^<>"'&/\\\x00-\x1f\x7f]+""")


@dataclass(frozen=True)
class Experiment:
    """A figure or table. `checks` without an entry means that the report gives no verdict."""

    name: str
    title: str
    kind: Kind
    groups: tuple[Group, ...]
    claim: str = ""
    checks: tuple[Check, ...] = ()
    metric: str = "soft_error"
    command: str = ""
    scale: str | None = None  # of the runs; anything but "paper" is said beside the verdict
    note: str = ""  # one sentence below the figure: what differs from the paper
    center: Center = "median"  # over trials
    zoom: float | None = None  # of a scatter: a second panel of the dots below this in both worlds
    axis: str = ""  # of kind "against": what x is; a leading "log " makes the axis logarithmic
    panels: tuple[tuple[str, ...], ...] = ()  # of kind "against": the quantities of each panel

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            raise ValueError(f"kind must be one of {known}, got {self.kind!r}")
        if Path(self.name).name != self.name or not _NAME.fullmatch(self.name):
            raise ValueError(f"an experiment's name is part of file names, got {self.name!r}")
        # Labels name groups in checks, so they differ.
        labels = [group.label for group in self.groups]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(f"experiment {self.name} needs groups of different labels: {labels}")
        for check in self.checks:
            strangers = {*check.groups, *check.others} - set(labels)
            if strangers:
                raise ValueError(f"a check of {self.name} names no group of it: {strangers}")

    def labels_of(self, check: Check) -> tuple[str, ...]:
        """Return the groups that a check is about, `others` last."""
        drawn = tuple(group.label for group in self.groups if group.drawn)
        return (*(check.groups or drawn), *check.others)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **msgspec.to_builtins(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Experiment":
        """Read an experiment. Raises ValueError for another format or invalid fields."""
        # Configs are read by their own reader, all else by the types of the fields.
        saved = convert_json(values, _File, "experiment").groups
        groups = []
        for group, runs in zip(values["groups"], saved, strict=True):
            check_fields(group, Group, "a group")
            real, ideal = (
                tuple(map(TrainConfig.from_json, each)) for each in (runs.real, runs.ideal)
            )
            groups.append({**group, "real": real, "ideal": ideal})
        fields = {name: value for name, value in values.items() if name != "format"}
        check_fields(fields, cls, "an experiment")
        return convert_json({**fields, "groups": groups}, cls, "experiment")


class _Runs(msgspec.Struct):
    """The configs of a group in the file."""

    real: tuple[dict[str, Any], ...]
    ideal: tuple[dict[str, Any], ...]


class _File(msgspec.Struct):
    format: Literal[1]
    groups: tuple[_Runs, ...]


def tolerance_of(experiment: Experiment) -> float | None:
    """Return how large a bootstrap error the claim allows, or None if it does not say."""
    for check in experiment.checks:
        if (check.quantity, check.relation) == ("gap", "within"):
            return check.tolerance
        if (check.quantity, check.relation) == ("largest", "at most"):
            return check.value
    return None


def write_experiment(experiment: Experiment, folder: Path) -> Path:
    """Put the experiment beside its runs; the file's path."""
    path = folder / f"{experiment.name}{SUFFIX}"
    write_json(path, experiment.to_json())
    return path


def read_experiment(path: Path) -> Experiment:
    try:
        return Experiment.from_json(load_json(path, dict[str, Any]))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


METRIC_NAMES: Final = {
    "soft_error": "soft-error", "error": "error", "loss": "loss", "ece": "calibration error"
}  # fmt: skip

QUANTITIES: Final = {
    "real": "Real World test {metric}",
    "ideal": "Ideal World test {metric}",
    "gap": "bootstrap error",
    "distance": "|bootstrap error|",
    "surer": "bootstrap error in error less that in soft-error",
    "final_gap": "Real less Ideal World test {metric}, last step",
    "mean_ideal": "mean Ideal World test {metric} over the log points",
    "drop_real": "least fall of the Real World's test {metric} over a change of the rate",
    "drop_ideal": "least fall of the Ideal World's test {metric} over a change of the rate",
    "final_train": "Real World train {metric}, last step",
    "generalization_share": "generalization gap over test {metric}",
    "bootstrap_share": "|bootstrap error| over test {metric}",
    "largest": "largest |Real - Ideal| at any log point up to T0",
    "spread": "largest difference of two Real trials up to T0",
    "train": "Real World train {metric}",
    "train_error": "Real World train error, last step",
    "generalization": "generalization gap",
    "t0": "T0 (updates)",
    "final_real": "Real World test {metric}, last step",
    "final_ideal": "Ideal World test {metric}, last step",
    "alpha": "exponent alpha of Ideal(t)",
    "beta": "exponent beta of T(n)",
    "gamma": "exponent of L(n)",
    "product": "alpha x beta",
    "mismatch": "alpha x beta less the exponent of L(n)",
    "test_error": "test error",
    "cifar10_error": "CIFAR-10 test error",
    "robustness": "robustness gap",
    "memorization": "memorization gap",
    "rationality": "rationality gap",
    "bound": "sum of the three gaps",
    "slack": "sum of the three gaps less the generalization gap in error",
    "memorization_share": "memorization gap over the sum of the three",
    "generalization_error": "generalization gap in error",
    "noisy_train": "train error against the labels trained on",
    "noisy_test": "test error",
    "probe_bits": "bits of the linear classifier",
    "complexity_bound": "bound of the memorization gap by the classifier's bits",
    "complexity_slack": "bound of the memorization gap by bits less the gap",
    "matched_ece": "Real less Ideal World calibration error at equal soft-error, mean up to T0",
    "agreement_between": "agreement of a Real and an Ideal network",
    "agreement_real": "agreement of two Real networks",
    "agreement_ideal": "agreement of two Ideal networks",
    "agreement_gap": "agreement between the worlds less that of two Real networks",
    "cka_between": "CKA of a Real and an Ideal network",
    "cka_real": "CKA of two Real networks",
    "cka_ideal": "CKA of two Ideal networks",
    "cka_gap": "CKA between the worlds less that of two Real networks",
    "member_real": "test error of a Real network",
    "member_ideal": "test error of an Ideal network",
    "ensemble_real": "test error of a Real ensemble",
    "ensemble_ideal": "test error of an Ideal ensemble",
    "gain_real": "gain of a Real ensemble in test error",
    "gain_ideal": "gain of an Ideal ensemble in test error",
    "partner_real": "share called the partner, Real World",
    "partner_ideal": "share called the partner, Ideal World",
    "mass_real": "softmax mass on the partner, Real World",
    "mass_ideal": "softmax mass on the partner, Ideal World",
    "others_gap": "largest difference of the worlds in a confusion of the other classes",
    "pairs_train": "Real World train error, last step",
    "fitted_later": "updates to fit half of the wrong labels over those to fit half of the others",
    "lost": "test {metric} at T0 less that where patience stops",
    "gained": "test {metric} at the last step less that where patience stops",
    "stopped": "test {metric} where patience stops",
    "stopped_at": "updates where patience stops",
    "best": "least test {metric} until then",
    "classes_shown": "classes shown",
    "largest_class": "share of the largest class",
    "labeler_accuracy": "accuracy of the labeler on CIFAR-10",
}


def name_of(quantity: str, metric: str) -> str:
    """Return a quantity in words."""
    # METRIC:NAME is another metric than the experiment's.
    prefix, _, name = quantity.rpartition(":")
    if name not in QUANTITIES:
        raise ValueError(f"unknown quantity {quantity!r}; known: {', '.join(QUANTITIES)}")
    text = QUANTITIES[name].format(metric=METRIC_NAMES[prefix or metric])
    own = prefix and "{metric}" not in QUANTITIES[name]
    return f"{text} in {METRIC_NAMES[prefix]}" if own else text
