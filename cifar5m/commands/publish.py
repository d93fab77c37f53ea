"""cifar5m-publish: check a dataset directory, write its card, send it to the Hugging Face Hub.

    cifar5m-publish out/tiny --repo USER/NAME --dry-run     # shows card and files; no network
    cifar5m-publish out/tiny --repo USER/NAME --private
    cifar5m-publish cifar5m --repo USER/NAME --parquet      # what the Hub's viewer shows best

With --parquet the viewer and `datasets` read the Parquet files instead of the tars, and find the
probabilities there. The card goes last, so a repository with a card is whole; then samples of one
shard are streamed back and compared. The same command again resumes, and sends nothing twice. Exit
code 0: all is there; 1: the Hub or this machine failed; 2: bad usage, a directory with problems, a
repository that is not yours or holds another plan.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser
from worlds.cli.progress import ProgressBars
from worlds.formats.layout import CARD

if TYPE_CHECKING:
    from cifar5m.hub.card import Facts


def make_parser() -> Parser:
    parser = Parser("cifar5m-publish", __doc__)
    add = parser.add_argument
    add("directory", metavar="DIR", type=Path, help="directory that holds plan.json")
    add("--repo", required=True, metavar="USER/NAME", help="dataset repository")
    add("--private", action="store_true", help="create the repository private")
    add("--license", metavar="ID", help="the Hub's name of it (default: the plan's)")
    add("--parquet", action="store_true", help="write and send Parquet files too")
    add("--partial", action="store_true", help="send the finished shards of an unfinished set")
    add("--workers", type=int, help="processes that verify, >= 1 (default: one a CPU)")
    add(
        "--dry-run", action="store_true", help="show the card and the files, send and write nothing"
    )
    add("--quiet", action="store_true", help="no progress bars")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    return exit_code(parser, lambda: run(args), args.directory)


def run(args: argparse.Namespace) -> int:
    from cifar5m.hub.run import check_dataset, publish

    given: dict[str, Any] = vars(args).copy()
    quiet, dry_run, private = (given.pop(name) for name in ("quiet", "dry_run", "private"))
    with ProgressBars(quiet, "files that were sent are kept") as on_progress:
        # A dry run checks everything that a run checks.
        if dry_run:
            print_files(check_dataset(**given, on_progress=on_progress))
        else:
            print(publish(**given, private=private, on_progress=on_progress))
    return 0


def print_files(facts: "Facts") -> None:
    """Print the card, then every file that would be sent with its bytes."""
    from cifar5m.hub.card import card_text
    from cifar5m.hub.run import planned_files

    print(f"{CARD} would be:\n\n{card_text(facts)}")
    # Sizes as they would be sent; the card is not written yet.
    files = planned_files(facts)
    for file in files:
        print(f"{f'{file.bytes:,}' if file.bytes else 'to be made':>16}  {file.path}")
    print(
        f"{sum(file.bytes for file in files):>16,}  bytes in {len(files)} files for {facts.repo}; "
        "nothing was sent"
    )


if __name__ == "__main__":
    sys.exit(main())
