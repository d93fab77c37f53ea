"""A process that trains runs, one after the other, as `worlds.experiments.run.local` tells it.

    python -m worlds.experiments.run.worker '{"sources": {...}, "device": "cpu"}'

A line of JSON on stdin is a run: {"config": {...}, "data": kind, "folder": path}. Lines on stdout
say how far it is, {"step": 120}, and how it ended: {"ended": "schedule"} as its summary says, or
{"error": "one line"}. SIGTERM saves the state of the present run and ends the process.
"""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worlds.experiments.registry import Data
from worlds.experiments.sources import Sources
from worlds.runtime.errors import first_line
from worlds.runtime.files import Busy
from worlds.runtime.signals import Stopped, StopSignal

if TYPE_CHECKING:
    from worlds.training.build import Data as RunData


def main(argv: list[str]) -> int:
    given = json.loads(argv[0])
    stop, sources = StopSignal(), Sources(**given["sources"])
    data = cache(sources.data)

    def on_step(updates: int) -> None:
        if updates % 8 == 0:
            _tell({"step": updates})
        stop.raise_if_set()

    try:
        for line in sys.stdin:
            _tell(run_job(json.loads(line), data, given["device"], on_step))
            stop.raise_if_set()
    except Stopped as stopped:
        return 128 + stopped.number
    return 0


def _tell(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def run_job(
    job: dict[str, Any],
    data: "Callable[[Data], RunData]",
    device: str,
    on_step: Callable[[int], None] = lambda updates: None,
) -> dict[str, str]:
    """Train a run, {"config", "data", "folder"}; {"ended": how}, {"error": "one line"}, or {"busy":
    "one line"} where another process trains it. What else `on_step` raises, such as Stopped, passes
    through, the state saved.
    """
    try:
        return {"ended": _train(job, data, device, on_step)}
    except Busy as busy:
        return {"busy": str(busy)}
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        return {"error": f"{type(error).__name__}: {first_line(error)}"}


def _train(
    job: dict[str, Any],
    data: "Callable[[Data], RunData]",
    device: str,
    on_step: Callable[[int], None],
) -> str:
    from worlds.experiments import linear_regression as toy
    from worlds.training.config import TrainConfig
    from worlds.training.run_folder import read_run
    from worlds.training.stepper import NotFinite
    from worlds.training.train import train

    config, folder = TrainConfig.from_json(job["config"]), Path(job["folder"])
    if config.arch == toy.ARCH:
        toy.write_run(folder, config)
        return "schedule"
    with suppress(NotFinite):  # the summary says so
        train(config, data(job["data"]), folder, device=device, on_step=on_step)
    summary = read_run(folder).summary
    assert summary is not None
    return str(summary["ended"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
