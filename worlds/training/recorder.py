"""A run directory from a training loop of one's own, and the metrics to put in it.

    with Recorder("runs/real", world="real", n=5_000, batch_size=64, steps=2_000) as run:
        for step, (x, y) in enumerate(loader):
            ...
            if run.due(step):
                run.log(step, test=evaluate(model, test), train=evaluate(model, train))

`worlds.read_run`, `worlds.Comparison` and `worlds-report` read it as one of worlds' own runs. T0 is
found where `train_error` is logged, the bootstrap error where both worlds have `test_soft_error`.
"""

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import torch
from torch import nn

from worlds.runtime.checks import integer
from worlds.runtime.files import atomic_write
from worlds.training.config import TrainConfig, differing_fields
from worlds.training.evaluation import evaluating
from worlds.training.metrics import Measure, mean_metrics
from worlds.training.parts import named_metrics
from worlds.training.run_folder import (
    CHECKPOINT,
    CONFIG,
    METRICS,
    SUMMARY,
    DataFacts,
    read_run,
    write_description,
    write_summary,
)

OWN: Final = "own:loop"  # what the config says of what a Recorder does not see


def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    loss: str | Measure = "cross_entropy",
    metrics: Mapping[str, Measure] | Iterable[Measure] | None = None,
) -> dict[str, float]:
    """Return means over all samples of `loader`, in eval mode without gradients: loss; of labels
    error and soft_error; and each of `metrics`, functions of (outputs, targets).
    """
    where = next(model.parameters(), torch.empty(0)).device
    with evaluating(model):
        batches = ((model(x.to(where)), y.to(where)) for x, y in loader)
        return mean_metrics(batches, loss, named_metrics(metrics))


class Recorder:
    """Writer of a run directory from what a training loop measures.

    `world` is "real", "ideal", "bootstrap" or "reuse:K". Other fields of `worlds.TrainConfig`, such
    as optimizer="adam" or learning_rate=1e-3, may be given for the record. An unfinished run in
    the directory is resumed; `start_step` forgets its rows from that step on.

    Raises ValueError if the directory holds another run, or a finished one.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        world: str,
        batch_size: int,
        steps: int,
        n: int | None = None,
        model: str = "own model",
        data: str = "own data",
        start_step: int | None = None,
        **fields: Any,
    ) -> None:
        if n is None and world != "ideal":
            raise ValueError(f"the {world} world has n samples: give n")
        # What only the loop knows is said to be its own.
        own: dict[str, Any] = {"optimizer": OWN, "schedule": OWN, "loss": OWN, "augment": None}
        own |= {"log": "spaced"} if n is None else {"log": "spaced", "n": n}
        self.config = TrainConfig(
            model,
            world=world,
            batch_size=batch_size,
            steps=steps,
            **(own | fields),
        )
        self.folder = Path(folder)
        self.rows: list[dict[str, Any]] = []
        self._points, self._start = set(self.config.points), time.perf_counter()
        self._open(data, None if start_step is None else integer("start_step", start_step))

    def _open(self, data: str, start_step: int | None) -> None:
        if (self.folder / CHECKPOINT).exists():
            raise ValueError(f"{self.folder} holds a run of worlds.train: choose another directory")
        if (self.folder / CONFIG).is_file():
            # An unfinished run of the same config is gone on with.
            run = read_run(self.folder)
            differences = differing_fields(run.config.to_json(), self.config.to_json())
            if differences:
                raise ValueError(
                    f"{self.folder} holds another run ({'; '.join(differences)}): choose another "
                    "directory"
                )
            if run.finished and start_step is None:
                raise ValueError(
                    f"{self.folder} holds a finished run: choose another directory, or give "
                    "start_step to go on from a step of it"
                )
            end = math.inf if start_step is None else start_step  # first step to forget
            self.rows = [dict(row) for row in run.rows if row["step"] < end]
        # The folder as of a run that has just begun, with the rows that are kept.
        (self.folder / SUMMARY).unlink(missing_ok=True)
        facts = DataFacts(name=data, train=data, test=data)
        versions = {"torch": str(torch.__version__)}
        write_description(self.folder, self.config, facts, "own loop", versions=versions)
        with atomic_write(self.folder / METRICS) as stream:
            stream.writelines(map(_line, self.rows))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()

    def due(self, step: int) -> bool:
        """Return whether the config measures after this step: about 60 steps, even on a log axis,
        and the last (`log=100`: each hundredth).
        """
        return step in self._points

    def log(
        self,
        step: int,
        logits: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        **values: Any,
    ) -> dict[str, Any]:
        """Add the row of a step, counted from 0 and measured after its update; the row.

        `logits` and `targets` of the test set give test_loss, test_error and test_soft_error. A
        value is a number, or numbers by name: test={"error": 0.1} is test_error=0.1.

        Raises ValueError if the steps go backward, or a value is not a number.
        """
        # Steps go forward, and end with the config.
        step = integer("step", step)
        if not 0 <= step < self.config.steps:
            raise ValueError(f"step must be in [0, {self.config.steps:,}), got {step:,}")
        if self.rows and step <= self.rows[-1]["step"]:
            raise ValueError(
                f"step {step:,} comes after step {self.rows[-1]['step']:,} in {self.folder}: steps "
                "go forward; to begin again from a step, make a Recorder with start_step"
            )
        # Numbers by name; of logits those that a trained run has.
        if (logits is None) != (targets is None):
            raise ValueError("logits and targets go together: give both or neither")
        if logits is not None and targets is not None:
            values["test"] = mean_metrics([(logits.detach(), targets)]) | values.get("test", {})
        numbers = _numbers(values)
        if not numbers:
            raise ValueError(f"nothing to log at step {step:,}: give numbers, such as test_error")
        # The columns of every run, and the numbers.
        row = {
            "step": step,
            "updates": step + 1,
            "samples": (step + 1) * self.config.batch_size,
            "seconds": round(time.perf_counter() - self._start, 3),
            **numbers,
        }
        with (self.folder / METRICS).open("ab") as stream:
            stream.write(_line(row))
        self.rows.append(row)
        return row

    def finish(self) -> None:
        """Write that the run is finished, at its last step or wherever it was left."""
        last = self.rows[-1] if self.rows else {"updates": 0, "seconds": 0.0}
        ended = "schedule" if last["updates"] == self.config.steps else "asked"
        seconds = {"seconds": last["seconds"], "evaluation_seconds": 0.0}
        write_summary(self.folder, self.config, self.rows, ended, **seconds)


def _numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Flat numbers by name. Raises ValueError if one is none, or is named as a column of a run."""
    numbers: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in ("updates", "samples", "seconds"):
            raise ValueError(f"{name} is written by the Recorder itself: take another name")
        if isinstance(value, Mapping):
            numbers |= _numbers(value, f"{name}_")
            continue
        try:
            numbers[name] = float(value.detach() if isinstance(value, torch.Tensor) else value)
        except (TypeError, ValueError, RuntimeError):
            told = " ".join(repr(value).split())[:60]
            raise ValueError(f"{name} must be a number, got {told}") from None
    return numbers


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row) + "\n").encode()
