"""The training loop of one run, and its checkpoint.

At each step: evaluate, save, stop?, step, log.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from worlds.data.splits import window_of
from worlds.loaders.base import Loader
from worlds.loaders.samplers import subset
from worlds.runtime.checkpoints import load_checkpoint, save_checkpoint
from worlds.runtime.checks import integer
from worlds.runtime.device import device_name
from worlds.runtime.errors import first_line
from worlds.runtime.files import json_text, sync
from worlds.training.build import (
    Data,
    batch_format,
    in_layout,
    make_loader,
    make_model,
    takes_channels_last,
    training_seed,
    validation_samples,
)
from worlds.training.config import TrainConfig, is_outside
from worlds.training.distributed import Replicas
from worlds.training.evaluation import Evaluation, evaluating, in_order
from worlds.training.objectives import description_bits, fit_logistic, represented
from worlds.training.parts import OWN_NOTHING, Parts
from worlds.training.run_folder import (
    CHECKPOINT,
    FORMAT,
    METRICS,
    PREDICTIONS,
    Row,
    patience_reached,
    read_rows,
    t0_of,
    write_summary,
)
from worlds.training.series import Series, Updates
from worlds.training.stepper import Graph, Stepper, choose_graph


class Stopwatch:
    """Seconds of training, without those of evaluation and saving."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
        self._since = None


class Trainer:
    """Everything of one run in one process; `run()` trains until the end."""

    def __init__(
        self,
        config: TrainConfig,
        data: Data,
        folder: Path,
        device: torch.device,
        checkpoint_seconds: float,
        last_step: int | None,
        graph: Graph,
        replicas: Replicas,
        parts: Parts = OWN_NOTHING,
        keep: tuple[Updates, int] = ((), 0),
    ) -> None:
        self.config, self.data, self.folder, self.device = config, data, folder, device
        self.replicas, self.schedule = replicas, parts.schedule
        self.last_step = config.steps - 1 if last_step is None else last_step  # counted from 0
        self.checkpoint_seconds = checkpoint_seconds
        # The network with its initial weights, the same in both worlds.
        graph = choose_graph(graph, config, device, replicas, parts)
        torch.manual_seed(training_seed(config))
        model = in_layout(make_model(config, data, parts, folder.parent), config, device, parts)
        if config.sync_batch_norm:
            model = replicas.sync_batch_norm(model, device)
        form = batch_format(config, device, model)
        measured = replace(form, channels_last=takes_channels_last(model, config, parts))
        # The data with the noise on its labels, and the world that hands it out.
        noisy, test = data.with_noise(config)
        self.loader = make_loader(config, noisy, form, replicas)
        # What is measured; an Ideal World has no training set.
        real = not config.fresh
        self.evaluation = Evaluation(
            config,
            test,
            data.cifar10,
            noisy if real else None,
            self.loader.sampler.samples if real else None,
            measured,
            validation_samples(config, len(noisy), window_of(noisy)) if real else None,
            parts,
        )
        keep = keep[0], max(integer("keep_predictions", keep[1]), config.compared)
        self.series = Series(*keep, config.steps, test, folder, measured, replicas.writes)
        self.stepper = Stepper(config, model, device, graph, replicas, parts)
        # Without labels, a probe on the n samples of the Real World is what is measured.
        self.labeled: Loader | None = None
        if config.objective != "labels":
            name, window = config.stream("data"), window_of(noisy)
            chosen = subset(len(noisy), config.n, *name, window=window)
            self.labeled = in_order(noisy, chosen, measured)
        # A network of the package, that predicts by itself, may be measured by a folded copy.
        predicts = self.labeled is None and parts.model is None and not is_outside(config.arch)
        half = config.precision == "bf16" and device.type == "cuda"
        self.evaluation.folds = self.evaluation.folds or (half and predicts)
        # What a checkpoint holds beside the states of the parts above.
        self.rows: list[dict[str, Any]] = []
        self.updates, self.evaluation_seconds = 0, 0.0  # updates made so far
        self.stopwatch = Stopwatch()
        self._metrics_bytes = 0  # length of the metrics file at the last row
        self._saved_at = time.monotonic()

    def run(self, on_step: Callable[[int], None], on_row: Callable[[Row], None]) -> None:
        """Until the end, or until `on_step` raises: then the state is saved first. NotFinite leaves
        the last good checkpoint.
        """
        points, batches, rate = set(self.config.points), iter(self.loader), self.rate
        self.stopwatch.start()
        while True:
            step = self.updates - 1  # the last that was made
            # Keep weights and measure what the step just made, then save.
            if self.updates in self.series.updates:
                self.stopwatch.stop()
                self.series.keep_weights(self.updates, self.stepper)
                self.stopwatch.start()
            if (step in points or step == self.last_step) and not self._is_logged(step):
                on_row(self._measure(step))
            if time.monotonic() - self._saved_at >= self.checkpoint_seconds:
                self.save()
            if self.ended() is not None:
                return
            # The next step; an exception of the caller leaves a state to resume from.
            x, y = next(batches)
            self.stepper.step(x, y, rate(self.updates))
            self.updates += 1
            try:
                on_step(self.updates)
            except BaseException:
                self.save()
                raise

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        factor = 1.0 if self.schedule is None else float(self.schedule(step, self.config.steps))
        return factor * self.config.rate(step)

    def ended(self) -> str | None:
        """Return why nothing more is to be done, or None."""
        if self.updates > self.last_step:
            return "schedule" if self.updates == self.config.steps else "asked"
        if not self._is_logged(self.updates - 1):
            return None
        if self.config.stop == "train_error" and self.t0 is not None:
            return "train_error"
        if self.config.stop == "patience" and not self.config.fresh:
            at, _ = patience_reached(self.config, self.rows, self.config.patience)
            return None if at is None else "patience"
        return None

    @property
    def t0(self) -> int | None:
        return t0_of(self.rows, self.config.threshold)

    def _is_logged(self, step: int) -> bool:
        return bool(self.rows) and self.rows[-1]["step"] == step

    def _measure(self, step: int) -> Row:
        """Measure the network after a step, and write the row."""
        stepper = self.stepper
        stepper.sync_replicas()
        stepper.check()
        self.stopwatch.stop()
        started = time.perf_counter()
        # Without labels, of a classifier that is fitted now on the representation.
        model, predict = stepper.model, stepper.predict
        if self.labeled is not None:
            classes = len(self.data.train.class_names or ())
            with evaluating(model):
                seen = represented(stepper.represent, self.labeled)
                probe = fit_logistic(*seen, classes)
            predict = lambda x: probe(stepper.represent(x))  # noqa: E731
        # The test sets, the training set, and the tests again with averaged weights.
        metrics = self.evaluation.measure(model, predict, step)
        # The size of a linear classifier: bits that tell the training samples apart as it does.
        if self.config.optimizer == "logistic":
            assert self.evaluation.train is not None
            with evaluating(model):
                features, _ = represented(stepper.represent, self.evaluation.train.stored)
            metrics["probe_bits"] = description_bits(model.head, features)  # type: ignore[arg-type]
        if stepper.ema is not None:
            averaged = partial(stepper.logits, stepper.ema)
            metrics |= self.evaluation.measure_sets(stepper.ema, averaged, "ema_")
        calibration = self.series.predict(step, model, predict)
        if self.config.compared:
            metrics["test_ece"] = calibration
        self.evaluation_seconds += time.perf_counter() - started  # waited for the device
        row = {
            "step": step,
            "updates": step + 1,
            "samples": self.loader.sampler.span(step)[1],  # handed out so far
            "learning_rate": self.rate(step),
            "seconds": round(self.stopwatch.seconds, 3),
            "evaluation_seconds": round(self.evaluation_seconds, 3),
            **metrics,
        }
        if self.replicas.writes:
            with (self.folder / METRICS).open("ab") as stream:
                stream.write(json_text(row))
                stream.flush()
                self._metrics_bytes = stream.tell()
        self.rows.append(row)
        self.stopwatch.start()
        return row

    def save(self) -> None:
        """Save the whole state, atomically; never one with a loss that is not finite."""
        self._saved_at = time.monotonic()
        if not self.replicas.writes:
            return
        self.stepper.check()
        self.stopwatch.stop()
        # Rows and logits reach the disk before the checkpoint that counts on them.
        if self._metrics_bytes:
            sync(self.folder / METRICS)
        self.series.save()
        state = {
            "format": FORMAT,
            "fingerprint": self.config.fingerprint(),
            "updates": self.updates,
            "seconds": self.stopwatch.seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "metrics_bytes": self._metrics_bytes,
            "stepper": self.stepper.state_dict(),
            "loader": self.loader.state_dict(),
            "generator": torch.get_rng_state(),
            "cuda_generator": (
                torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
            ),
        }
        save_checkpoint(self.folder / CHECKPOINT, state)
        self.stopwatch.start()

    def resume(self) -> None:
        """Resume from the directory's checkpoint; without one, from the beginning."""
        metrics, path = self.folder / METRICS, self.folder / CHECKPOINT
        if not path.is_file():
            if self.replicas.writes:
                metrics.unlink(missing_ok=True)
                (self.folder / PREDICTIONS).unlink(missing_ok=True)
            return
        state = _checkpoint(path, self.config)
        # A checkpoint behind the end of the metrics is fine, one ahead of it is not.
        held = metrics.stat().st_size if metrics.is_file() else 0
        if held < state["metrics_bytes"]:
            raise ValueError(
                f"{metrics} has {held:,} bytes, at the checkpoint it had "
                f"{state['metrics_bytes']:,}: rows are lost; delete {path} to begin again"
            )
        # The states of network, optimizer, loader and generators.
        self.series.resume(state["updates"])
        self.stepper.load_state_dict(state["stepper"])
        self.loader.load_state_dict(state["loader"])
        torch.set_rng_state(state["generator"])
        if self.device.type == "cuda" and state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"], self.device)
        self.updates, self.stopwatch.seconds = state["updates"], state["seconds"]
        self.evaluation_seconds = state["evaluation_seconds"]
        self._metrics_bytes = state["metrics_bytes"]
        if held and self.replicas.writes:  # rows behind it are measured again
            os.truncate(metrics, self._metrics_bytes)
        self.replicas.wait()
        self.rows = read_rows(metrics)

    def summarize(self, ended: str, bad_step: int | None = None) -> None:
        """Write how the run ended."""
        if self.replicas.writes:
            write_summary(
                self.folder,
                self.config,
                self.rows,
                ended,
                bad_step=bad_step,
                updates=self.updates,
                seconds=round(self.stopwatch.seconds, 3),
                evaluation_seconds=round(self.evaluation_seconds, 3),
                device=device_name(self.device),
            )


def _checkpoint(path: Path, config: TrainConfig) -> dict[str, Any]:
    try:
        state: dict[str, Any] = load_checkpoint(path)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read ({first_line(error)}): delete it to begin again"
        ) from error
    if state.get("format") != FORMAT or state.get("fingerprint") != config.fingerprint():
        raise ValueError(f"{path} belongs to another run: delete it to begin again")
    return state
