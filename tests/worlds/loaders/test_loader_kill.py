"""kill -9 in the middle of a training-like loop, then the same command again."""

import hashlib
import json
import os
import signal
import time

import numpy as np

from tests.processes import Forked
from worlds import ArrayStore, RealLoader, write_pack

STEPS = 200


def write_pool(folder):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (500, 32, 32, 3), dtype=np.uint8)
    write_pack([ArrayStore(images, rng.integers(0, 10, 500)).train], folder)


def make_loader(folder):
    from worlds import open_store

    return RealLoader(
        open_store(folder).train, 300, 32, STEPS, seed=5, augment="crop+flip", threads=2
    )


def digest(batch):
    return hashlib.sha256(batch[0].numpy().tobytes() + batch[1].numpy().tobytes()).hexdigest()


def train(folder, log, state):
    """Log each batch's hash, then save the state, as a trainer that checkpoints at every step."""
    loader = make_loader(folder)
    if state.exists():
        loader.load_state_dict(json.loads(state.read_text()))
    for batch in loader:
        with log.open("a") as stream:
            stream.write(f"{loader.step} {digest(batch)}\n")
        unfinished = state.with_suffix(".new")
        unfinished.write_text(json.dumps(loader.state_dict()))
        os.replace(unfinished, state)
        time.sleep(0.002)


def test_a_killed_run_goes_on_with_the_very_next_batch(tmp_path):
    write_pool(tmp_path / "pack")
    paths = tmp_path / "pack", tmp_path / "log", tmp_path / "state"
    for enough in (30, 100):
        process = Forked(train, *paths)
        deadline = time.monotonic() + 60
        while not paths[1].exists() or len(paths[1].read_text().splitlines()) < enough:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert Forked(train, *paths).wait(60) == 0

    unbroken = [digest(batch) for batch in make_loader(paths[0])]
    rows = [line.split() for line in paths[1].read_text().splitlines()]
    assert all(found == unbroken[int(step) - 1] for step, found in rows)
    steps = [int(step) for step, _ in rows]
    # A batch that was logged but not saved is given again; none is left out.
    assert sorted(set(steps)) == list(range(1, STEPS + 1))
    assert len(steps) <= STEPS + 2
