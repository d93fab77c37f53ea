"""Progress bars of the commands, on stderr."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from worlds.formats.layout import Shard
from worlds.runtime.signals import StopSignal


def image_bar(shards: Sequence[Shard], waiting: Sequence[Shard], quiet: bool = False) -> Any:
    """Images made or read, of all `shards`; those not in `waiting` count as done before."""
    from tqdm import tqdm

    total, left = sum(map(len, shards)), sum(map(len, waiting))
    return tqdm(total=total, initial=total - left, unit="img", disable=quiet, smoothing=0.05)


def updating(bar: Any, stop: StopSignal) -> Callable[[float], None]:
    """What moves a bar on, and raises Stopped where a signal came."""

    def update(amount: float) -> None:
        stop.raise_if_set()
        bar.update(amount)

    return update


class DownloadBar:
    """Bytes, rate and remaining time on stderr, and the notes above it."""

    def __init__(self, quiet: bool = False) -> None:
        from tqdm import tqdm

        self.bar: Any = tqdm(
            unit="B",
            unit_scale=True,
            file=sys.stderr,
            disable=True if quiet else None,  # None: where there is no terminal
            delay=0.5,
            leave=False,
        )

    def __enter__(self) -> "DownloadBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def progress(self, done: int, total: int | None) -> None:
        self.bar.total = total
        self.bar.update(done - self.bar.n)

    def note(self, line: str) -> None:
        self.bar.write(line, file=sys.stderr)
