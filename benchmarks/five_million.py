"""CIFAR-5m's size on this machine: start-up, memory, speed, and an Ideal World without a repeat.

    python benchmarks/five_million.py --folder /tmp/five-million      15.4 GB of disk, ten minutes

Writes 5,002,240 random 32-pixel images as a pack (a second call finds it there), then, in a process
of its own, opens it and makes 39,000 Ideal batches of 128 with crop + flip, counting the distinct
indices. Private memory is the peak of what is not the pack's pages. The last line is JSON.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

IMAGES = 5_002_240  # parts 0 to 4 of the released set
STEPS, BATCH = 39_000, 128


class RandomImages:
    """`IMAGES` images in 61 MB: the same 20,000 over and over, shifted in value by the round."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.base = rng.integers(0, 256, (20_000, 32, 32, 3), dtype=np.uint8)
        self.shape = (IMAGES, 32, 32, 3)

    def addresses(self, indices: np.ndarray) -> None:
        return None

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        rounds, within = np.divmod(indices, len(self.base))
        np.add(self.base[within], rounds.astype(np.uint8)[:, None, None, None], out=out)


def write(folder: Path) -> float:
    from worlds.data.pack import write_pack
    from worlds.data.splits import Split
    from worlds.formats.layout import CIFAR10_CLASSES

    labels = np.random.default_rng(1).integers(0, 10, IMAGES)
    split = Split("train", RandomImages(), labels, CIFAR10_CLASSES, f"random {IMAGES}")
    start = time.perf_counter()
    write_pack([split], folder)
    return time.perf_counter() - start


def status_kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


class PeakMemory(threading.Thread):
    """The largest private (anonymous) memory seen, looked at every 10 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.kilobytes, self.done = 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.01):
            self.kilobytes = max(self.kilobytes, status_kilobytes("RssAnon"))


def run(folder: Path) -> dict[str, float]:
    from worlds import IdealLoader, open_store

    before = status_kilobytes("RssAnon")
    peak = PeakMemory()
    peak.start()
    start = time.perf_counter()
    loader = IdealLoader(open_store(folder).train, BATCH, STEPS, augment="crop+flip")
    batches = iter(loader)
    next(batches)
    first = time.perf_counter() - start
    start, samples = time.perf_counter(), 0
    for _, labels in batches:
        samples += len(labels)
    passed = time.perf_counter() - start
    peak.done.set()
    peak.join()
    seen = np.zeros(IMAGES, dtype=bool)
    for step in range(STEPS):
        seen[loader.indices(step)] = True
    return {
        "first_batch_seconds": round(first, 2),
        "samples_per_second": round(samples / passed),
        "samples": samples + BATCH,
        "distinct": int(seen.sum()),
        "private_megabytes_before": before // 1024,
        "private_megabytes_peak": peak.kilobytes // 1024,
    }


def main(argv: list[str] | None = None) -> int:
    parse = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("--folder", type=Path, required=True, help="of the pack")
    parse.add_argument("--run", action="store_true", help="only the run, on a pack that is there")
    args = parse.parse_args(argv)
    if args.run:
        import torch

        import worlds.loaders.loaders  # noqa: F401  what a program has imported when it makes its loader

        torch.set_num_threads(1)
        print(json.dumps(run(args.folder)))
        return 0
    print(f"wrote the pack in {write(args.folder):.0f} s")
    for attempt in ("first", "second"):
        command = [sys.executable, __file__, "--folder", str(args.folder), "--run"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"{attempt} run: {done.stdout.strip()}")
    print(done.stdout.strip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
