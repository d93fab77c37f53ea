"""Progress on stderr: one bar a phase, with rate and remaining time."""

import sys
from typing import Any

from worlds.runtime.progress import Progress
from worlds.runtime.signals import StopSignal


class ProgressBars:
    """Draw what a library reports, and raise Stopped if a signal came; `kept` says what is safe.

    with ProgressBars(quiet) as on_progress:
        verify(directory, on_progress=on_progress)
    """

    def __init__(self, quiet: bool = False, kept: str = "") -> None:
        self.quiet, self.stop = quiet, StopSignal(kept)
        self._phase, self._bar = "", None  # type: tuple[str, Any]

    def __enter__(self) -> "ProgressBars":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: Progress) -> None:
        """Move the bar of the phase on; a note goes above it, also where bars are off."""
        self.stop.raise_if_set()
        if progress.note:
            self.write(progress.note, sys.stderr)
            return
        if progress.phase != self._phase:
            self.__exit__()
            self._phase, self._bar = progress.phase, _bar(progress, self.quiet)
        self._bar.total = progress.total
        if progress.detail:
            self._bar.set_postfix_str(progress.detail, refresh=False)
        self._bar.update(int(progress.done + 1e-6) - self._bar.n)

    def write(self, line: str, stream: Any = None) -> None:
        """Print a line above the bar, by default on stdout."""
        from tqdm import tqdm

        tqdm.write(line, file=stream or sys.stdout)


def _bar(progress: Progress, quiet: bool) -> Any:
    from tqdm import tqdm

    in_bytes = progress.unit == "B"
    return tqdm(
        total=progress.total,
        initial=int(progress.done + 1e-6),
        desc=progress.phase,
        unit="B" if in_bytes else f" {progress.unit}",
        unit_scale=in_bytes,
        # Reading is short, mostly: its bar comes late, goes when done, and is for terminals only.
        delay=0.5 if in_bytes else 0,
        leave=not in_bytes,
        disable=True if quiet else None if in_bytes else False,
        smoothing=0.05,
    )
