"""The options that choose a task, for dogbird-classes and dogbird-build."""

import argparse
from pathlib import Path

from dogbird.tasks import SYNSETS


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a task."""
    add = parser.add_argument_group("task").add_argument
    add("--class0", default=SYNSETS[0], help=f"synset of label 0 ({SYNSETS[0]})")
    add("--class1", default=SYNSETS[1], help=f"synset of label 1 ({SYNSETS[1]})")
    add(
        "--wordnet",
        type=Path,
        metavar="DIR",
        help="nltk data directory that holds corpora/wordnet (default: nltk's own, filled by "
        "python -m nltk.downloader wordnet); DogBird's own task does not need it",
    )
