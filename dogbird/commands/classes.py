"""dogbird-classes: the ImageNet classes of a task, by default the 122 of DogBird.

    dogbird-classes                                          # the packaged lists
    dogbird-classes --derive                                 # from WordNet 3.0, and any difference
    dogbird-classes --labels dog.n.01,cat.n.01               # any synsets, from WordNet
    dogbird-classes --labels n01443537,n02012849             # any classes, a label each

Exit code 0; 1 where WordNet's lists differ from the packaged ones; 2 for bad input.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence

from dogbird.commands.common import add_task_options
from dogbird.tasks import SYNSETS, Task, classes, derive_task, dogbird_task
from dogbird.wordnet import open_wordnet
from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("dogbird-classes", __doc__)
    add_task_options(parser)
    parser.add_argument(
        "--derive", action="store_true", help="compare WordNet's lists with the packaged ones"
    )
    args = parser.parse_args(argv)
    return exit_code(parser, lambda: run(args))


def run(args: argparse.Namespace) -> int:
    if args.derive:
        return derive(args)
    print_task(classes(args.labels, wordnet=args.wordnet))
    return 0


def print_task(task: Task) -> None:
    for label, found in enumerate(task.classes):
        for wnid, name in found.items():
            print(label, wnid, name)
    counts = (f"{len(c)} under {s}" for s, c in zip(task.synsets, task.classes, strict=True))
    print(", ".join(counts))


def derive(args: argparse.Namespace) -> int:
    if args.labels != SYNSETS:
        raise ValueError("--derive compares the packaged lists: leave --labels out")
    derived = derive_task(SYNSETS, open_wordnet(args.wordnet))
    print_task(derived)
    found = list(differences(dogbird_task(), derived))
    print("\n".join(found) or "equal to the packaged lists")
    return 1 if found else 0


def differences(packaged: Task, derived: Task) -> Iterator[str]:
    """Yield a line for each class that only one task has, or under another name or label."""
    for label, (ours, theirs) in enumerate(zip(packaged.classes, derived.classes, strict=True)):
        for wnid, name in sorted(set(ours.items()) ^ set(theirs.items())):
            where = "packaged" if (wnid, name) in ours.items() else "WordNet"
            yield f"only {where}: {label} {wnid} {name}"


if __name__ == "__main__":
    sys.exit(main())
