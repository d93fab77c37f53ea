"""Worker processes, as a terminal and a batch system treat them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from worlds.runtime.processes import Workers

REPO = Path(__file__).resolve().parents[3]
CODE = """
import sys
from worlds.runtime.processes import Workers
from worlds.runtime.signals import StopSignal

if __name__ == "__main__":
    stop, found = StopSignal(), []
    with Workers(abs, 2, on_result=found.append) as workers:
        print("started", flush=True)
        sys.stdin.read()
        for number in (-1, -2, -3):
            workers.put(number)
    print(sorted(found), stop.number, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_reaches_the_parent_alone_even_while_workers_start(number, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(CODE)
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(REPO)},
        start_new_session=True,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
    )
    assert process.stdout.readline() == "started\n"  # while the workers import
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (out, err) == (f"[1, 2, 3] {int(number)}\n", "")


def test_a_worker_that_is_killed_with_a_job_it_has_not_read_is_told_as_killed():
    with Workers(abs) as workers:
        workers.put(-1)
        next(iter(workers._pool._processes.values())).kill()
        with pytest.raises(RuntimeError, match="a worker process was killed"):
            workers.finish()


def test_a_script_without_a_main_guard_is_not_run_again_by_its_workers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "print('script')\nfrom worlds.runtime.processes import in_workers\n"
        "print(sorted(in_workers(abs, [-1, 2], 2)))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    run = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True
    )
    assert (run.stdout, run.stderr) == ("script\n[1, 2]\n", "")
