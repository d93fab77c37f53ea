"""Progress of long work, as the library reports it to whoever called.

    def show(progress: Progress) -> None:
        print(f"{progress.phase}: {progress.done:,.0f} of {progress.total:,.0f} {progress.unit}")

    cifar5m.verify("out/tiny", on_progress=show)

A callback may raise: the work stops there, what is finished is kept, and the error is the caller's.
"""

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One report: `done` of `total` units in a phase, counting what an earlier run has done."""

    phase: str
    done: float
    total: float | None = None  # None: not known
    unit: str = "images"
    detail: str = ""  # what else is worth seeing now, such as the loss
    note: str = ""  # a line for people about an event, such as a retry; nothing was done


OnProgress = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Report to nobody."""


class Phase:
    """The count of one phase; calling it with an amount reports that much more as done."""

    def __init__(
        self,
        name: str,
        total: float | None,
        on_progress: OnProgress | None,
        done: float = 0,
        unit: str = "images",
    ) -> None:
        self.name, self.total, self.done, self.unit = name, total, done, unit
        self._report = on_progress or ignore
        self()

    @classmethod
    def of(
        cls,
        name: str,
        items: Iterable[Sized],
        waiting: Iterable[Sized],
        on_progress: OnProgress | None,
    ) -> "Phase":
        """Return the phase of work on `items`, such as shards, of which `waiting` are not done."""
        # What an earlier run has done counts as done.
        total = sum(map(len, items))
        return cls(name, total, on_progress, total - sum(map(len, waiting)))

    def __call__(self, amount: float = 0, detail: str = "") -> None:
        """Report `amount` more units as done; with 0, only give the callback its say."""
        self.done += amount
        self._report(Progress(self.name, self.done, self.total, self.unit, detail))

    def note(self, line: str) -> None:
        """Report a line for people."""
        self._report(Progress(self.name, self.done, self.total, self.unit, note=line))
