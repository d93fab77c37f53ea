"""What a machine with a GPU says of this project: the GPU tests and benchmarks, on one page.

    make gpu-report                                   # everything that has not passed yet
    python tools/gpu_report.py --only training loaders

The parts come in the order in which a first run should take them: first what must be right, then
how fast it is. Each ends within ten minutes, or is stopped. `--out` gets the output of each part,
`report.json` and the page, `report.md`; the same command goes on with what has not passed.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser
from worlds.runtime.device import cuda_versions, device_name
from worlds.runtime.files import write_json

REPO = Path(__file__).resolve().parents[1]
LIMIT = 600.0  # seconds of a part
TAIL = 30  # lines of a part that failed


@dataclass(frozen=True)
class Part:
    """A command, and the question that it answers."""

    name: str
    question: str
    command: tuple[str, ...]


def tests(name: str, question: str, *paths: str) -> Part:
    return Part(name, question, ("-m", "pytest", "-m", "gpu", "-rs", *paths))


def benchmark(name: str, question: str, *arguments: str) -> Part:
    return Part(f"{name} speed", question, (f"benchmarks/{name}.py", *arguments))


PARTS = (
    tests(
        "training",
        "Does a captured step train as an eager one, on every GPU, with loading threads, and after "
        "resuming either way?",
        "tests/worlds/training",
        "tests/worlds/commands",
    ),
    tests("loaders", "Does a GPU make the CPU's batches to the bit?", "tests/worlds/loaders"),
    tests("numbers", "Are random words and noise the CPU's?", "tests/worlds/rng"),
    tests(
        "generation",
        "Do processes with empty caches make equal bytes, and does the precision hold?",
        "tests/cifar5m/sampling",
    ),
    tests("photographs", "Do threads decode undisturbed?", "tests/worlds/data"),
    tests("audit", "Are the neighbors found the exact ones?", "tests/cifar5m/auditing"),
    benchmark("loaders_gpu", "How far are the loaders from a copy kernel?"),
    benchmark(
        "training",
        "How many steps a second does ResNet-18 make, and what does evaluation cost?",
        *("--arch", "preresnet18", "--device", "cuda", "--precision", "bf16"),
        *("--steps", "1000", "--run-steps", "8000"),
    ),
    benchmark("generation", "How many calls a second does Ho's network make?"),
    # The recipe's network in 100 steps, to fit ten minutes; by default the tool makes all 1000.
    Part(
        "precisions",
        "Does bf16-weights change the images more than another seed does?",
        ("tools/compare_precisions.py", "--recipe", "cifar5m-ddim100"),
    ),
    benchmark("audit", "How long does an audit take?"),
)


def run_part(part: Part, folder: Path, limit: float = LIMIT) -> dict[str, Any]:
    """Run a part in a process group of its own; returns its code, seconds, and JSON or tail."""
    log = folder / f"{part.name.replace(' ', '-')}.txt"
    started, code = time.monotonic(), None
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *part.command],
            cwd=REPO,
            env=os.environ | {"PYTHONPATH": str(REPO)},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
    lines = log.read_text(errors="replace").splitlines()
    found: dict[str, Any] = {"code": code, "seconds": round(time.monotonic() - started, 1)}
    found["fallbacks"] = sorted({line.strip() for line in lines if "failed its check" in line})
    found["last"] = lines[-1].strip() if lines else ""
    if code != 0:
        found["tail"] = lines[-TAIL:]
    return found


def outcome(result: dict[str, Any] | None) -> str:
    if result is None:
        return "not run"
    if result["code"] is None:
        return "stopped after ten minutes"
    return "passed" if result["code"] == 0 else f"failed (exit code {result['code']})"


def page(machine: dict[str, str], results: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    rows = [f"- {name}: {value}" for name, value in machine.items()]
    rows = ["# GPU report", "", *rows, "", "| part | question | outcome | seconds | last line |"]
    rows.append("|---|---|---|---|---|")
    for part in PARTS:
        result = results.get(part.name)
        seconds, last = (result["seconds"], result["last"]) if result else ("", "")
        short = last.replace("|", "\\|") if not last.startswith("{") else "below"
        row = f"| {part.name} | {part.question} | {outcome(result)} | {seconds} | {short} |"
        rows.append(row)
    for name, result in results.items():
        for fallback in result["fallbacks"]:
            rows += ["", f"**{name} fell back**: {fallback}"]
        if "tail" in result:
            rows += ["", f"## {name}: {outcome(result)}", "", "```", *result["tail"], "```"]
        elif result["last"].startswith("{"):
            pretty = json.dumps(json.loads(result["last"]), indent=1)
            rows += ["", f"## {name}", "", "```json", pretty, "```"]
    return "\n".join(rows) + "\n"


def report(folder: Path, only: list[str] | None) -> int:
    """Run the parts and write the page after each; returns 1 if one has not passed."""
    known = [part.name for part in PARTS]
    for name in only or []:
        if name not in known:
            raise ValueError(f"--only: no part {name!r}; the parts are {', '.join(known)}")
    if not torch.cuda.device_count():
        raise ValueError(
            "this machine has no usable GPU, and the report is of one: run it where nvidia-smi "
            "lists a GPU and torch.cuda.is_available() is True"
        )
    device = torch.device("cuda")
    machine = {"GPU": device_name(device), "GPUs": str(torch.cuda.device_count())}
    machine |= {
        "torch": str(torch.__version__),
        **cuda_versions(),
        "Python": sys.version.split()[0],
    }
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / "report.json"
    results = json.loads(saved.read_text())["parts"] if saved.is_file() else {}
    for part in PARTS:
        passed = results.get(part.name, {}).get("code") == 0
        if part.name not in only if only else passed:
            continue
        print(f"{part.name}: {part.question}", flush=True)
        results[part.name] = run_part(part, folder)
        print(f"  {outcome(results[part.name])}, {results[part.name]['seconds']} s", flush=True)
        write_json(saved, {"machine": machine, "parts": results})
        (folder / "report.md").write_text(page(machine, results))
    print(folder / "report.md")
    return int(any(outcome(results.get(name)) != "passed" for name in only or known))


def main(argv: list[str] | None = None) -> int:
    parse = Parser(prog="gpu_report", description=__doc__)
    parse.add_argument("--out", type=Path, default=Path("out/gpu-report"), help="directory")
    parse.add_argument("--only", nargs="+", metavar="PART", help="run these, passed or not")
    args = parse.parse_args(argv)
    return exit_code(parse, lambda: report(args.out, args.only))


if __name__ == "__main__":
    sys.exit(main())
