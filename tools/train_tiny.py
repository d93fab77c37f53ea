"""Train the two networks of the bundled recipes on CIFAR-10's training images.

    python tools/train_tiny.py generator --conditional --data DIR --hours 12
    python tools/train_tiny.py generator --data DIR --images 15000000 --device cuda
    python tools/train_tiny.py labeler   --data DIR --hours 3 --initial cifar5m/tiny/labeler

Each run keeps its state in --work (default runs/tiny) every few minutes; the same command goes on
from there. The learning rate is constant until the last --cooldown of the run, where it falls to 0;
the state from before that is kept, so that the same command with more --hours prolongs a finished
run. At the end the average of the weights is written as fp16 safetensors to
cifar5m/tiny/{generator,conditional,labeler}: diffusers directories and a timm directory. Then
`python tools/card_tiny.py` measures them and writes the model card.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from tiny_common import MODES, data_name
from tiny_generator import CHANNELS, GeneratorTask
from tiny_labeler import LabelerTask

from worlds.runtime.signals import Stopped, StopSignal

REPO = Path(__file__).resolve().parent.parent
SAVE_SECONDS, REPORT_STEPS, PROBE_STEPS = 180, 100, 500


class Task(Protocol):
    """A network to train (tools/tiny_generator.py, tools/tiny_labeler.py)."""

    name: str
    warmup_steps: int
    model: torch.nn.Module
    optimizers: list[torch.optim.Optimizer]
    mode: str

    def next_loss(self, step: int) -> torch.Tensor: ...  # pure in (seed, step, weights)
    def probe(self) -> float: ...  # a figure that compares between steps
    def average_decay(self, step: int) -> float: ...
    def save(self, directory: Path) -> None: ...
    @property
    def directory(self) -> Path: ...


@dataclass(frozen=True)
class Budget:
    """How long a run is, in hours or in images, and the share of it that cools down."""

    hours: float | None
    images: int | None
    cooldown: float
    batch: int

    def progress(self, step: int, seconds: float) -> float:
        """Return the share of the run that is done, 1 at its end."""
        if self.images is not None:
            return step / max(1, self.images // self.batch)
        assert self.hours is not None
        return seconds / (3600 * self.hours)

    def rate(self, progress: float) -> float:
        """Return the factor of the learning rate: 1, then linearly to 0."""
        left = max(0.0, 1 - progress)
        return min(1.0, left / self.cooldown) if self.cooldown else 1.0


@dataclass
class Run:
    """A task with what has become of it so far."""

    task: Task
    budget: Budget
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        state = self.task.model.state_dict()
        self.average = {name: value.detach().clone() for name, value in state.items()}

    def save(self, path: Path) -> None:
        state = {
            "model": self.task.model.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.task.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "budget": vars(self.budget),
        }
        temporary = path.with_name(f"{path.name}.tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def load(self, state: dict[str, Any]) -> None:
        """Raises ValueError if the state is that of another network or optimizer."""
        try:
            self.task.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.task.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"the state is not of this network and optimizer: {reason}") from error
        self.average, self.step, self.seconds = state["average"], state["step"], state["seconds"]

    @torch.no_grad()
    def update_average(self) -> None:
        decay = self.task.average_decay(self.step)
        state = self.task.model.state_dict()
        floats = [name for name, value in state.items() if value.is_floating_point()]
        averages, values = ([of[name] for name in floats] for of in (self.average, state))
        torch._foreach_lerp_(averages, values, 1 - decay)  # one launch in place of hundreds
        for name in state.keys() - set(floats):
            self.average[name].copy_(state[name])

    def probe(self) -> float:
        """Return the task's figure for the average weights."""
        now = {name: value.clone() for name, value in self.task.model.state_dict().items()}
        self.task.model.load_state_dict(self.average)
        try:
            return self.task.probe()
        finally:
            self.task.model.load_state_dict(now)


def resume(run: Run, args: argparse.Namespace) -> None:
    """Load the newest state: of this run's cool-down, else from before it."""
    before, during = state_files(args)
    if args.state is not None:
        run.load(torch.load(args.state, weights_only=True))
    elif during.exists() and _budget_of(during) == vars(run.budget):
        run.load(torch.load(during, weights_only=True))
    elif before.exists():
        run.load(torch.load(before, weights_only=True))
    else:
        return
    print(f"resumed at step {run.step:,}, {run.seconds / 3600:.2f} h", file=sys.stderr)


def _budget_of(path: Path) -> dict[str, Any] | None:
    return torch.load(path, weights_only=True).get("budget")


def state_files(args: argparse.Namespace) -> tuple[Path, Path]:
    """Return the state from before the cool-down, and that of the cool-down."""
    return args.work / f"{args.what}.pt", args.work / f"{args.what}-cooldown.pt"


def train(run: Run, args: argparse.Namespace, stop: StopSignal) -> None:
    """Run steps to the end of the budget; save now and then, at the end, and when told to stop."""
    task, budget = run.task, run.budget
    before, during = state_files(args)
    start = saved = time.monotonic()
    first, spent = run.step, run.seconds
    cooling = budget.rate(budget.progress(run.step, run.seconds)) < 1
    losses: list[torch.Tensor] = []
    task.model.train()
    while (progress := budget.progress(run.step, run.seconds)) < 1:
        if not cooling and budget.rate(progress) < 1:
            run.save(before)  # to prolong the run from here
            cooling = True
        if stop.number is not None:
            run.save(during if cooling else before)
            raise Stopped(stop.number)

        # One step.
        warmup = min(1.0, (run.step + 1) / task.warmup_steps) if task.warmup_steps else 1.0
        for group in (g for optimizer in task.optimizers for g in optimizer.param_groups):
            group["lr"] = args.lr * warmup * budget.rate(progress)
        loss = task.next_loss(run.step)
        task.model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        for optimizer in task.optimizers:
            optimizer.step()
        run.update_average()
        run.step += 1
        run.seconds = spent + time.monotonic() - start

        # Progress and state.
        losses.append(loss.detach())
        if run.step % REPORT_STEPS == 0:
            report(run, losses, (run.step - first) / (run.seconds - spent))
            losses.clear()
        if time.monotonic() - saved > SAVE_SECONDS:
            saved = time.monotonic()
            run.save(during if cooling else before)
    if run.step > first:
        run.save(during if cooling else before)


def report(run: Run, losses: list[torch.Tensor], rate: float) -> None:
    """Print where the run is. Raises RuntimeError if the loss is not finite."""
    mean = torch.stack(losses).mean().item()
    if mean != mean:
        raise RuntimeError(f"the loss is NaN at step {run.step:,}: choose a smaller --lr")
    done = run.budget.progress(run.step, run.seconds)
    left = run.seconds * (1 - done) / max(done, 1e-9)
    probe = f" probe {run.probe():.4f}" if run.step % PROBE_STEPS == 0 else ""
    print(
        f"step {run.step:,} loss {mean:.4f}{probe} {rate * run.budget.batch:.1f} images/s, "
        f"{100 * done:.1f} % in {run.seconds / 3600:.2f} h, {left / 3600:.2f} h left",
        file=sys.stderr,
    )


def write(run: Run, args: argparse.Namespace) -> Path:
    """Write the averaged weights, and beside them training.json for the model card."""
    task = run.task
    task.model.load_state_dict(run.average)
    directory = task.directory
    task.save(directory)
    hidden = ("run", "what", "work", "out", "data", "initial", "state")
    facts = {
        "data": data_name(args.data),
        "images_seen": run.step * args.batch + initial_images(args.initial),
        "minutes": round(run.seconds / 60, 1),
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "options": {k: str(v) for k, v in vars(args).items() if k not in hidden and v is not None},
        "mode": task.mode,
        "torch": torch.__version__,
    }
    if args.initial is not None:
        facts["initial"] = "weights trained before; their images are counted, their minutes are not"
    (directory / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    return directory


def initial_images(initial: Path | None) -> int:
    """Return the images that the initial weights had seen, 0 if nothing says so."""
    for name in ("training.json", "facts.json"):
        if initial is not None and (initial / name).is_file():
            facts = json.loads((initial / name).read_text())
            return int(facts.get("images_seen_in_all", facts.get("images_seen", 0)))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    form = argparse.ArgumentDefaultsHelpFormatter
    generator = commands.add_parser("generator", formatter_class=form)
    generator.add_argument("--conditional", action="store_true", help="tell it the class")
    generator.add_argument("--optimizer", choices=("adam", "muon"), default="muon")
    generator.add_argument("--lr", type=float, default=5e-4, help="learning rate, > 0")
    generator.add_argument("--batch", type=int, default=64, help="images a step, >= 1")
    generator.add_argument("--ema", type=float, default=0.9995, help="decay of the average, 0 to 1")
    generator.add_argument(
        "--channels",
        type=lambda text: tuple(int(part) for part in text.split(",")),
        help="of each level, as 32,64,128 (default: that on a CPU, 64,128,192 on a GPU)",
    )
    generator.set_defaults(run=GeneratorTask)
    labeler = commands.add_parser("labeler", formatter_class=form)
    labeler.add_argument("--lr", type=float, default=0.1, help="learning rate, > 0")
    labeler.add_argument("--batch", type=int, default=256, help="images a step, >= 1")
    labeler.add_argument("--ema", type=float, default=0.999, help="decay of the average, 0 to 1")
    labeler.add_argument("--cutout", type=int, default=8, help="side of the square, 0 for none")
    labeler.set_defaults(run=LabelerTask)
    for command, cooldown in ((generator, 0.1), (labeler, 0.5)):
        add_common_options(command, cooldown)
    args = parser.parse_args(argv)
    if (args.hours is None) == (args.images is None):
        parser.error("give --hours or --images, and not both")
    if not 0 <= args.cooldown <= 1:
        parser.error(f"--cooldown must be between 0 and 1, got {args.cooldown}")
    if args.what == "generator" and args.channels is None and args.initial is None:
        args.channels = CHANNELS[args.device]
    return args


def add_common_options(command: argparse.ArgumentParser, cooldown: float) -> None:
    gpu = torch.cuda.is_available()
    option = command.add_argument
    option("--data", type=Path, required=True, help="CIFAR-10, or a folder with cifar10_jpeg.py")
    option("--hours", type=float, help="length of the run, earlier parts of it included, >= 0")
    option("--images", type=int, help="length of the run in images seen, instead of --hours")
    option("--cooldown", type=float, default=cooldown, help="share of the run, 0 to 1")
    option("--initial", type=Path, help="directory of weights to start from")
    option("--state", type=Path, help="state file to resume, instead of the newest in --work")
    option("--mode", choices=("auto", *MODES), default="auto", help="auto takes 10 s trials")
    option("--out", type=Path, default=REPO / "cifar5m" / "tiny", help="where the weights go")
    option("--work", type=Path, default=REPO / "runs" / "tiny", help="where the state is kept")
    option("--device", default="cuda" if gpu else "cpu", choices=("cpu", "cuda"))
    option("--threads", type=int, help="CPU threads")
    option("--seed", type=int, default=0, help=">= 0")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    stop = StopSignal()
    try:
        run = Run(args.run(args), Budget(args.hours, args.images, args.cooldown, args.batch))
        resume(run, args)
        train(run, args, stop)
        print(write(run, args))
    except Stopped as stopped:
        print("train_tiny: stopped; run the same command to go on", file=sys.stderr)
        return 128 + stopped.number
    except (ValueError, OSError) as error:
        print(f"train_tiny: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
