"""make fuzz: mutated inputs to every reader, each within limits of time and memory.

    python -m tests.fuzz.run                        # 20,000 inputs, minutes
    python -m tests.fuzz.run --reader npz --case 17  # one again, with its traceback

An input ends clean (one line of ValueError or OSError), unchanged (the same content was read),
silent (another content was read without a word), or wrong: a traceback of another kind, a hang, too
much memory, or a message of several lines. Exit code 1 if any input was wrong.
"""

import argparse
import importlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.mutations import mutate
from tests.fuzz.readers import READERS, Reader, json_readers

SECONDS = 10  # for one input
MEMORY = 1 << 30  # bytes beyond what the process had before
KINDS = ("clean", "unchanged", "silent", "traceback", "hang", "memory", "words")
WRONG = KINDS[3:]


class TooLong(BaseException):
    """The time of one input is over."""


def run_case(reader: Reader, template: Path, work: Path, seed: list[int], expected: Any) -> Any:
    """Return (kind, what was done, message) of one input; a reader's own error is caught."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(template, work, symlinks=True)
    try:
        done = mutate(np.random.default_rng(seed), work)
        return *outcome(reader, work, expected), done
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


def outcome(reader: Reader, work: Path, expected: Any) -> tuple[str, str]:
    try:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of this process; others may be at work
        signal.alarm(6 * SECONDS)  # for what waits
        found = reader.read(work)
    except (ValueError, OSError) as error:
        line = str(error)
        wrong = "\n" in line or not line or len(line) > 10_000
        return ("words" if wrong else "clean"), line
    except TooLong:
        return "hang", ""
    except MemoryError:
        return "memory", ""
    except Exception:  # whatever else a reader raises is what is looked for
        return "traceback", traceback.format_exc(limit=-4)
    return ("unchanged" if found == expected else "silent"), ""


def work_through(
    name: str, number: int, template: Path, cases: range, expected: Any, pipe: Connection
) -> None:
    """Run the cases in a process of its own, and send what came of each."""
    reader = all_readers()[name]

    def too_long(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, too_long)
    signal.signal(signal.SIGPROF, too_long)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # C libraries write warnings of their own
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    work = template.with_name(f"{template.name}-work")
    for case in cases:
        try:
            found = run_case(reader, template, work, [number, case], expected)
        except MemoryError:
            found = ("memory", "", "")
        pipe.send((case, *found))


def import_libraries() -> None:
    """Import what readers use, so that no input is charged for it."""
    from worlds.runtime.torchvision_ops import declare_missing_operators

    declare_missing_operators()
    for name in (
        *("diffusers", "timm", "pyarrow.parquet", "nltk.corpus.reader.wordnet", "scipy.io"),
        *("webdataset", "simplejpeg", "huggingface_hub", "matplotlib.figure", "safetensors.torch"),
        *("cifar5m.sampling.unet", "cifar5m.labels.labeler", "cifar5m.hub.run", "cifar5m.preview"),
        *("dogbird.sources", "dogbird.wordnet", "worlds.report.write", "worlds.training.train"),
    ):
        importlib.import_module(name)
    from diffusers import UNet2DModel  # noqa: F401  # imported when it is named


def all_readers() -> dict[str, Reader]:
    return READERS | json_readers()


def prepared(name: str, template: Path) -> Any:
    """Write the valid files and read them; in a process of its own, as torch's threads do not
    survive a fork.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def prepare() -> None:
        all_readers()[name].make(template)
        theirs.send(all_readers()[name].read(template))

    process = multiprocessing.get_context("fork").Process(target=prepare)
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def fuzz(
    name: str, number: int, count: int, root: Path, shown: Sequence[str], most: int
) -> Counter[str]:
    """Count what came of the inputs of one reader, in processes that may die or hang."""
    template, expected = root / f"{number:02d}", prepared(name, root / f"{number:02d}")
    counts: Counter[str] = Counter()
    at = again = 0  # an input that went over the limit is tried once more by a fresh process
    while at < count:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        given = (name, number, template, range(at, count), expected, theirs)
        process = multiprocessing.get_context("fork").Process(target=work_through, args=given)
        process.start()
        theirs.close()
        while at < count:
            if not ours.poll(12 * SECONDS):
                kind, message, done = "hang", "no answer", "?"
            else:
                try:
                    _, kind, message, done = ours.recv()
                except EOFError:
                    process.join()
                    kind, done = "traceback", "?"
                    message = f"the process ended with {process.exitcode}"
            if kind == "memory" and again != at + 1:
                again = at + 1
                break
            counts[kind] += 1
            if kind in shown and counts[kind] <= most:
                print(f"  {name}, case {at}: {kind} after {done}\n{message}", flush=True)
            at += 1
            if done == "?":
                break
        process.kill()
        process.join()
    shutil.rmtree(root, ignore_errors=True)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=21_000, help="in all (default: 21000)")
    parser.add_argument("--reader", action="append", help="only these")
    parser.add_argument("--case", type=int, help="one input, with its traceback")
    parser.add_argument("--shown", type=int, default=3, help="inputs shown of each kind")
    parser.add_argument("--show", nargs="+", choices=KINDS, default=WRONG, help="these kinds")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    import_libraries()
    readers = all_readers()
    chosen = args.reader or list(readers)
    root = Path(
        tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    )
    if args.case is not None:
        return again(chosen[0], args.case, root)
    shares = sum(readers[name].share for name in chosen)
    total: Counter[str] = Counter()
    print(f"{'reader':24}{'inputs':>8}" + "".join(f"{kind:>11}" for kind in KINDS) + "  seconds")
    for name in chosen:
        count = -(-int(args.inputs * readers[name].share) // int(max(shares, 1)))
        start = time.perf_counter()
        place = root / name.replace("/", "-")
        number = list(readers).index(name)
        counts = fuzz(name, number, count, place, args.show, args.shown)
        total += counts
        row = "".join(f"{counts[kind]:>11,}" for kind in KINDS)
        why = f"  silent: {readers[name].silent}" if counts["silent"] else ""
        print(f"{name:24}{count:>8,}{row}{time.perf_counter() - start:>9.1f}{why}", flush=True)
    shutil.rmtree(root, ignore_errors=True)
    print(f"{'all':24}{total.total():>8,}" + "".join(f"{total[kind]:>11,}" for kind in KINDS))
    return 1 if any(total[kind] for kind in WRONG) else 0


def again(name: str, case: int, root: Path) -> int:
    """Run one input in this process; leave its directory for a look."""
    reader, template, work = all_readers()[name], root / "made", root / "work"
    reader.make(template)
    expected = reader.read(template)
    number = list(all_readers()).index(name)
    found = run_case(reader, template, work, [number, case], expected)
    print(work, *found, sep="\n")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # others reserve gigabytes of addresses
    sys.exit(main())
