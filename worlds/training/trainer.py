"""The training loop of one run, and its checkpoint.

At each step: evaluate, save, stop?, step, log.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from worlds.data.splits import Split
from worlds.loaders.base import Loader
from worlds.loaders.samplers import subset
from worlds.runtime.checkpoints import load_checkpoint, save_checkpoint
from worlds.runtime.checks import integer
from worlds.runtime.device import device_name
from worlds.runtime.errors import first_line
from worlds.runtime.files import json_text, sync, write_json
from worlds.training.build import (
    Data,
    batch_format,
    make_loader,
    make_model,
    noise_of_test,
    training_seed,
    validation_samples,
)
from worlds.training.config import TrainConfig, is_outside
from worlds.training.distributed import Replicas
from worlds.training.evaluation import Evaluation, evaluating, evaluation_batch, in_order
from worlds.training.objectives import description_bits, fit_logistic, represented
from worlds.training.parts import OWN_NOTHING, Parts
from worlds.training.run_folder import (
    CHECKPOINT,
    FORMAT,
    METRICS,
    PREDICTIONS,
    SUMMARY,
    Row,
    patience_reached,
    read_rows,
    t0_of,
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
        self.replicas = replicas
        self.last_step = config.steps - 1 if last_step is None else last_step
        self.checkpoint_seconds = checkpoint_seconds
        form = batch_format(config, device)
        noisy, test = data.train, data.test
        if config.noise is not None:
            if not isinstance(noisy, Split):
                raise ValueError("label noise needs a store whose labels are known")
            noisy = noisy.with_label_noise(config.noise)
            if config.test_noise and isinstance(test, Split):
                test = test.with_label_noise(noise_of_test(config.noise))
        self.schedule = parts.schedule
        self.loader = make_loader(config, noisy, form, replicas)
        real = not config.fresh
        self.evaluation = Evaluation(
            config,
            test,
            data.cifar10,
            noisy if real else None,
            self.loader.sampler.samples if real else None,
            form,
            validation_samples(config, len(noisy)) if real else None,
            parts,
        )
        keep = keep[0], max(integer("keep_predictions", keep[1]), config.compared)
        self.series = Series(*keep, config.steps, test, folder, form, replicas.writes)
        graph = choose_graph(graph, config, device, replicas, parts)
        torch.manual_seed(training_seed(config))
        model = make_model(config, data, parts, folder.parent).to(device)
        if config.sync_batch_norm:
            model = replicas.sync_batch_norm(model, device)
        if form.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.stepper = Stepper(config, model, device, graph, replicas, parts)
        # Without labels, a probe on the n samples of the Real World is what is measured.
        self.labeled: Loader | None = None
        if config.objective != "labels":
            chosen = subset(len(noisy), config.n, *config.stream("data"))
            self.labeled = in_order(noisy, chosen, evaluation_batch(device, noisy), form)
        # A network of the package, that predicts by itself, may be measured by a folded copy.
        predicts = self.labeled is None and parts.model is None and not is_outside(config.arch)
        half = config.precision == "bf16" and device.type == "cuda"
        self.evaluation.folds = self.evaluation.folds or (half and predicts)
        self.rows: list[dict[str, Any]] = []
        self.updates, self.evaluation_seconds = 0, 0.0
        self.stopwatch = Stopwatch()
        self._metrics_bytes = 0
        self._saved_at = time.monotonic()

    def run(self, on_step: Callable[[int], None], on_row: Callable[[Row], None]) -> None:
        """Until the end, or until `on_step` raises: then the state is saved first. NotFinite leaves
        the last good checkpoint.
        """
        points, batches, rate = set(self.config.points), iter(self.loader), self.rate
        self.stopwatch.start()
        while True:
            step = self.updates - 1  # the last that was made
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
            x, y = next(batches)
            self.stepper.step(x, y, rate(self.updates))
            self.updates += 1
            try:
                on_step(self.updates)
            except BaseException:
                self.save()
                raise

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        factor = 1.0 if self.schedule is None else float(self.schedule(step, self.config.steps))
        return factor * self.config.rate(step)

    def ended(self) -> str | None:
        """Why nothing more is to be done, or None."""
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
        self.stepper.agree()
        self.stepper.check()
        self.stopwatch.stop()
        started = time.perf_counter()
        model, predict = self.stepper.model, self.stepper.predict
        if self.labeled is not None:
            with evaluating(model):
                seen = represented(self.stepper.represent, self.labeled)
                probe = fit_logistic(*seen, self._classes)
            predict = lambda x: probe(self.stepper.represent(x))  # noqa: E731
        metrics = self.evaluation.measure(model, predict, step)
        if self.config.optimizer == "logistic":
            assert self.evaluation.train is not None
            metrics["probe_bits"] = self._probe_bits(self.evaluation.train.stored)
        if self.stepper.ema is not None:
            averaged = self.stepper.ema, self.stepper.predict_averaged
            metrics |= self.evaluation.measure_sets(*averaged, "ema_")
        calibration = self.series.predict(step, model, predict)
        if self.config.compared:
            metrics["test_ece"] = calibration
        self.evaluation_seconds += time.perf_counter() - started
        row = {
            "step": step,
            "updates": step + 1,
            "samples": self.loader.sampler.span(step)[1],
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

    @property
    def _classes(self) -> int:
        return len(self.data.train.class_names or ())

    def _probe_bits(self, samples: Loader) -> float:
        """Bits of the linear classifier, as far as the training samples tell it from others."""
        model = self.stepper.model
        with evaluating(model):
            features = torch.cat([self.stepper.represent(x) for x, _ in samples])
        return description_bits(model.head, features)  # type: ignore[arg-type]

    def save(self) -> None:
        """The whole state, atomically. A state with a loss that is not finite is never saved."""
        self._saved_at = time.monotonic()
        if not self.replicas.writes:
            return
        self.stepper.check()
        self.stopwatch.stop()
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
        """Go on from the folder's checkpoint; without one, from the beginning."""
        metrics, path = self.folder / METRICS, self.folder / CHECKPOINT
        if not path.is_file():
            if self.replicas.writes:
                metrics.unlink(missing_ok=True)
                (self.folder / PREDICTIONS).unlink(missing_ok=True)
            return
        state = _checkpoint(path, self.config)
        held = metrics.stat().st_size if metrics.is_file() else 0
        if held < state["metrics_bytes"]:
            raise ValueError(
                f"{metrics} has {held:,} bytes, at the checkpoint it had "
                f"{state['metrics_bytes']:,}: rows are lost; delete {path} to begin again"
            )
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
        if not self.replicas.writes:
            return
        summary = {
            "format": FORMAT,
            "ended": ended,
            "bad_step": bad_step,
            "steps": self.config.steps,
            "updates": self.updates,
            "t0": self.t0,
            "final": self.rows[-1] if self.rows else None,
            "seconds": round(self.stopwatch.seconds, 3),
            "evaluation_seconds": round(self.evaluation_seconds, 3),
            "device": device_name(self.device),
        }
        write_json(self.folder / SUMMARY, summary)


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
