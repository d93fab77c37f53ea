"""cifar5m-publish: check a dataset folder, write its card, send it to the Hugging Face Hub.

    cifar5m-publish out/tiny --repo USER/NAME --dry-run     # checks, lists every file; no network
    cifar5m-publish out/tiny --repo USER/NAME --private
    cifar5m-publish cifar5m --repo USER/NAME --parquet      # what the Hub's viewer shows best

With --parquet the viewer and `datasets` read the Parquet files instead of the tars, and find the
probabilities there. The card goes last, so a repository with a card is whole. The same command
again goes on where it stopped, and sends nothing twice. Exit code 0: all is there; 1: the Hub or
this machine failed; 2: bad usage, a folder with problems, a repository that is not yours or holds
another plan.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from worlds.cli.exit import exit_code
from worlds.cli.progress import DownloadBar, image_bar
from worlds.formats.layout import Shard
from worlds.runtime.signals import StopSignal

if TYPE_CHECKING:
    from cifar5m.hub.card import Facts
    from cifar5m.hub.publish import File
    from cifar5m.shards.verify import Report

COMMAND = "cifar5m-publish"
_HARMLESS = {"duplicate", "foreign", "temporary"}  # told in the card, or not published at all


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder that holds plan.json")
    parser.add_argument("--repo", required=True, metavar="USER/NAME", help="dataset repository")
    parser.add_argument("--private", action="store_true", help="create the repository private")
    parser.add_argument(
        "--license", metavar="ID", help="the Hub's name of it (default: the plan's)"
    )
    parser.add_argument("--parquet", action="store_true", help="write and send Parquet files too")
    parser.add_argument(
        "--partial", action="store_true", help="send the finished shards of an unfinished set"
    )
    parser.add_argument(
        "--workers", type=int, help="processes that verify, >= 1 (default: one a CPU)"
    )
    parser.add_argument("--dry-run", action="store_true", help="send and write nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return exit_code(COMMAND, args.folder, lambda: run(args))


def run(args: argparse.Namespace) -> int:
    from cifar5m.hub.card import Facts, write_card
    from cifar5m.hub.publish import published_files

    check_repo(args.repo)
    if args.parquet:
        from cifar5m.hub.parquet import pyarrow_or_hint

        pyarrow_or_hint()
    stop = StopSignal()
    report = verified(args, stop)
    shards = finished_shards(args.folder, report)
    facts = Facts(
        args.folder, args.repo, shards, report.duplicates, args.license, parquet=args.parquet
    )
    if args.dry_run:
        print_plan(facts, published_files(args.folder, shards, args.parquet))
        return 0
    write_card(facts)
    if args.parquet:
        make_parquet(facts, args.quiet, stop)
    send(args, published_files(args.folder, shards, args.parquet), stop)
    return 0


def check_repo(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"--repo: {error}") from error
    if repo.count("/") != 1:
        raise ValueError(f"--repo must be USER/NAME, got {repo!r}")


def verified(args: argparse.Namespace, stop: StopSignal) -> "Report":
    """Verify's report; ValueError where it speaks against publishing."""
    from cifar5m.commands.common import verify_folder
    from cifar5m.labels.labeling import LABELS_FOLDER

    report = verify_folder(args.folder, args.workers, stop, args.quiet)
    harmless = _HARMLESS | ({"missing"} if args.partial else set())
    problems = [problem for problem in report.problems if problem.kind not in harmless]
    if problems:
        more = f" and {len(problems) - 1} more problems" if len(problems) > 1 else ""
        hint = f"see cifar5m-verify {args.folder}, mend with --repair"
        if all(problem.kind == "missing" for problem in problems):
            of_labels = all(problem.path.startswith(f"{LABELS_FOLDER}/") for problem in problems)
            work = "labelling, with cifar5m-label" if of_labels else "generating"
            hint = f"finish {work}, or send the finished shards with --partial"
        raise ValueError(f"{problems[0]}{more}: {hint}")
    return report


def finished_shards(folder: Path, report: "Report") -> list[Shard]:
    from worlds.formats.plan import load_plan
    from worlds.formats.shards import is_finished

    planned = load_plan(folder).shards
    shards = [shard for shard in planned if is_finished(folder, shard, report.fingerprint)]
    if not shards:
        raise ValueError(f"{folder} has no finished shard: generate first")
    return shards


def print_plan(facts: "Facts", files: "Sequence[File]") -> None:
    """Every file with its bytes, those of the card and the listing as they would be written."""
    from cifar5m.hub.card import made_files

    sizes = {name: len(content) for name, content in made_files(facts).items()}
    files = [replace(file, bytes=sizes.get(file.path, file.bytes)) for file in files]
    for file in files:
        print(f"{f'{file.bytes:,}' if file.bytes else 'to be made':>16}  {file.path}")
    print(
        f"{sum(file.bytes for file in files):>16,}  bytes in {len(files)} files for {facts.repo}; "
        "nothing was sent"
    )


def make_parquet(facts: "Facts", quiet: bool, stop: StopSignal) -> None:
    from cifar5m.hub.parquet import write_parquets

    with image_bar(facts.shards, facts.shards, quiet) as bar:
        for shard in write_parquets(facts.folder, facts.shards, facts.plan["extension"]):
            bar.update(len(shard))
            stop.raise_if_set()


def send(args: argparse.Namespace, files: "Sequence[File]", stop: StopSignal) -> None:
    from huggingface_hub.utils import disable_progress_bars

    from cifar5m.hub.publish import Hub, publish

    disable_progress_bars()  # one bar over all files instead
    with DownloadBar(args.quiet) as bar:

        def report(done: int, total: int) -> None:
            bar.progress(done, total)
            stop.raise_if_set()

        hub = Hub(args.repo, bar.note, stop.raise_if_set)
        sent = publish(args.folder, files, hub, args.private, report)
    place = f"{hub.api.endpoint}/datasets/{args.repo}"
    print(f"{sent} files sent, {len(files) - sent} were there already: {place}")


if __name__ == "__main__":
    sys.exit(main())
