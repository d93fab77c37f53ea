"""Train a model in the Real World, the Ideal World and between, and compare.

comparison = worlds.compare(lambda: MyNet(width=64), "out/pack", n=5_000, steps=2_000)
print(comparison); comparison.plot()
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import torch
from torch import nn

from worlds.data.splits import Pool, as_split
from worlds.data.stores import Store, open_store
from worlds.report.comparison import Comparison
from worlds.runtime.checks import count
from worlds.runtime.device import pick_device
from worlds.training.build import Data, batch_format, check_loaders, make_loader
from worlds.training.config import TrainConfig
from worlds.training.metrics import Measure
from worlds.training.parts import Parts, check_parts, checked_parts, named_metrics
from worlds.training.run_folder import Run
from worlds.training.series import Updates
from worlds.training.train import CHECKPOINT_SECONDS, train

_BAR_SECONDS: Final = 5  # a shorter run shows no progress


def compare(
    model: str | Callable[[], nn.Module],
    data: Any,
    *,
    n: int,
    batch_size: int = 128,
    steps: int,
    optimizer: str | Callable[..., torch.optim.Optimizer] = "sgd",
    lr: float = 0.1,
    schedule: str | Callable[[int, int], float] = "cosine",
    loss: str | Measure = "cross_entropy",
    metrics: Mapping[str, Measure] | Iterable[Measure] | None = None,
    worlds: Sequence[str] = ("real", "ideal"),
    trials: int = 1,
    augment: str | None = None,
    test: Any = None,
    device: str = "auto",
    out: str | PathLike[str] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    keep_checkpoints: Updates = (),
    keep_predictions: int = 0,
    quiet: bool = False,
    **fields: Any,
) -> Comparison:
    """Train `model` on `data` in each of the worlds and return the comparison.

    The runs are ordinary run directories in `out` (default: a temporary one); the same call goes on
    with what is unfinished. A function of one's own is known by where it is defined: take another
    `out` when it changes.

    Args:
        model: name of an architecture, or a function without arguments that builds a network.
        data: store, path of one, or map-style dataset of pairs (x, y).
        n: samples of the Real World.
        optimizer: name, or (parameters, lr=...) -> optimizer, such as torch.optim.AdamW.
        schedule: name, or (step, steps) -> factor of lr.
        loss: "cross_entropy", "mse", or (outputs, targets) -> mean of the batch.
        metrics: functions (outputs, targets) -> mean of the batch, by name or in a list.
        worlds: of "real", "ideal", "bootstrap" and "reuse:K", where as many samples are used as
            make K uses each.
        test: store, path, split or dataset to measure on; default: the test split of the store.
        device: "auto", "cpu", "cuda" or "cuda:K".
        checkpoint_seconds: between two states to go on from.
        keep_checkpoints: weights to keep: "log:K" (a decade), "every:K" or numbers of updates.
        keep_predictions: test samples whose logits are kept at each log point.
        quiet: no progress bars.
        fields: of worlds.TrainConfig, such as momentum=0.9, log=100, seed=1.

    Raises ValueError if the parts do not fit each other or the data.
    """
    if isinstance(worlds, str):
        raise ValueError(f'worlds must be several, such as ("real", "ideal"), got {worlds!r}')
    if "learning_rate" in fields:
        raise ValueError("compare calls the learning rate lr: give lr= instead of learning_rate=")
    # Names and functions of the caller become a config and parts.
    parts, named = checked_parts(model=model, optimizer=optimizer, schedule=schedule, loss=loss)
    parts = replace(parts, metrics=named_metrics(metrics))
    config = TrainConfig(
        named.pop("model"),
        n=n,
        batch_size=batch_size,
        steps=steps,
        learning_rate=lr,
        augment=augment,
        **({"log": "spaced"} | named | fields),
    )
    # A run for each world of each trial, checked before the first begins.
    pools = _data(data, test)
    configs = _configs(config, worlds, count("trials", trials))
    where = torch.device(pick_device(device))
    _check(configs, pools, parts)
    folder = Path(mkdtemp(prefix="worlds-")) if out is None else Path(out)
    options: dict[str, Any] = {
        "device": where,
        "parts": parts,
        "checkpoint_seconds": checkpoint_seconds,
        "keep_checkpoints": keep_checkpoints,
        "keep_predictions": keep_predictions,
    }
    return Comparison(tuple(_train(each, pools, folder, quiet, options) for each in configs))


def _train(
    config: TrainConfig, data: Data, folder: Path, quiet: bool, options: dict[str, Any]
) -> Run:
    """Train one run, with a bar on stderr once it takes its time."""
    name = f"{config.world.replace(':', '-')}-{config.trial}"
    with step_bar(config.steps, name, quiet, delay=_BAR_SECONDS) as (_, on_step):
        return train(config, data, folder / name, on_step=on_step, **options)


def _configs(config: TrainConfig, worlds: Sequence[str], trials: int) -> list[TrainConfig]:
    """Return a config for each world of each trial."""
    found = [replace(config, trial=t, world=world) for t in range(trials) for world in worlds]
    # Of reuse:K as many samples as make K uses each.
    samples = config.steps * config.batch_size
    return [c if c.reuse is None else replace(c, n=-(-samples // c.reuse)) for c in found]


def _data(data: Any, test: Any) -> Data:
    """Return the splits to train and measure on. Raises ValueError if there is nothing to measure
    on.
    """
    # A store has both splits; a data set is one, and needs the other beside it.
    store = open_store(data) if isinstance(data, str | PathLike) else data
    pool = store.train if isinstance(store, Store) else as_split(store)
    if test is None and isinstance(store, Store):
        measured: Pool = store.test
    elif test is None:
        raise ValueError("data has no test split: give test, another dataset, to measure on")
    else:
        other = open_store(test) if isinstance(test, str | PathLike) else test
        measured = other.for_testing if isinstance(other, Store) else as_split(other, "test")
    name = store.source if isinstance(store, Store) else type(data).__name__
    return Data(pool, measured, name=name)


def _check(configs: Sequence[TrainConfig], data: Data, parts: Parts) -> None:
    """Raises ValueError for whatever can be seen without training, before the first run."""
    # A loader of each run, and the first batch of training and test data.
    check_loaders(configs, data)
    measured = replace(configs[0], world="real", n=len(data.test), steps=1, batch_size=1)
    batches = [
        next(iter(make_loader(config, split, batch_format(config, torch.device("cpu")))))
        for config, split in ((configs[0], data.train), (measured, data.test))
    ]
    # They must be alike, and fit the parts of the caller.
    kinds = [(x.dtype, y.dtype, x.shape[1:]) for x, y in batches]
    if kinds[0] != kinds[1]:
        told = " and ".join(f"{x} {tuple(shape)} with targets {y}" for x, y, shape in kinds)
        raise ValueError(f"training and test data must be alike, got {told}")
    if parts.model is not None:
        classes = len(data.train.class_names)
        check_parts(parts, classes, batches[0], configs[0].loss)


@contextmanager
def step_bar(
    total: int, name: str, quiet: bool, **options: Any
) -> Iterator[tuple[Any, Callable[[int], None]]]:
    """Show a bar of a run's steps on stderr; yield it, and what moves it to a number of updates."""
    from tqdm import tqdm

    with tqdm(total=total, desc=name, unit="step", disable=quiet, smoothing=0.05, **options) as bar:

        def on_step(updates: int) -> None:
            if bar.n == 0 and updates > 1:  # resumed: not done by this process
                bar.initial = updates - 1
            bar.update(updates - bar.n)

        yield bar, on_step
