"""cifar5m-finetune-labeler: make a labeler of CIFAR-10's classes by BiT-HyperRule.

    cifar5m-finetune-labeler --data ~/data                       # BiT-M-R152x2, as the paper's
    cifar5m-finetune-labeler --data ~/data --dry-run             # the plan, and seconds a step
    cifar5m-finetune-labeler --data ~/data --model vit_base_patch16_224.augreg_in21k --out vit

The labeler goes to --out, a timm folder for `--labeler`; by default where `--labeler bit` looks.
evaluation.json beside it says its accuracy and calibration on the test images. The same command
again goes on from the last checkpoint. BiT-M-R152x2 on the rule's 10,000 steps of 512 takes 0.47
EFLOP; on one card give --micro-batch if the memory does not hold a batch.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser
from worlds.cli.progress import ProgressBars
from worlds.runtime.progress import Phase

if TYPE_CHECKING:
    from cifar5m.labels.finetune import Trainer
    from cifar5m.labels.finetune_plan import Options
    from worlds.data.stores import Store

LOSSES = 50  # steps over which the shown loss is the mean


def make_parser() -> Parser:
    parser = Parser("cifar5m-finetune-labeler", __doc__)
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="CIFAR-10: a folder or pack with both splits")
    add("--out", type=Path, help="folder of the labeler (default: the cache, for `bit`)")
    # What decides the weights.
    add = parser.add_argument_group("model").add_argument
    add("--model", help="timm's name or a timm folder (default resnetv2_152x2_bit.goog_in21k)")
    add("--weights", metavar="FILE", help="its weights, where the Hub is out of reach")
    add("--scratch", action="store_true", help="begin without weights")
    add = parser.add_argument_group("rule (defaults: BiT-HyperRule)").add_argument
    add("--batch", type=int, help="images a step, >= 1 (default 512)")
    add("--lr", type=float, dest="learning_rate", help="> 0 (default 0.003, for batch 512)")
    add("--steps", type=int, help="stretch the rule's schedule to so many, >= 1 (default 10000)")
    add(
        "--mixup",
        type=float,
        help="parameter of the Beta distribution, >= 0 (default 0.1; 0: none)",
    )
    add("--size", type=int, help="pixels of the crop, >= 32 (default 128, from 160)")
    add("--seed", type=int, help="decides order, crops, flips and mixup; 0 to 2^64 - 1 (default 0)")
    add("--precision", help="fp32, tf32 or bf16 (default tf32; on a CPU that is fp32)")
    # What does not.
    add = parser.add_argument_group("run (changes no weights but for rounding)").add_argument
    add("--micro-batch", type=int, help="images at a time, >= 1 (default: the batch)")
    add("--save-every", type=int, default=500, help="steps, >= 1 (default 500)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:K (default auto)")
    add("--dry-run", action="store_true", help="print plan and cost; train and write nothing")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    hint = "for a batch; choose a smaller --micro-batch"
    return exit_code(parser, lambda: run(args), args.out or default_out(), too_large=hint)


def default_out() -> Path:
    """Return the directory where `--labeler bit` looks."""
    from cifar5m.weights.sources import labeler_folder

    return labeler_folder("bit")


def run(args: argparse.Namespace) -> int:
    from cifar5m.labels.finetune import Trainer, is_finished, is_trained
    from cifar5m.labels.finetune_plan import finetune_plan, pretrained_network
    from worlds.data.stores import open_store
    from worlds.formats.plan import claim_folder
    from worlds.runtime.checks import check_positive
    from worlds.runtime.device import pick_device

    options = chosen(args)
    if (args.model or args.scratch) and args.out is None:
        option = "--model" if args.model else "--scratch"
        raise ValueError(f"{option} needs --out: the default folder is that of BiT-M-R152x2")
    for name in ("micro_batch", "save_every"):
        check_positive(name, getattr(args, name))
    # The network, its data and its plan.
    device = pick_device(args.device)
    store = open_store(args.data)
    # A dry run downloads nothing: the cost is that of the architecture.
    published = options.weights is None and not Path(options.model).expanduser().is_dir()
    offline = args.dry_run and published and not options.scratch
    network = pretrained_network(replace(options, scratch=True) if offline else options)
    plan = finetune_plan(options, network, store)
    trainer = Trainer(plan, network, store.train, device)
    if args.dry_run:
        print_plan(trainer, args.micro_batch, options.model if offline else None)
        return 0
    # Train and evaluate what is not there yet.
    out = args.out or default_out()
    claim_folder(out, plan)
    if not is_finished(out):
        with ProgressBars(args.quiet, "the checkpoint of the last step is saved") as on_progress:
            if not is_trained(out):
                train(args, out, trainer, on_progress)
            measure(out, store, trainer, on_progress)
    print_result(out)
    return 0


def chosen(args: argparse.Namespace) -> "Options":
    """Return the options that decide the weights; what was not given has the rule's value."""
    from cifar5m.labels.finetune_plan import Options

    names = Options.__dataclass_fields__.keys() & vars(args).keys()
    given = {name: getattr(args, name) for name in names}
    return Options(**{name: value for name, value in given.items() if value is not None})


def print_plan(trainer: "Trainer", micro_batch: int | None, missing: str | None) -> None:
    """Print the plan, and what a run costs; `missing` are weights that decide two of its hashes."""
    from cifar5m.labels.finetune_cost import measure_cost

    # Without its weights a network has no hash, and the plan no fingerprint.
    left_out = ["format", "about", "versions"]
    if missing:
        print(f"weights of {missing}: downloaded when the run begins")
        left_out += ["initial_sha256", "fingerprint"]
    plan = trainer.plan.to_json()
    print(json.dumps({key: plan[key] for key in plan if key not in left_out}, indent=2))
    for line in measure_cost(trainer, micro_batch):
        print(line)


def train(
    args: argparse.Namespace, out: Path, trainer: "Trainer", on_progress: ProgressBars
) -> None:
    from cifar5m.labels.finetune import finetune

    # The loss of a single batch is noisy: show the mean of the last ones.
    recent: list[float] = []
    phase: Phase | None = None
    with closing(finetune(out, trainer, args.micro_batch, args.save_every)) as rows:
        for row in rows:
            phase = phase or Phase("train", trainer.steps, on_progress, row.step, "steps")
            recent = [*recent[-LOSSES + 1 :], row.loss]
            phase(1, f"loss={sum(recent) / len(recent):.4f}, lr={row.learning_rate:.2g}")


def measure(out: Path, store: "Store", trainer: "Trainer", on_progress: ProgressBars) -> None:
    from cifar5m.labels.finetune import evaluate_labeler

    phase = Phase("evaluate", len(store.test), on_progress)
    for count in evaluate_labeler(out, store, trainer.device, trainer.plan.precision):
        phase(count)


def print_result(out: Path) -> None:
    from cifar5m.weights.sources import EVALUATION
    from worlds.formats.plan import Evaluation
    from worlds.runtime.json_files import load_json

    found = load_json(out / EVALUATION, Evaluation)
    print(
        f"accuracy {found.accuracy:.4f} on {found.images:,} test images, mean confidence "
        f"{found.mean_confidence:.4f}, calibration error {found.calibration_error:.4f}"
    )
    print(f"labeler: {out}")


if __name__ == "__main__":
    sys.exit(main())
