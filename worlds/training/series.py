"""The series that a run keeps beside its latest state: weights after chosen updates, and at every
log point the logits of a fixed probe set.

    train(config, data, folder, keep_checkpoints="log:25", keep_predictions=1_000)

Logits wait in memory for the next checkpoint and are written just before it, as one whole file: a
kill at any time leaves a file that can be read, and a resumed run measures again what comes after
its checkpoint. The probe set is the same for every run on a test set, and a smaller one is its
beginning.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from worlds.data.splits import Pool
from worlds.loaders.samplers import subset
from worlds.runtime.checkpoints import save_checkpoint
from worlds.runtime.checks import integer
from worlds.runtime.files import atomic_write, remove_stale
from worlds.training.evaluation import BatchFormat, Predict, evaluating, in_order
from worlds.training.metrics import calibration_error, is_labels
from worlds.training.objectives import features_of
from worlds.training.run_folder import CHECKPOINTS, PREDICTIONS, read_predictions
from worlds.training.schedules import series_points
from worlds.training.stepper import Stepper

Updates = str | Sequence[int]


class Series:
    """The series of one run; with `writes` false nothing is kept."""

    def __init__(
        self,
        updates: Updates,
        probe: int,
        steps: int,
        test: Pool,
        folder: Path,
        form: BatchFormat,
        writes: bool,
    ) -> None:
        if integer("keep_predictions", probe) < 0:
            raise ValueError(f"keep_predictions must be 0 or more test samples, got {probe}")
        self.folder = folder
        # The weights to keep, and the probe set: the same for all runs on a test set.
        self.updates = frozenset(series_points(updates, steps) if writes else ())
        self._indices = subset(len(test), min(probe, len(test)), 0) if probe and writes else None
        if self._indices is not None:
            self._probe = in_order(test, self._indices, form)
        self._targets: np.ndarray | None = None
        self._logits: dict[int, np.ndarray] = {}  # by step, (N, classes)
        self._features: np.ndarray | None = None  # after the latest of them, (N, d)
        self._saved = 0  # log points in the file

    def keep_weights(self, updates: int, stepper: Stepper) -> None:
        """Write the state dicts after this many updates."""
        stepper.check()
        models = {"weights": stepper.model, "ema": stepper.ema}
        for name, model in models.items():
            if model is not None:
                file = self.folder / CHECKPOINTS / f"{name}-{updates:08d}.pt"
                save_checkpoint(file, model.state_dict())

    def predict(self, step: int, model: nn.Module, predict: Predict) -> float | None:
        """Take the logits and features of the probe set after a step; its calibration error."""
        if self._indices is None:
            return None
        with evaluating(model), features_of(model) as features:
            pairs = [(predict(x).cpu(), y.cpu()) for x, y in self._probe]
        logits, targets = map(torch.cat, zip(*pairs, strict=True))  # (N, classes), (N,)
        self._logits[step], self._targets = logits.half().numpy(), targets.numpy()
        self._features = torch.cat(features).half().numpy() if features else None
        return calibration_error(logits, targets) if is_labels(logits, targets) else None

    def save(self) -> None:
        """Write all logits so far; the state that was reached with them is saved after it."""
        if self._indices is None or self._targets is None or len(self._logits) == self._saved:
            return
        features: dict[str, Any] = {}
        if self._features is not None:
            features["features"] = self._features
        with atomic_write(self.folder / PREDICTIONS) as stream:
            np.savez(
                stream,
                steps=np.array(list(self._logits)),  # (points,)
                indices=self._indices,
                targets=self._targets,
                logits=np.stack(list(self._logits.values())),  # (points, N, classes)
                **features,
            )
        self._saved = len(self._logits)

    def resume(self, updates: int) -> None:
        """Go on after so many updates: forget what is measured again."""
        remove_stale(self.folder / CHECKPOINTS)
        file = self.folder / PREDICTIONS
        if self._indices is None or not file.is_file():
            return
        # Only a file of the same probe set is gone on with.
        kept = read_predictions(file)
        if not np.array_equal(kept.indices, self._indices):
            raise ValueError(
                f"{file} holds predictions of {len(kept.indices):,} test samples, not of "
                f"{len(self._indices):,}: keep as many, or delete it"
            )
        self._targets, self._features = kept.targets, kept.features
        self._logits = {
            int(step): logits
            for step, logits in zip(kept.steps, kept.logits, strict=True)
            if step < updates
        }
