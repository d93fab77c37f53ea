"""The options that choose a task, for dogbird-classes and dogbird-build."""

import argparse
from pathlib import Path

from dogbird.tasks import SYNSETS


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a task."""
    add = parser.add_argument_group("task").add_argument
    add(
        "--labels",
        type=lambda text: tuple(text.split(",")),
        default=SYNSETS,
        help="a synset or wnid for each label, with commas between, or imagenet for all 1,000 "
        f"classes ({','.join(SYNSETS)})",
    )
    add(
        "--wordnet",
        type=Path,
        metavar="DIR",
        help="nltk data directory that holds corpora/wordnet (default: nltk's own, filled by "
        "python -m nltk.downloader wordnet); DogBird's own task does not need it",
    )
