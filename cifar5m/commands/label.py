"""cifar5m-label: label an existing dataset once more, beside its own labels, and compare the two.

    cifar5m-label out/tiny --labeler edadaltocg/resnet18_cifar10
    cifar5m-label cifar5m --labeler FOLDER --name second-bit
    torchrun --nproc-per-node 8 -m cifar5m.commands.label cifar5m --labeler FOLDER

The labels go to DIR/labels/NAME; nothing else in DIR is touched. The same command again goes on
where it stopped and labels again what was damaged or made anew. It ends with the agreement matrix.
Exit code 0: all is labelled; 1: some shards could not be; 2: bad usage.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cifar5m.commands.common import pick_settings
from worlds.cli.exit import EXIT_FAILED, exit_code, tell_damaged
from worlds.cli.progress import image_bar, updating
from worlds.formats.layout import Shard
from worlds.runtime.signals import StopSignal

if TYPE_CHECKING:
    from cifar5m.labels.labeling import Labelling
    from cifar5m.weights.sources import Weights


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="cifar5m-label",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder that holds plan.json")
    parser.add_argument(
        "--labeler", required=True, help="timm folder, file or Hub id with ten classes, or tiny"
    )
    parser.add_argument("--name", help="of the folder in DIR/labels (default: after the labeller)")
    parser.add_argument("--precision", help="fp32, tf32, bf16 or fp16 (default: as DIR's plan)")
    parser.add_argument("--batch", type=int, help="images a call, >= 1 (default: as DIR's plan)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:K (default auto)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    hint = "for a batch; choose a smaller --batch (a labelling that is begun needs another --name)"
    return exit_code("cifar5m-label", args.folder, lambda: run(args), too_large=hint)


def run(args: argparse.Namespace) -> int:
    from cifar5m.engines.local import Rank, rank_of
    from cifar5m.labels.labeling import default_name, is_labelled, labelling_plan, open_labelling
    from cifar5m.weights.sources import find_labeler
    from worlds.formats.plan import load_plan
    from worlds.formats.shards import is_finished
    from worlds.runtime.device import pick_device

    dataset = load_plan(args.folder)
    shards = dataset.shards
    rank = rank_of(os.environ)
    device = str(pick_device(args.device, rank.local_rank if rank else 0))
    precision, batch = pick_settings(args, dataset)
    weights = find_labeler(args.labeler)
    plan = labelling_plan(dataset, args.labeler, weights.sha256, precision, batch)
    name = args.name or default_name(args.labeler)
    labelling = open_labelling(args.folder, name, plan)
    mine = [
        shard
        for shard in (rank or Rank()).share(shards)
        if is_finished(args.folder, shard, dataset.fingerprint)
    ]
    problems = label(args, labelling, weights, mine, device)
    done = [shard for shard in shards if is_labelled(labelling, shard)]
    if len(done) == len(shards) or rank is None:
        print_result(labelling, done, len(shards))
    tell_damaged("cifar5m-label", args.folder, problems)
    return EXIT_FAILED if problems or (rank is None and len(done) < len(shards)) else 0


def label(
    args: argparse.Namespace,
    labelling: "Labelling",
    weights: "Weights",
    shards: Sequence[Shard],
    device: str,
) -> list[str]:
    """Label what is not labelled yet, with progress; returns why shards were left out."""
    from cifar5m.labels.labeling import is_labelled
    from cifar5m.labels.relabel import label_shards, load_labeler

    waiting = [shard for shard in shards if not is_labelled(labelling, shard)]
    if not waiting:
        return []
    labeler = load_labeler(weights, labelling.plan, device)
    stop = StopSignal()
    problems = []
    with image_bar(shards, waiting, args.quiet) as bar:
        for result in label_shards(labelling, labeler, waiting, updating(bar, stop)):
            if result.problem is not None:
                problems.append(f"{result.shard.tar}: {result.problem}")
    return problems


def print_result(labelling: "Labelling", done: Sequence[Shard], planned: int) -> None:
    """The agreement over the labelled shards; written too once that is all of them."""
    from cifar5m.labels.agreement import compare, table
    from cifar5m.labels.relabel import write_summary

    print(f"{len(done)} of {planned} shards are labelled: {labelling.place}")
    if not done:
        return
    if len(done) == planned:
        agreement = write_summary(labelling, done)
    else:
        names = labelling.plan.class_names
        agreement = compare(labelling.folder, labelling.place, done, names)
        print("run the same command again once the others are made")
    print("\n".join(table(agreement)))


if __name__ == "__main__":
    sys.exit(main())
