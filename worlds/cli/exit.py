"""How commands end: on a signal, on bad input, on a machine's failure, each with one clear line and
an exit code.
"""

import errno
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from worlds.runtime.errors import first_line
from worlds.runtime.signals import Stopped, restored_handlers

EXIT_FAILED, EXIT_USAGE = 1, 2
SHOWN = 5  # damaged shards that are named


@restored_handlers()
def exit_code(
    command: str,
    out: Path,
    run: Callable[[], int],
    too_large: str = "for this; run it on a larger one",
) -> int:
    """What `run` returns; 2 for bad input, 1 where the machine is to blame, 128 + signal if told
    to stop. `too_large` ends the sentence that a device's memory is too small: for what, and what
    to do.
    """
    try:
        return run()
    except Stopped as stopped:
        print(f"{command}: stopped; run the same command to go on", file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:  # before the command began to listen for signals
        return interrupted(command)
    except ValueError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (OSError, RuntimeError) as error:
        print(f"{command}: {_explain(error, out, too_large)}", file=sys.stderr)
        return EXIT_FAILED


@restored_handlers()
def in_one_line(command: str, run: Callable[[], int]) -> int:
    """What `run` returns; 2 for bad input, 1 where it broke down and 128 + signal if told to stop,
    each with one line: for commands that leave nothing to go on with.
    """
    try:
        return run()
    except Stopped as stopped:
        return interrupted(command, stopped.number)
    except (ValueError, OSError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except RuntimeError as error:
        print(f"{command}: {first_line(error)}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return interrupted(command)


def interrupted(command: str, number: int = signal.SIGINT) -> int:
    """The exit code of a signal where nothing is there to go on with, told in a line."""
    print(f"{command}: stopped", file=sys.stderr)
    return 128 + number


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
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to write {error.filename}; choose another place"
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"{error.filename} cannot be made where a file is; choose another place"
    return first_line(error)
