"""Commands in processes of their own, without the seconds of importing torch and diffusers.

Each is forked from one process that has imported them, so it can be killed, stopped and waited for
as any other. `one_worker_is_a_thread` saves the processes of tests that are not about them.
"""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import pytest

from worlds.runtime import processes

_IMPORTED = [
    "worlds.runtime.torchvision_ops",  # before timm
    "timm",
    "diffusers.models.unets.unet_2d",
    "diffusers.schedulers",
    "cifar5m.engines.run",
    "cifar5m.engines.label",
    "worlds.training.train",
]


class Forked:
    """`python -m program *arguments`, or a function with them, in a forked process, with the
    methods of subprocess.Popen.

    `group` begins a process group of its own. What the process prints is in `out` and `error` after
    the wait.
    """

    def __init__(self, program, *arguments: object, group: bool = False, **variables: str):
        self._printed = []
        for _ in range(2):
            descriptor, path = tempfile.mkstemp()
            os.close(descriptor)
            self._printed.append(Path(path))
        given = program, arguments, variables, group, self._printed
        self._process = _forkserver().Process(target=_run, args=given)
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 120) -> int:
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still runs after {timeout} s"
        if self._printed[0].exists():
            self.out, self.error = (path.read_text() for path in self._printed)
            for path in self._printed:
                path.unlink()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def fork_workers(monkeypatch) -> None:
    """Let the package fork its worker processes too, where how they start is not what is tested."""
    monkeypatch.setattr(processes, "SPAWN", _forkserver())


def _forkserver():
    context = get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


def _run(program, arguments, variables, group, printed) -> None:
    if group:
        os.setpgid(0, 0)
    for descriptor, path in zip((1, 2), printed, strict=True):
        os.dup2(os.open(path, os.O_WRONLY), descriptor)
    os.environ.update(variables)
    if callable(program):
        program(*arguments)
        return
    sys.argv = [program, *map(str, arguments)]
    sys.exit(import_module(program).main(sys.argv[1:]))


@pytest.fixture(scope="module", autouse=True)
def one_worker_is_a_thread():
    """Where this process would start a single worker, it is a thread; by default it is single.

    Tests that ask for more workers, and the processes that tests start, have real ones.
    """
    pool = processes.ProcessPoolExecutor

    def start(count, context, initializer, initargs):
        if count == 1 and initargs[0] is None:  # one that prepares itself may change its process
            return ThreadPoolExecutor(1)
        return pool(count, context, initializer=initializer, initargs=initargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
        patch.setattr(processes, "ProcessPoolExecutor", start)
        yield
