"""Run folders whose curves are known formulas, so that what is read off them has a closed form.

    Ideal test soft-error    (t + 1) ** -exponent                       after t steps
    Real test soft-error     the same + gap * min(1, t / t0)
    Real train error         0.9 * 0.011 ** (t / t0): just under 1 % at step t0

A trial k shifts nothing of T0 and lifts every test curve by the factor 1 + spread * k.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from worlds.experiments.linear_regression import TAILS, toys
from worlds.experiments.linear_regression import config_of as toy_config
from worlds.experiments.linear_regression import write_run as write_toy
from worlds.runtime.files import write_json
from worlds.training.config import TrainConfig
from worlds.training.run_folder import CONFIG, METRICS, SUMMARY, Run, read_run

DATA = {"name": "made", "train": "a" * 64, "test": "b" * 64, "cifar10": None}


def config(**fields: Any) -> TrainConfig:
    return TrainConfig(**{"arch": "net", "steps": 401, "log": 20, "n": 1_000, **fields})


def write_run(
    folder: Path,
    config: TrainConfig,
    row: Callable[[int], dict[str, Any]],
    *,
    finished: bool = True,
    ended: str = "schedule",
    data: dict[str, Any] = DATA,
) -> Run:
    """A run with the metrics `row(step)` at each of its log points."""
    rows = [
        {"step": step, "updates": step + 1, "samples": (step + 1) * config.batch_size}
        | {"learning_rate": config.rate(step), "seconds": 0.01 * step, **row(step)}
        for step in config.points
    ]
    described = {"format": 1, "config": config.to_json(), "fingerprint": config.fingerprint()}
    described |= {"data": data, "parameters": 7, "versions": {"torch": "0"}, "device": "cpu"}
    write_json(folder / CONFIG, described)
    (folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        summary = {"format": 1, "steps": config.steps, "updates": config.steps, "ended": ended}
        write_json(folder / SUMMARY, summary | {"final": rows[-1], "seconds": 4.0})
    return read_run(folder)


def rows_of(
    config: TrainConfig,
    *,
    exponent: float = 0.25,
    gap: float = 0.02,
    t0: int = 200,
    spread: float = 0.0,
) -> Callable[[int], dict[str, Any]]:
    """The formulas above; error is 0.9 of soft-error, and the Real World's loss grows."""
    lift = 1 + spread * config.trial

    def row(step: int) -> dict[str, Any]:
        soft = (step + 1) ** -exponent * lift
        if config.world == "ideal":
            return {"test_soft_error": soft, "test_error": 0.9 * soft, "test_loss": 2 * soft}
        share = min(1.0, step / t0)
        train = 0.9 * 0.011 ** (step / t0)
        test = soft + gap * share
        return {
            "test_soft_error": test,
            "test_error": 0.9 * test,
            "test_loss": 2 * soft + 10 * gap * share,
            "train_error": train,
            "train_soft_error": 1.1 * train,
            "train_loss": 3 * train,
            "train_clean_error": 0.8 * train,
        }

    return row


def write_pair(
    root: Path, real: TrainConfig, trials: Sequence[int] = (0,), ideal: bool = True, **curve: Any
) -> tuple[list[Run], list[Run]]:
    """Real and Ideal runs of each trial, in `root`/real-K and `root`/ideal-K."""
    made: tuple[list[Run], list[Run]] = ([], [])
    for trial in trials:
        for index, world in enumerate(("real", "ideal") if ideal else ("real",)):
            own = replace(real, world=world, trial=trial)
            run = write_run(root / f"{world}-{trial}", own, rows_of(own, **curve))
            made[index].append(run)
    return made


def write_toys(folder: Path, trials: int, tails: Sequence[float] = TAILS) -> None:
    """Runs of the toy example: for each case and tail an Ideal World and `trials` Real ones."""
    for toy in toys(tails):
        place = folder / f"{toy.case}-{toy.tail_variance}"
        write_toy(place / "ideal-0", toy_config(toy, "ideal"))
        for trial in range(trials):
            write_toy(place / f"real-{trial}", toy_config(toy, "real", trial=trial))
