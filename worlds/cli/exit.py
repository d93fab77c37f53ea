"""The end of a command: on a signal, on bad input, on a machine's failure, each with one clear line
and an exit code.
"""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from worlds.cli.parser import Parser
from worlds.runtime.errors import first_line, lacks_memory, printable
from worlds.runtime.signals import Stopped, restored_handlers

EXIT_FAILED, EXIT_USAGE = 1, 2
TRACEBACK = "DEEP_BOOTSTRAP_TRACEBACK"  # in the environment: show where a bug is
SHOWN = 5  # damaged shards that are named
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class _Printable:
    """Standard output without control sequences, which names in foreign files may hold."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(_UNPRINTABLE.sub("?", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@restored_handlers()
def exit_code(
    parser: Parser,
    run: Callable[[], int],
    out: Path | None = None,
    too_large: str = "for this; run it on a larger one",
) -> int:
    """Return the exit code of `run`; an error is one line on stderr and a code of its own.

    Args:
        parser: The command's parser: its name precedes the line, and parameters that a library's
            message names are written as its options.
        run: Does the work and returns the exit code.
        out: The directory that the command writes and resumes. Without one the command has nothing
            to resume, and only reads: a file that cannot be read is bad input.
        too_large: Ends "the device's memory is too small ...": for what, and what to do.

    Returns:
        What `run` returned; 2 for bad input, 1 if the machine failed, 128 + signal if stopped.
    """
    for name in ("stdout", "stderr"):  # closed by whoever started the command, as `>&-` does
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    try:
        with redirect_stdout(_Printable(sys.stdout)):
            code = run()
            sys.stdout.flush()
        return code
    except Stopped as stopped:
        resume = "; run the same command to resume" if out is not None else ""
        kept = f"; {stopped.kept}" if stopped.kept else ""
        message, code = f"stopped{kept}{resume}", 128 + stopped.number
    except KeyboardInterrupt:  # before the command began to listen for signals
        message, code = "stopped", 128 + signal.SIGINT
    except ValueError as error:
        message, code = str(error), EXIT_USAGE
    except OverflowError as error:
        message, code = f"a number is too large: {first_line(error)}", EXIT_USAGE
    except BrokenPipeError:  # whoever read the output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (OSError, RuntimeError, MemoryError) as error:
        read_only = isinstance(error, OSError) and out is None
        message, code = _explain(error, out, too_large), EXIT_USAGE if read_only else EXIT_FAILED
    except Exception as error:  # a bug: one line for the user, and the way to its traceback
        if TRACEBACK in os.environ:
            raise
        message = f"unexpected {type(error).__name__} ({first_line(error)}): please report it, "
        message, code = message + f"with what it prints under {TRACEBACK}=1", EXIT_FAILED
        if lacks_memory(error):  # for a library that is imported
            message = _explain(MemoryError(), out, too_large)
    print(f"{parser.prog}: {printable(parser.as_options(message))}", file=sys.stderr)
    return code


def warn_damaged_shards(command: str, folder: Path, problems: Sequence[str]) -> None:
    """Print the first damaged shards of a directory, how many there are, and what to do."""
    for line in problems[:SHOWN]:
        print(f"{command}: {printable(line)}", file=sys.stderr)
    if problems:
        print(
            f"{command}: {len(problems)} damaged shards were left out; run cifar5m-verify "
            f"{folder} --repair, then this again",
            file=sys.stderr,
        )


def _explain(error: Exception, out: Path | None, too_large: str) -> str:
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which may not be loaded
        return f"the device's memory is too small {too_large}"
    if lacks_memory(error):
        return f"this machine's memory (or ulimit -v) is too small {too_large}"
    if "can't start new thread" in str(error):
        return "no more threads can be started: raise ulimit -u and -v, or use fewer --workers"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" of {out}" if out is not None else ""
        return f"the disk{place} is full; what is finished is safe: make room, run again"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        name = error.filename
        unreadable = name is not None and os.path.exists(name) and not os.access(name, os.R_OK)
        what = "read" if unreadable else "write"
        return f"no permission to {what} {name}: choose another directory"
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"{error.filename} cannot be made where a file is: choose another directory"
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return first_line(error)
