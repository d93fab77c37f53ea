"""cifar5m-label: label an existing dataset once more, beside its own labels, and compare the two.

    cifar5m-label out/tiny --labeler edadaltocg/resnet18_cifar10
    cifar5m-label cifar5m --labeler FOLDER --name second-bit
    torchrun --nproc-per-node 8 -m cifar5m.commands.label cifar5m --labeler FOLDER

The labels go to DIR/labels/NAME; nothing else in DIR is touched. The same command again resumes,
and labels again what was damaged or made anew. It ends with the agreement matrix. Exit code 0: all
is labeled; 1: some shards could not be; 2: bad usage.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worlds.cli.exit import EXIT_FAILED, exit_code, warn_damaged_shards
from worlds.cli.parser import Parser
from worlds.cli.progress import ProgressBars

if TYPE_CHECKING:
    from cifar5m.engines.label import LabelingResult

COMMAND = "cifar5m-label"


def make_parser() -> Parser:
    parser = Parser(COMMAND, __doc__)
    add = parser.add_argument
    add("directory", metavar="DIR", type=Path, help="directory that holds plan.json")
    add("--labeler", required=True, help="timm directory, file or Hub id with ten classes, or tiny")
    add("--name", help="directory in DIR/labels (default: the labeler's)")
    add("--precision", help="fp32, tf32, bf16 or fp16 (default: as DIR's plan)")
    add("--batch", dest="batch_size", type=int, help="images a call, >= 1 (default: as DIR's plan)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:K (default auto)")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    hint = "for a batch; choose a smaller --batch (a labeling that is begun needs another --name)"
    return exit_code(parser, lambda: run(args), args.directory, too_large=hint)


def run(args: argparse.Namespace) -> int:
    from cifar5m.engines.label import label
    from worlds.runtime.ranks import rank_of

    given: dict[str, Any] = vars(args).copy()
    quiet = given.pop("quiet")
    with ProgressBars(quiet, "the labels of finished shards are kept") as on_progress:
        found = label(**given, on_progress=on_progress)
    # Of several ranks the last one to finish prints the result.
    alone = rank_of(os.environ) is None
    if found.is_complete or alone:
        print_result(found)
    warn_damaged_shards(COMMAND, args.directory, found.problems)
    return EXIT_FAILED if found.problems or (alone and not found.is_complete) else 0


def print_result(found: "LabelingResult") -> None:
    """Print how much is labeled, and the agreement over it."""
    from cifar5m.labels.agreement import table

    print(f"{found.shards} of {found.shards_planned} shards are labeled: {found.path}")
    if found.agreement is None:
        return
    if not found.is_complete:
        print("run the same command again once the others are made")
    print("\n".join(table(found.agreement)))


if __name__ == "__main__":
    sys.exit(main())
