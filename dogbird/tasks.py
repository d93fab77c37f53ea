"""ImageNet classes that make a task: hunting dogs against birds, or any synsets or classes.

    task = classes()                                      # the packaged lists: 63 dogs, 59 birds
    task = classes(["dog.n.01", "cat.n.01", "n01443537"])  # three labels; wnids need no WordNet
    task = classes(["imagenet"])                          # a label for each of the 1,000

`ilsvrc2012.txt` holds the 1,000 wnids of ILSVRC-2012 in the order of their class numbers, 0 to 999,
with the first word of each synset; `classes.txt` holds the 122 of DogBird by label. Both are facts
of WordNet 3.0; tools/make_class_lists.py writes them.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from dogbird.wordnet import classes_below, open_wordnet

SYNSETS: Final = ("hunting_dog.n.01", "bird.n.01")  # labels 0 and 1 of ImageNet-DogBird
IMAGENET: Final = "imagenet"  # in place of the wnids of all classes


@dataclass(frozen=True, repr=False)
class Task:
    """Synsets or wnids, one a label, and the ILSVRC-2012 classes of each: wnid to name, sorted by
    wnid.
    """

    synsets: tuple[str, ...]
    classes: tuple[dict[str, str], ...]

    def __post_init__(self) -> None:
        # Every label needs classes, and none may have two labels.
        if len(self.synsets) < 2:
            raise ValueError(f"a task has 2 labels or more, got {', '.join(self.synsets)}")
        owners: dict[str, str] = {}
        for synset, classes in zip(self.synsets, self.classes, strict=True):
            if not classes:
                raise ValueError(f"none of ImageNet's 1,000 classes is a kind of {synset}")
            if both := sorted(set(classes) & set(owners)):
                raise ValueError(
                    f"{owners[both[0]]} and {synset} share {len(both)} classes, the first is "
                    f"{both[0]} ({classes[both[0]]}): choose synsets that exclude one another"
                )
            owners |= dict.fromkeys(classes, synset)

    def __repr__(self) -> str:
        each = zip(self.synsets, self.classes, strict=True)
        return f"Task({', '.join(f'{len(classes)} under {synset}' for synset, classes in each)})"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels' names: the lemmas of the synsets, and all of what was given where those are
        equal.
        """
        each = zip(self.synsets, self.classes, strict=True)
        short = [classes.get(synset, synset.partition(".")[0]) for synset, classes in each]
        twice = {name for name, often in Counter(short).items() if often > 1}
        return tuple(
            synset if name in twice else name
            for synset, name in zip(self.synsets, short, strict=True)
        )

    @property
    def labels(self) -> dict[str, int]:
        """The label of each wnid."""
        return {wnid: label for label, classes in enumerate(self.classes) for wnid in classes}


@cache
def ilsvrc2012() -> dict[str, str]:
    """Return the 1,000 wnids in the order of their class numbers, with names."""
    return dict(line.split() for line in _read("ilsvrc2012.txt"))


def find_class(text: str) -> str | None:
    """Return the wnid of a wnid or a class number 0 to 999; None for other text."""
    if re.fullmatch(r"\d{1,3}", text, re.ASCII):
        return list(ilsvrc2012())[int(text)]
    return text if text in ilsvrc2012() else None


@cache
def dogbird_task() -> Task:
    """Return the task of ImageNet-DogBird, from the packaged lists."""
    classes: tuple[dict[str, str], ...] = ({}, {})
    for line in _read("classes.txt"):
        label, wnid, name = line.split()
        classes[int(label)][wnid] = name
    return Task(SYNSETS, classes)


def derive_task(names: Sequence[str], wordnet: Any) -> Task:
    """Return the task of synsets from nltk's reader of WordNet; wnids among them need none.

    Raises ValueError if a synset has no ImageNet class, or two share some.
    """
    wnids = ilsvrc2012()
    return Task(
        tuple(names),
        tuple(
            {name: wnids[name]} if name in wnids else classes_below(name, wnids, wordnet)
            for name in names
        ),
    )


def classes(labels: Sequence[str] = SYNSETS, *, wordnet: str | Path | None = None) -> Task:
    """Return the ImageNet classes of a task, by default the 122 of ImageNet-DogBird.

    Args:
        labels: A WordNet synset such as "dog.n.01" or a wnid for each label; ["imagenet"] has all
            1,000 classes, in the order of their numbers.
        wordnet: nltk data directory that holds corpora/wordnet, by default nltk's own. DogBird's
            own task comes from packaged lists if it is None.

    Returns:
        The task: `classes` maps wnid to name for each label.

    Raises:
        ValueError: If a synset is unknown, has no ImageNet class or shares some with the other, or
            WordNet is missing.
    """
    # DogBird itself needs no WordNet.
    if tuple(labels) == SYNSETS and wordnet is None:
        return dogbird_task()
    names = list(ilsvrc2012()) if list(labels) == [IMAGENET] else list(labels)
    derived = not set(names) <= set(ilsvrc2012())
    reader = open_wordnet(None if wordnet is None else Path(wordnet)) if derived else None
    return derive_task(names, reader)


def _read(name: str) -> list[str]:
    return files("dogbird").joinpath(name).read_text(encoding="utf-8").splitlines()
