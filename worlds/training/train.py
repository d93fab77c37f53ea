"""The reference trainer: one loop for every architecture, world and data set.

    store = open_store("pack")
    run = train(TrainConfig("preresnet18", world="real"), Data.of(store), "runs/real-0")

Real and Ideal World differ in the loader and in nothing else: initial weights, dropout, schedule
and measurements come from the same (seed, trial). The same call resumes a run that was killed,
from its last checkpoint, and on the CPU with the same number of threads the result is equal to the
unbroken run's to the bit.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

import torch

from worlds.runtime.checks import integer
from worlds.runtime.device import check_device, device_name, float32_products
from worlds.runtime.files import locked, remove_stale
from worlds.training.build import Data
from worlds.training.config import TrainConfig, differing_fields
from worlds.training.distributed import ALONE, Replicas
from worlds.training.parts import OWN_NOTHING, Parts
from worlds.training.pretrained import describe_initial
from worlds.training.run_folder import (
    CHECKPOINT,
    CONFIG,
    METRICS,
    SUMMARY,
    Row,
    Run,
    read_run,
    write_description,
)
from worlds.training.series import Updates
from worlds.training.stepper import Graph, NotFinite
from worlds.training.trainer import Trainer

CHECKPOINT_SECONDS: Final = 60.0


def train(
    config: TrainConfig,
    data: Data,
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    last_step: int | None = None,
    graph: Graph = True,
    replicas: Replicas = ALONE,
    parts: Parts = OWN_NOTHING,
    keep_checkpoints: Updates = (),
    keep_predictions: int = 0,
    on_step: Callable[[int], None] = lambda updates: None,
    on_row: Callable[[Row], None] = lambda row: None,
) -> Run:
    """Train one run into its directory, or resume it; a finished one is read and returned.

    `last_step` ends the run after that step (the Ideal World needs no more than the Real World's
    T0) without changing the schedule. `on_step` is called after every update with their number, and
    may raise to leave: the state is saved before. `replicas` are the processes that share the run
    (worlds/training/distributed.py); `parts` functions of one's own. `graph` captures the step of a
    GPU, "compiled" of a compiled network. Neither of what is kept changes the run:
    `keep_checkpoints` ("log:25", "every:1000" or numbers of updates) writes weights,
    `keep_predictions` the logits of so many test samples at each log point.

    Raises ValueError if the directory holds another run, the pool cannot feed the steps, or the
    network does not fit the data; NotFinite if the loss is not finite.
    """
    # What can be refused at once: arguments, and a folder of another run.
    if not isinstance(data, Data):
        raise ValueError(f"data must be such as Data.of(store), got {type(data).__name__}")
    if last_step is not None and not 0 <= integer("last_step", last_step) < config.steps:
        raise ValueError(f"last_step must be in [0, {config.steps}), the steps, got {last_step}")
    if not checkpoint_seconds >= 0:
        raise ValueError(f"checkpoint_seconds must be 0 or more, got {checkpoint_seconds}")
    folder, device = Path(folder), check_device(device)
    initial = describe_initial(config, folder.parent)
    _check_folder(folder, config, data, initial, replicas.world_size)
    # A run that has gone as far as asked is only read.
    if (folder / SUMMARY).is_file() and _covers(_whole(read_run(folder)), last_step):
        return read_run(folder)
    with _torch_settings(config, device):
        limits, keep = (checkpoint_seconds, last_step), (keep_checkpoints, keep_predictions)
        trainer = Trainer(config, data, folder, device, *limits, graph, replicas, parts, keep)
        with locked(folder, "training") if replicas.writes else nullcontext():
            if replicas.writes:  # one rank for all
                _describe(trainer, initial)
            replicas.wait()
            trainer.resume()
            try:
                trainer.run(on_step, on_row)
            except NotFinite as error:
                trainer.summarize("not_finite", error.step)
                raise
            # The last state, and how the run ended.
            trainer.save()
            trainer.summarize(trainer.ended() or "schedule")
            replicas.wait()
    return read_run(folder)


def _describe(trainer: Trainer, initial: str | None) -> None:
    """Write config.json; a summary that is there is of an earlier `last_step`."""
    from importlib.metadata import version

    from worlds.models.measure import parameter_count

    remove_stale(trainer.folder)
    (trainer.folder / SUMMARY).unlink(missing_ok=True)
    write_description(
        trainer.folder,
        trainer.config,
        trainer.data.describe(),
        device_name(trainer.device),
        initial=initial,
        parameters=parameter_count(trainer.stepper.model),
        versions={name: version(name) for name in ("torch", "torchvision", "numpy")},
        ranks=trainer.replicas.world_size,
    )


def _covers(run: Run, last_step: int | None) -> bool:
    """Return whether a finished run goes as far as asked."""
    assert run.summary is not None
    if run.summary.ended != "asked":
        return True
    return last_step is not None and run.summary.updates > last_step


def _whole(run: Run) -> Run:
    """Return a finished run. Raises ValueError if rows have been lost since."""
    assert run.summary is not None
    ends = [None if row is None else row.get("step") for row in (run.final, run.summary.final)]
    if ends[0] != ends[1]:
        raise ValueError(
            f"{run.folder / METRICS} ends at step {ends[0]}, the run ended at {ends[1]}: rows are "
            f"lost; delete {run.folder} to begin again"
        )
    return run


def _check_folder(
    folder: Path, config: TrainConfig, data: Data, initial: str | None, ranks: int
) -> None:
    if not (folder / CONFIG).is_file():
        if (folder / CHECKPOINT).exists():
            raise ValueError(
                f"{folder} holds a {CHECKPOINT} but no {CONFIG}: delete it, or choose another "
                "directory"
            )
        return
    # The same config, data and initial weights, or it is another run.
    saved = read_run(folder)
    differences = differing_fields(saved.config.to_json(), config.to_json())
    differences += saved.description.data.differences(data.describe())
    weights = {"weights": saved.description.initial}
    differences += differing_fields(weights, {"weights": initial})
    if differences:
        raise ValueError(
            f"{folder} holds another run ({'; '.join(differences)}): choose another directory"
        )
    # Other ranks change no result as long as batch norm is over the whole batch.
    before = saved.description.ranks
    if before == ranks or (folder / SUMMARY).is_file():
        return
    if not config.sync_batch_norm:
        raise ValueError(
            f"{folder} was begun with WORLD_SIZE={before}, not {ranks}: without sync_batch_norm "
            "that changes the result"
        )
    warnings.warn(
        f"{folder} was begun with WORLD_SIZE={before} and goes on with {ranks}", stacklevel=3
    )


@contextmanager
def _torch_settings(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Set the current GPU and the precision of products, fork torch's generators; restores all."""
    benchmark, cuda = torch.backends.cudnn.benchmark, device.type == "cuda"
    # Each of them restores what it changes.
    current = torch.cuda.device(device) if cuda else nullcontext()
    generators = torch.random.fork_rng([device] if cuda else [])
    with current, generators, float32_products(config.precision):
        try:
            torch.backends.cudnn.benchmark = True
            yield
        finally:
            torch.backends.cudnn.benchmark = benchmark
