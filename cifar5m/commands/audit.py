"""cifar5m-audit DIR: what a generated set is like, held against CIFAR-10, in one report and page.

    cifar5m-audit out/tiny --cifar10 ~/data
    cifar5m-audit cifar5m --cifar10 ~/data --dry-run

Exact duplicates; the nearest CIFAR-10 image of every image, in pixels and in the labeler's
features; class counts, confidence, calibration, agreement of labelers, suspected label errors;
FID, KID and FD-DINOv2 where their weights are at hand. It writes DIR/audit/audit.json and
DIR/audit/index.html; nothing else in DIR is touched, and no image is dropped. The same command
again resumes, and takes in what was generated since. Exit code 0: all finished
shards are audited; 1: damaged shards were left out; 2: bad usage.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worlds.cli.exit import EXIT_FAILED, exit_code, warn_damaged_shards
from worlds.cli.parser import Parser
from worlds.cli.progress import ProgressBars

if TYPE_CHECKING:
    from cifar5m.auditing.run import AuditResult

COMMAND = "cifar5m-audit"


def make_parser() -> Parser:
    parser = Parser(COMMAND, __doc__)
    add = parser.add_argument
    add("directory", metavar="DIR", type=Path, help="directory that holds plan.json")
    add("--cifar10", required=True, help="directory of torchvision, pack, or any other store")
    add("--cifar10-name", default="CIFAR-10", help="what the report calls it (default CIFAR-10)")
    add("--out", type=Path, help="default: DIR/audit")
    add("--dry-run", action="store_true", help="print cost and time, then stop")
    # What looks at the images, and what is measured beside them.
    add = parser.add_argument_group("labeler, for features and calibration").add_argument
    add("--labeler", help="timm directory, file or Hub id, tiny, or none (default: as DIR's plan)")
    add("--precision", help="fp32, tf32, bf16 or fp16 (default: as DIR's plan)")
    add("--batch", dest="batch_size", type=int, help="images a call, >= 1 (default: as DIR's plan)")
    add = parser.add_argument_group("distances that need downloaded weights").add_argument
    add(
        "--inception",
        default="auto",
        help="for FID and KID: auto (on a GPU alone), download, none, or torch-fidelity's file "
        "(default auto)",
    )
    add(
        "--dinov2",
        default="auto",
        help="auto (on a GPU alone), none, or a timm name or directory (default auto)",
    )
    add = parser.add_argument
    add("--device", default="auto", help="auto, cpu, cuda or cuda:K (default auto)")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    hint = "for a batch; choose a smaller --batch"
    return exit_code(parser, lambda: run(args), args.out or args.directory, too_large=hint)


def run(args: argparse.Namespace) -> int:
    from cifar5m.auditing.cost import measure_audit
    from cifar5m.auditing.run import audit

    # Options have the names of the function's parameters.
    given: dict[str, Any] = vars(args).copy()
    dry_run, quiet = (given.pop(name) for name in ("dry_run", "quiet"))
    if dry_run:
        print("\n".join(measure_audit(**given)))
        return 0
    # Damaged shards do not stop the audit; they are named at the end.
    with ProgressBars(quiet, "labeled parts and examined shards are kept") as on_progress:
        found = audit(**given, on_progress=on_progress)
    print_result(found)
    warn_damaged_shards(COMMAND, args.directory, found.problems)
    return EXIT_FAILED if found.problems else 0


def print_result(found: "AuditResult") -> None:
    """Print the summary and where report and page are."""
    if found.shards < found.shards_planned:
        print(f"{found.shards} of {found.shards_planned} shards are audited")
    for name, value in found.summary.items():
        shown = f"not measured: {found.not_measured[name]}" if value is None else f"{value:.6g}"
        print(f"{name:44} {shown}")
    print(found.report, found.page, sep="\n")


if __name__ == "__main__":
    sys.exit(main())
