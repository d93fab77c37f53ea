"""Signals that ask a process to stop, and workers whose parent has gone."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

PARENT: Final = "DEEP_BOOTSTRAP_PARENT"  # in the environment of a worker: who started it
_HANDLED: Final = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """The user or the batch system asked the run to stop, with this signal; `kept` says what of its
    work is safe.
    """

    def __init__(self, number: int, kept: str = "") -> None:
        super().__init__(number)
        self.number, self.kept = number, kept


@contextmanager
def restored_handlers() -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM at the end, whatever replaces them within."""
    before = {number: signal.getsignal(number) for number in _HANDLED}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


class StopSignal:
    """Remembers the first SIGINT or SIGTERM; a second one ends the process at once.

    Create it within `restored_handlers`. Outside of the main thread it hears no signals.
    """

    def __init__(self, kept: str = "") -> None:
        self.number: int | None = None
        self.kept = kept  # of a stopped run
        if threading.current_thread() is threading.main_thread():
            for number in _HANDLED:
                signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for again in _HANDLED:
            signal.signal(again, signal.SIG_DFL)

    def raise_if_set(self) -> None:
        """Raise Stopped after a signal, or if the process that started this worker has gone."""
        if self.number is not None or is_orphan():
            raise Stopped(self.number or signal.SIGTERM, self.kept)


def quiet_interrupts() -> None:
    """Show a Ctrl-C that comes before a command handles it, while it imports, as one line."""
    show = sys.excepthook

    def show_interrupt(kind: Any, error: Any, trace: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print("stopped", file=sys.stderr)
        else:
            show(kind, error, trace)

    sys.excepthook = show_interrupt


def is_orphan() -> bool:
    """Return whether the process that started this one as a worker has gone."""
    parent = os.environ.get(PARENT)
    return parent is not None and os.getppid() != int(parent)
