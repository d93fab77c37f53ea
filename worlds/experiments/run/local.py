"""Runs in worker processes: what is unfinished is trained, what fails is told, the rest goes on.

    results = run_jobs(jobs, root, sources, ["cpu", "cpu"], on_progress=..., stopped=...)

A worker trains one run after the other, so that starting Python and torch is paid once. One that
dies takes its present run with it, which the next command resumes; another takes its place.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from worlds.experiments.plan import Job
from worlds.experiments.sources import Sources
from worlds.runtime.files import is_locked
from worlds.runtime.processes import cpu_count
from worlds.runtime.signals import PARENT

_POLL_SECONDS: Final = 0.2


@dataclass
class Progress:
    """What is known of a command's runs, by their names: how each ended, why it failed, which ones
    another process was seen to train, and how far those are that are being trained here.
    """

    ended: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    fraction: dict[str, float] = field(default_factory=dict)

    @property
    def done(self) -> float:
        """Runs, with the parts of those being trained."""
        return len(self.ended) + len(self.failed) + sum(self.fraction.copy().values())


class _Worker:
    """One process and the thread that feeds it."""

    def __init__(
        self,
        device: str,
        threads: int,
        root: Path,
        sources: Sources,
        waiting: "queue.SimpleQueue[Job]",
        progress: Progress,
    ) -> None:
        self.device, self.threads, self.root = device, threads, root
        self.sources, self.waiting, self.progress = sources, waiting, progress
        self.process: subprocess.Popen[str] | None = None
        self.stopping = False
        self._told: subprocess.Popen[str] | None = None  # to stop: a second signal would kill it
        self.thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        while not self.stopping:
            try:
                job = self.waiting.get_nowait()
            except queue.Empty:
                break
            if is_locked(job.folder(self.root)):
                self._come_back_to(job)
            else:
                self._train(job)
        if self.process is not None:
            self._close(self.process)

    def _train(self, job: Job) -> None:
        self.progress.fraction[job.name] = 0.0
        message = self._ask(job)
        del self.progress.fraction[job.name]
        if "ended" in message:
            self.progress.ended[job.name] = message["ended"]
        elif "busy" in message:
            self._come_back_to(job)
        elif not self.stopping:
            self.progress.failed[job.name] = message["error"]

    def _come_back_to(self, job: Job) -> None:
        """Another process trains the run: after all others it is looked at again."""
        self.progress.elsewhere.add(job.name)
        self.waiting.put(job)
        time.sleep(_POLL_SECONDS)

    def _ask(self, job: Job) -> dict[str, Any]:
        """Hand the job over; the worker's last word on it."""
        process = self.process = self.process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        config, folder = job.config.to_json(), str(job.folder(self.root))
        try:
            process.stdin.write(json.dumps({"config": config, "data": job.data, "folder": folder}))
            process.stdin.write("\n")
            process.stdin.flush()
            for line in process.stdout:
                message: dict[str, Any] = json.loads(line)
                if "step" not in message:
                    return message
                self.progress.fraction[job.name] = message["step"] / job.config.steps
        except (BrokenPipeError, ValueError):
            pass  # it died while it was written to, or in the middle of a line
        return {"error": f"its worker ended with code {self._close(process)}"}

    def _close(self, process: "subprocess.Popen[str]") -> int:
        """Wait for the end of a worker that has nothing more to do, or has died; its exit code."""
        with suppress(BrokenPipeError), process:
            pass
        self.process = None
        return process.returncode

    def _start(self) -> "subprocess.Popen[str]":
        given = json.dumps({"sources": self.sources.to_json(), "device": self.device})
        environment = os.environ | {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self.threads)),
            PARENT: str(os.getpid()),
        }
        # A process group of its own, so that Ctrl-C reaches it once, through this process.
        return subprocess.Popen(
            [sys.executable, "-m", "worlds.experiments.run.worker", given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def stop(self) -> None:
        """Have the present run saved and the process ended; may be called again and again."""
        self.stopping, process = True, self.process
        if process is not None and process is not self._told and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            self._told = process


def run_jobs(
    jobs: Sequence[Job],
    root: Path,
    sources: Sources,
    devices: Sequence[str],
    on_progress: Callable[[Progress], None],
    stopped: Callable[[], bool],
) -> Progress:
    """Train `jobs` in one worker a device named; `stopped` is asked, and ends them resumably."""
    progress = Progress()
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    count = min(len(devices), len(jobs))
    threads = max(1, cpu_count() // max(1, count))
    workers = [
        _Worker(device, threads, root, sources, waiting, progress) for device in devices[:count]
    ]
    for worker in workers:
        worker.thread.start()
    while any(worker.thread.is_alive() for worker in workers):
        time.sleep(_POLL_SECONDS)
        on_progress(progress)
        if stopped():
            for worker in workers:
                worker.stop()
    on_progress(progress)
    return progress
