"""How the commands that write folders end: one clear line and an exit code for whatever happens."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path

from cifar5m.commands.generate import EXIT_FAILED, EXIT_USAGE, Stopped


def exit_code(command: str, out: Path, run: Callable[[], int]) -> int:
    """What `run` returns; 2 for bad input, 1 where the machine is to blame, 128 + signal if told
    to stop.
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
        print(f"{command}: {_explain(error, out)}", file=sys.stderr)
        return EXIT_FAILED


def _explain(error: Exception, out: Path) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {out} is full; what is finished is safe: make room, run again"
    if isinstance(error, PermissionError):
        return f"no permission for {error.filename}"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
