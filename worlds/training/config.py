"""The config of a run: one frozen description of network, world, schedule and measurement.

    config = TrainConfig("preresnet18", world="real", n=50_000, momentum=0.9)
    twin = replace(config, world="ideal")        # differs in the loader and in nothing else
    config.pair_key() == twin.pair_key()

Everything that decides a run's numbers is a field; where it runs and what is printed is not.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from worlds.data.labels import Kind, LabelNoise
from worlds.loaders.normalize import NAMES
from worlds.loaders.samplers import Remainder
from worlds.rng.streams import Name, key_of, stream_name
from worlds.runtime.checks import plain
from worlds.training.schedules import UNIT, Schedule, log_points, spaced_log_points

World = Literal["real", "ideal"]  # of the paper; beside them bootstrap and reuse:K
Optimizer = Literal[
    "sgd", "nesterov", "adam", "adamw", "rmsprop", "adagrad", "lars", "logistic", "muon", "knn"
]
Objective = Literal["labels", "simclr", "rotation"]
Loss = Literal["cross_entropy", "mse"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Grid = Literal["paper", "fast", "spaced"]
StopRule = Literal["train_error", "patience"]
Option = int | float | str | bool

# Numbers with a range: a field's annotation is checked, and its description is in the message.
MOST: Final = 10**10
MOST_POINTS: Final = 10**6  # all are listed
Size = Annotated[int, Meta(ge=1, le=MOST, description=f"an integer from 1 to {MOST:,}")]
Count = Annotated[int, Meta(ge=0, description="an integer of 0 or more")]
Positive = Annotated[float, Meta(ge=0, le=1e30, description="a number of 0 or more")]
Share = Annotated[float, Meta(ge=0, lt=1, description="a number in [0, 1)")]
Shares = Annotated[tuple[Share, Share], Meta(description="two numbers in [0, 1)")]
Steps = Annotated[tuple[int, ...], Meta(description="integers")]
_WORDS: Final = {int: "an integer", float: "a number", str: "text", bool: "True or False"}

SEEDS: Final = ("init_seed", "data_seed", "order_seed", "augment_seed")
BETWEEN: Final = ("bootstrap", "reuse:K")
OUTSIDE: Final = ("optimizer", "loss")  # may be MODULE:NAME; so may arch and schedule
RUN: Final = "run:"  # begins `initial` weights named by the fingerprint of their run
FITTED: Final = ("logistic", "knn")  # optimizers that fit a classifier of frozen features at once
PAPER_EVERY: Final = 64  # log points of the released code; DogBird's are each 32nd step


@dataclass(frozen=True)
class TrainConfig:
    """One run. The defaults are the paper's main protocol (its section 4 and the released sweep).

    ValueError names the field that cannot be.
    """

    arch: str
    options: Mapping[str, Option] = field(default_factory=dict)  # of the architecture
    initial: str | None = None  # weights to begin from: a run folder, *.pt or *.safetensors
    frozen: bool = False  # of them only a new linear head learns
    world: str = "real"  # or ideal; bootstrap; reuse:K, each of the n samples K times
    n: Size = 50_000  # samples of the Real World; decides nothing in an Ideal run, unless disjoint
    disjoint: bool = False  # the Ideal World leaves the Real World's n samples out
    passes: Size = 1  # over the pool that an Ideal run may make: above 1 it is approximate
    steps: Size = 39_000
    batch_size: Size = 128
    # optimizer, schedule and loss: a name, or of a function of one's own MODULE:NAME
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: Share = 0.0  # of sgd, nesterov, rmsprop and muon; the paper's figure 1 has 0.9
    weight_decay: Positive = 0.0
    schedule: str = "cosine"
    unit: int = UNIT  # steps between changes of the rate; 1 in a run of less than two units
    drops: Steps = ()  # units at which schedule "steps" multiplies by `factor`
    factor: float = 0.1
    warmup: int = 0  # steps
    loss: str = "cross_entropy"
    augment: str | None = "crop+flip"
    normalize: str = "symmetric"  # [-1, 1]; the paper's 224 px runs have "unit", [0, 1]
    label_noise: str | None = None  # symmetric:RATE, uniform:RATE, pairs:RATE:3>5[,5>3]
    precision: Precision = "fp32"
    seed: int = 0
    trial: int = 0  # with the seed it names what has no seed of its own below
    log: Grid | Size = "paper"  # fast: without the dense beginning; spaced: 60, even in log steps
    test_eval: Size | None = 10_000  # the first so many test images; None: all
    train_eval: Size | None = 10_000  # at most so many of the n, always the same; None: all n
    stop: StopRule | None = None
    threshold: Share = 0.01  # train error that is T0, and at which stop="train_error" ends a run
    # For stop="patience": log points without a lower test soft-error; with `validation`, epochs
    # without a validation error that is lower by more than `min_improvement`.
    patience: Count = 0
    min_improvement: Share = 0.0
    validation: Count = (
        0  # samples beside the n, labeled as they are, that a Real run is measured on
    )
    remainder: Remainder = "carry"  # of an epoch; the released code's is "drop"
    betas: Shares = (0.9, 0.999)  # of adam, adamw and muon
    mixup: Positive = 0.0  # alpha of Beta(alpha, alpha), the share of the other image; 0: no mixup
    test_noise: bool = False  # the test labels carry the label noise, too; CIFAR-10's do not
    fresh_crops: bool = False  # train metrics draw fresh crops at each log point, as released
    # In place of (seed, trial), the same in every trial: of weights and dropout, of the subset and
    # its label noise, of the orders, of crops, flips and mixup.
    init_seed: int | None = None
    data_seed: int | None = None
    order_seed: int | None = None
    augment_seed: int | None = None
    ema: Share = 0.0  # decay a step of averaged weights, measured as ema_test_* beside; 0: none
    clean_every: Size = 1  # log points between train metrics of unaugmented images
    objective: Objective = "labels"  # or simclr, rotation: a linear probe on n is measured
    sync_batch_norm: bool = True  # under several ranks: means over the batch, not a rank's share
    # Test samples whose logits and last features are kept to compare runs, and test_ece measured.
    compared: Count = 0

    def __post_init__(self) -> None:
        # Types and ranges, as the fields are annotated; numpy's numbers and paths have no JSON.
        for name, kind in annotations().items():
            value = plain(getattr(self, name))
            object.__setattr__(self, name, value)
            try:
                msgspec.convert(value, kind)
            except msgspec.ValidationError:
                raise ValueError(f"{name} must be {_expected(kind)}, got {value!r}") from None
        # Names of which others are known, too: MODULE:NAME, reuse:K.
        choices = {"optimizer": get_args(Optimizer), "loss": get_args(Loss), "normalize": NAMES}
        if self.reuse is None:
            choices["world"] = (*get_args(World), *BETWEEN)
        for name, known in choices.items():
            value = getattr(self, name)
            own = name in OUTSIDE and is_outside(value)
            if value not in known and not own:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        for name in ("seed", *SEEDS):
            key_of(getattr(self, name) or 0)
        self._check_combinations()
        self.rate  # noqa: B018  the schedule checks its own fields
        self.noise  # noqa: B018  and so does the label noise

    def _check_combinations(self) -> None:
        """Raise ValueError where two fields do not go together."""
        every = self.log if isinstance(self.log, int) else PAPER_EVERY
        if self.log != "spaced" and self.steps > MOST_POINTS * every:
            raise ValueError(
                f"steps={self.steps} with a log point each {every} steps are over {MOST_POINTS:,} "
                "points: give a larger log"
            )
        if self.test_noise and self.label_noise is None:
            raise ValueError("test_noise=True needs label noise: give label_noise")
        if self.optimizer in ("nesterov", "muon") and not self.momentum:
            raise ValueError(f"optimizer {self.optimizer} needs a momentum above 0, such as 0.9")
        if self.optimizer in ("adam", "adamw", "adagrad") and self.momentum:
            raise ValueError(f"{self.optimizer} takes no momentum, got {self.momentum}")
        if self.frozen and self.initial is None:
            raise ValueError("frozen=True trains a head on given weights: give initial")
        if self.optimizer in FITTED and (not self.frozen or self.steps != 1):
            raise ValueError(f"optimizer {self.optimizer} fits the head of frozen=True in steps=1")
        supervised = self.frozen or self.mixup or self.ema or self.loss == "mse"
        if self.objective != "labels" and supervised:
            raise ValueError(f"objective {self.objective} takes no frozen, mixup, ema or loss")
        if self.objective == "simclr" and self.normalize != "symmetric":
            raise ValueError(f'simclr takes normalize="symmetric", got {self.normalize!r}')
        read_off = self.validation > 0 and self.stop is None  # by the report, from a whole run
        if (self.stop == "patience") != (self.patience > 0) and not read_off:
            raise ValueError(
                f'stop="patience" and patience of 1 or more go together, got {self.stop!r} and '
                f"{self.patience}"
            )

    @property
    def fresh(self) -> bool:
        """True if no sample is used twice: the Ideal World."""
        return self.world == "ideal"

    @property
    def tied(self) -> bool:
        """True if the Real World's n samples matter in the Ideal World, too."""
        return self.disjoint or self.objective != "labels"

    @property
    def reuse(self) -> int | None:
        """K of the world reuse:K."""
        name, _, times = self.world.partition(":")
        return int(times) if name == "reuse" and times.isdigit() and int(times) else None

    @cached_property
    def rate(self) -> Schedule:
        """The learning rate of each step; of a schedule of one's own what its factors multiply."""
        return Schedule(
            "constant" if is_outside(self.schedule) else self.schedule,
            self.learning_rate,
            self.steps,
            self.unit,
            tuple(self.drops),
            self.factor,
            self.warmup,
        )

    @cached_property
    def noise(self) -> LabelNoise | None:
        """The noise on the training labels; test labels stay clean without `test_noise`."""
        if self.label_noise is None:
            return None
        return parse_label_noise(self.label_noise, *self.stream("data"))

    def stream(self, part: str) -> Name:
        """Return the seed and trial that name a part's stream: init, data, order or augment."""
        return stream_name(getattr(self, f"{part}_seed"), self.seed, self.trial)

    @cached_property
    def points(self) -> list[int]:
        """The steps after which everything is measured: the grid of `log`, and the last step."""
        # Even on a log axis, each so many steps, or the released code's.
        if self.log == "spaced":
            grid = spaced_log_points(self.steps)
        elif isinstance(self.log, int):
            grid = log_points(self.steps, self.log, dense=False)
        else:
            grid = log_points(self.steps, PAPER_EVERY, dense=self.log == "paper")
        return sorted({*grid, self.steps - 1})

    def to_json(self) -> dict[str, Any]:
        """Return all fields as plain values; `from_json` gives an equal config."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Return the config of saved values. Raises ValueError for unknown fields."""
        # Under today's names, whoever wrote them.
        values = {_RENAMED.get(name, name): value for name, value in values.items()}
        check_fields(values, cls, "a training config")
        if "arch" not in values:
            raise ValueError("a training config needs the field arch")
        return cls(**values)

    def fingerprint(self) -> str:
        """Return the hex sha256 of all fields: the name of this run."""
        return _digest(self.to_json())

    def pair_key(self) -> str:
        """Return a key that the Real and the Ideal run of one trial share, and no others."""
        return _digest(self.to_json() | {"world": self._between})

    def group_key(self) -> str:
        """Return a key that all trials of both worlds share."""
        return _digest(self.to_json() | {"world": self._between, "trial": None})

    @property
    def _between(self) -> str | None:
        return None if self.world in get_args(World) else self.world


@cache
def annotations() -> dict[str, Any]:
    return get_type_hints(TrainConfig, include_extras=True)


def _expected(kind: Any) -> str:
    """Return in words what a field's annotation asks for."""
    # A range describes itself; of names all are listed.
    if hasattr(kind, "__metadata__"):
        return str(kind.__metadata__[0].description)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    parts = [_expected(part) for part in get_args(kind) if part is not type(None)]
    return " or ".join(parts) or _WORDS[kind]


def check_fields(values: Mapping[str, Any], kind: Any, name: str) -> None:
    """Raise ValueError if saved values have fields that their dataclass does not know."""
    unknown = sorted(set(values) - {f.name for f in fields(kind)})
    if unknown:
        raise ValueError(f"{name} has no field {', '.join(map(repr, unknown))}")


def is_outside(name: object) -> bool:
    """Return whether a name is that of a function outside of worlds, MODULE:NAME."""
    return isinstance(name, str) and all(name.partition(":"))


def differing_fields(saved: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Return one phrase for each field in which two configs (as JSON) differ."""
    return [
        f"{name} = {saved.get(name)!r} there, {present.get(name)!r} here"
        for name in sorted({*saved, *present})
        if saved.get(name) != present.get(name)
    ]


def parse_label_noise(text: str, seed: int = 0, trial: int = 0) -> LabelNoise:
    """Read `symmetric:0.2`, `uniform:0.5` or `pairs:0.3:3>5` (class 3 becomes class 5)."""
    # KIND:RATE, and of pairs also FROM>TO, FROM>TO.
    kind, _, rest = text.partition(":")
    rate, _, pairs = rest.partition(":")
    if kind not in get_args(Kind):
        raise ValueError(_NOISE_FORM.format(text))
    try:
        ends = [item.partition(">") for item in pairs.split(",")] if pairs else []
        table = {int(source): int(target) for source, _, target in ends}
        return LabelNoise(kind, float(rate), seed, trial, table)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{_NOISE_FORM.format(text)} ({error})") from error


_NOISE_FORM: Final = (
    "label noise is symmetric:RATE, uniform:RATE or pairs:RATE:FROM>TO[,FROM>TO], got {!r}"
)


_ADDED: Final = (
    *("min_improvement", "validation", "remainder", "betas", "mixup", "test_noise"),
    *("fresh_crops", "clean_every", *SEEDS, "objective", "ema", "sync_batch_norm", "compared"),
)
_RENAMED: Final = {"normalise": "normalize"}  # fields of earlier versions, which name runs


def _digest(values: dict[str, Any]) -> str:
    """Return the sha256 of a config's fields, under the names that earlier versions hashed;
    fields that those had not count only where they are not at their default.
    """
    # Today's names back to those that were hashed.
    former = {new: old for old, new in _RENAMED.items()}
    added = {f.name: f.default for f in fields(TrainConfig) if f.name in _ADDED}
    hashed = {
        former.get(name, name): value
        for name, value in values.items()
        if name not in added or plain(value) != added[name]
    }
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


# Fields that decide nothing in an Ideal run: how many samples the Real World has, how its training
# set is measured, and when it stops.
REAL_ONLY: Final = (
    *("n", "train_eval", "threshold", "stop", "patience", "min_improvement", "validation"),
    *("fresh_crops", "clean_every"),
)


def ideal_key(config: TrainConfig) -> str:
    """Return a key that an Ideal run shares with each Real World that it is an Ideal World of."""
    if config.tied:  # then n and trial decide what it leaves out, or is read by
        return config.group_key()
    plain = TrainConfig(config.arch)
    own = {name: getattr(plain, name) for name in REAL_ONLY}
    return replace(config, world="ideal", **own).group_key()
