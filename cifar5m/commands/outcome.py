"""How the commands that write folders end: on a signal, on bad input, on a machine's failure, each
with one clear line and an exit code.
"""

import errno
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from cifar5m.errors import first_line

EXIT_FAILED, EXIT_USAGE = 1, 2
SHOWN = 5  # damaged shards that are named


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
        from cifar5m.processes import is_orphan

        if self.number is not None or is_orphan():
            raise Stopped(self.number or signal.SIGTERM)


_SMALLER_MICRO_BATCH = (
    "for the micro-batch; choose a smaller --micro-batch (it decides the bytes, so it needs "
    "another --out)"
)


def exit_code(
    command: str, out: Path, run: Callable[[], int], too_large: str = _SMALLER_MICRO_BATCH
) -> int:
    """What `run` returns; 2 for bad input, 1 where the machine is to blame, 128 + signal if told
    to stop. `too_large` says what to do where the device's memory is too small.
    """
    try:
        return run()
    except Stopped as stopped:
        print(f"{command}: stopped; run the same command to go on", file=sys.stderr)
        return 128 + stopped.number
    except ValueError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (OSError, RuntimeError) as error:
        print(f"{command}: {_explain(error, out, too_large)}", file=sys.stderr)
        return EXIT_FAILED


def tell_damaged(command: str, folder: Path, problems: Sequence[str]) -> None:
    """On stderr, the first damaged shards of a folder by name, how many, and what to do."""
    for line in problems[:SHOWN]:
        print(f"{command}: {line}", file=sys.stderr)
    if problems:
        print(
            f"{command}: {len(problems)} damaged shards were left out; run cifar5m-verify "
            f"{folder} --repair, then this again",
            file=sys.stderr,
        )


def _explain(error: Exception, out: Path, too_large: str) -> str:
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which may not be loaded
        return f"the device's memory is too small {too_large}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {out} is full; what is finished is safe: make room, run again"
    if isinstance(error, PermissionError):
        return f"no permission to write {error.filename}; choose another place"
    return first_line(error)
