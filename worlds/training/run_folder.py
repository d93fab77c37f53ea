"""Run directories: the interface between training and everything that looks at it.

    OUT/real-0/config.json      what was to be done, on which data, with which versions
    OUT/real-0/metrics.jsonl    one row a log point
    OUT/real-0/checkpoint.pt    the latest state
    OUT/real-0/summary.json     written last: a folder without it is not finished
    OUT/real-0/checkpoints/     weights-UPDATES.pt, ema-UPDATES.pt: state dicts that were to be kept
    OUT/real-0/predictions.npz  logits of some test samples at each log point, where asked for, and
                                their features in the last layer but one at the last point

    for run in find_runs("OUT"):
        print(run.config.world, run.final["test_soft_error"], run.stopping_step)

A row holds, flat: `step` (from 0; measured after that step's update), `updates` = step + 1,
`samples`, `learning_rate`, `seconds` and `evaluation_seconds` so far; and loss, error and
soft_error as `test_*`, as `cifar10_*` where CIFAR-10's test set was given, and in the Real World as
`train_*` (augmented images, as the paper measured it) and `train_clean_*` (as they are stored).
With a validation split `validation_*`, against the labels trained on. With label noise:
`train_true_error` (clean images against the labels before noise), `train_kept_error` (only samples
whose label was not changed), `train_corrupted_true_error` and `train_corrupted_error` (only samples
whose label was changed, against the label before and after), and for pairs `test_partner_share`
(test images of a noisy class that are called its partner), `test_partner_mass` (what the softmax
gives to it) and `test_confusion_A_B` (test images of class A that are called B). With `compared`
test samples: `test_ece`, their expected calibration error.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np

from worlds.formats.npz import load_npz
from worlds.runtime.files import write_json
from worlds.runtime.json_files import convert_json, load_json, parse_json
from worlds.training.config import TrainConfig, differing_fields
from worlds.training.metrics import patience_point, stopping_point

CONFIG: Final = "config.json"
METRICS: Final = "metrics.jsonl"
CHECKPOINT: Final = "checkpoint.pt"
CHECKPOINTS: Final = "checkpoints"
PREDICTIONS: Final = "predictions.npz"
SUMMARY: Final = "summary.json"
FORMAT: Final = 1

Row = Mapping[str, Any]
Count = Annotated[int, msgspec.Meta(ge=0, le=10**10)]


class DataFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The data that a run was trained and measured on: a name, and the splits' fingerprints."""

    name: str
    train: str | None
    test: str | None
    cifar10: str | None = None
    classes: tuple[str, ...] | None = None
    pool: Count | None = None  # samples that may be drawn from

    def differences(self, other: "DataFacts") -> list[str]:
        """Return one phrase for each field that differs; a name may."""
        named = msgspec.structs.replace(other, name=self.name)
        return differing_fields(msgspec.structs.asdict(self), msgspec.structs.asdict(named))


class Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of config.json: the config, the data, versions and device."""

    format: Literal[1]
    fingerprint: str
    config: dict[str, Any]
    data: DataFacts
    initial: str | None = None  # sha256 of the weights to begin from
    parameters: Count | None = None
    device: str
    versions: dict[str, str]
    ranks: Annotated[int, msgspec.Meta(ge=1, le=10**6)] = 1  # processes that shared the run


class Summary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of summary.json, written when a run has ended."""

    format: Literal[1]
    ended: str  # "schedule", "train_error", "patience", "asked" or "not_finite"
    bad_step: Count | None = None  # whose loss was not finite
    steps: Count
    updates: Count
    t0: Count | None = None
    final: dict[str, float | None] | None = None
    seconds: float | None = None
    evaluation_seconds: float | None = None
    device: str | None = None


class _Head(msgspec.Struct, frozen=True):
    """The fields of every row."""

    step: Count
    updates: Count


class Predictions(NamedTuple):
    """Outputs of a run for the same test samples at each log point."""

    steps: np.ndarray  # int64 (points,), as in the rows
    indices: np.ndarray  # uint32 (N,), of the samples in the test split
    targets: np.ndarray  # (N,), measured against
    logits: np.ndarray  # float16 (points, N, classes)
    features: np.ndarray | None = None  # float16 (N, d), what the last layer took at the last point


@dataclass(frozen=True)
class Run:
    """The content of a run directory. `summary` is None while the run is not finished."""

    folder: Path
    config: TrainConfig
    description: Description
    rows: tuple[Row, ...]
    summary: Summary | None

    def __repr__(self) -> str:
        state = f"{len(self.rows):,} rows, {'finished' if self.finished else 'unfinished'}"
        return f"Run({self.folder}, {self.config.arch}, {self.config.world} world, {state})"

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @property
    def checkpoints(self) -> dict[int, Path]:
        """The files of kept weights by the number of updates; those of an EMA are beside them."""
        files = sorted((self.folder / CHECKPOINTS).glob("weights-*.pt"))
        return {int(file.stem.rpartition("-")[2]): file for file in files}

    @property
    def predictions(self) -> Predictions:
        """Raises ValueError if the run keeps none, or the file is corrupt."""
        file = self.folder / PREDICTIONS
        if not file.is_file():
            raise ValueError(f"{self.folder} has no {PREDICTIONS}: train with keep_predictions=N")
        return read_predictions(file)

    @property
    def final(self) -> Row | None:
        """The last row, if there is one."""
        return self.rows[-1] if self.rows else None

    @property
    def early_end(self) -> int | None:
        """The last step of a run that ended before its schedule did, else None."""
        if self.summary is None or self.summary.ended == "schedule":
            return None
        return self.summary.updates - 1

    @property
    def stopping_step(self) -> int | None:
        """T0: the first logged step with a train error of at most the config's threshold."""
        return t0_of(self.rows, self.config.threshold)


def write_description(
    folder: Path, config: TrainConfig, data: DataFacts, device: str, **known: Any
) -> None:
    """Write config.json; `known` are other fields of `Description`, such as versions."""
    description = Description(
        format=FORMAT,
        fingerprint=config.fingerprint(),
        config=config.to_json(),
        data=data,
        device=device,
        **known,
    )
    write_json(folder / CONFIG, description)


def write_summary(
    folder: Path, config: TrainConfig, rows: Sequence[Row], ended: str, **known: Any
) -> None:
    """Write summary.json of a run with these rows; `known` are other fields of `Summary`."""
    final = dict(rows[-1]) if rows else None
    counts = {"steps": config.steps, "updates": final["updates"] if final else 0}
    t0 = t0_of(rows, config.threshold)
    values: dict[str, Any] = {"format": FORMAT, "t0": t0, "final": final, **counts, **known}
    write_json(folder / SUMMARY, Summary(ended=ended, **values))


def read_predictions(file: Path) -> Predictions:
    """Read a file of predictions. Raises ValueError if it is corrupt."""
    arrays = load_npz(file, 1 << 40)  # bytes at most
    if {*arrays, "features"} != set(Predictions._fields):  # which earlier files lack
        raise ValueError(f"{file} holds {sorted(arrays)}: expected {sorted(Predictions._fields)}")
    return Predictions(**arrays)


def t0_of(rows: Sequence[Row], threshold: float) -> int | None:
    """Return the step of the first row with a train error of at most `threshold`, or None."""
    index = stopping_point([row.get("train_error", float("nan")) for row in rows], threshold)
    return None if index is None else int(rows[index]["step"])


def patience_reached(
    config: TrainConfig, rows: Sequence[Row], patience: int
) -> tuple[int | None, int]:
    """Return the indices of the row at which patience ends a Real run, or None, and of the best.

    With a validation split: epochs of n samples since the validation error fell by more than
    `min_improvement`; without: log points since the least test soft-error.
    """
    if not config.validation:
        return patience_point([row["test_soft_error"] for row in rows], patience)
    # Patience counts epochs of the n samples here.
    epochs = [row["updates"] * config.batch_size / config.n for row in rows]
    errors = [row["validation_error"] for row in rows]
    return patience_point(errors, patience, epochs, config.min_improvement)


def is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and "config" in load_json(folder / CONFIG, dict[str, Any])


def read_description(folder: Path) -> tuple[Description, TrainConfig]:
    """Return what config.json says, and the config in it; ValueError names what is wrong."""
    description = load_json(folder / CONFIG, Description)
    try:
        return description, TrainConfig.from_json(description.config)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: config: {error}") from error


def read_run(folder: str | Path) -> Run:
    """Return the run in a folder; a last row that was cut off in the writing is left out."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} is not a run directory: it has no {CONFIG}")
    description, config = read_description(folder)
    summary = load_json(folder / SUMMARY, Summary) if (folder / SUMMARY).is_file() else None
    return Run(folder, config, description, tuple(read_rows(folder / METRICS)), summary)


def find_runs(root: str | Path) -> list[Run]:
    """Return all runs at or below `root`, by path."""
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root} is not a directory")
    return [read_run(path.parent) for path in sorted(root.rglob(CONFIG)) if is_run(path.parent)]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file, if there is one, without a last one cut off."""
    if not path.is_file():
        return []
    # A row ends with a newline: what follows the last one was cut off.
    *lines, _ = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        source = f"{path}, line {number}"
        row = parse_json(line, dict[str, int | float | None], source)
        convert_json(row, _Head, source)
        rows.append({k: math.nan if v is None and k != "samples" else v for k, v in row.items()})
    return rows
