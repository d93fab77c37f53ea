"""Told to stop: by the user, by a batch system, or because the process that asked for the work has
gone.
"""

import os
import signal
from types import FrameType
from typing import Final

PARENT: Final = "DEEP_BOOTSTRAP_PARENT"  # in the environment of a worker: who started it


class Stopped(Exception):
    """The user or the batch system asked the run to stop, with this signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StopSignal:
    """Remembers the first SIGINT or SIGTERM; a second one ends the process at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for again in (signal.SIGINT, signal.SIGTERM):
            signal.signal(again, signal.SIG_DFL)

    def raise_if_set(self) -> None:
        if self.number is not None or is_orphan():
            raise Stopped(self.number or signal.SIGTERM)


def is_orphan() -> bool:
    """Whether the process that started this one as a worker has gone."""
    parent = os.environ.get(PARENT)
    return parent is not None and os.getppid() != int(parent)
