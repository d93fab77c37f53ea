"""ImageNet classes that make a binary task: hunting dogs against birds, or any two synsets.

    task = dogbird_task()                 # the packaged lists: 63 hunting dogs, 59 birds
    task = derive_task("dog.n.01", "cat.n.01", open_wordnet())

`ilsvrc2012.txt` holds the 1,000 wnids of ILSVRC-2012 in the order of their class numbers, 0 to 999,
with the first word of each synset; `classes.txt` holds the 122 of DogBird by label. Both are facts
of WordNet 3.0; tools/make_class_lists.py writes them.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from dogbird.wordnet import classes_below, open_wordnet

SYNSETS: Final = ("hunting_dog.n.01", "bird.n.01")  # labels 0 and 1 of ImageNet-DogBird


@dataclass(frozen=True, repr=False)
class Task:
    """Two synsets, and the ILSVRC-2012 classes below each: wnid to name, sorted by wnid."""

    synsets: tuple[str, str]
    classes: tuple[dict[str, str], dict[str, str]]

    def __post_init__(self) -> None:
        # Both labels need classes, and none may have two labels.
        for synset, classes in zip(self.synsets, self.classes, strict=True):
            if not classes:
                raise ValueError(f"none of ImageNet's 1,000 classes is a kind of {synset}")
        both = sorted(set(self.classes[0]) & set(self.classes[1]))
        if both:
            raise ValueError(
                f"{self.synsets[0]} and {self.synsets[1]} share {len(both)} classes, the first is "
                f"{both[0]} ({self.classes[0][both[0]]}): choose synsets that exclude one another"
            )

    def __repr__(self) -> str:
        first, second = (
            f"{len(classes)} under {synset}"
            for synset, classes in zip(self.synsets, self.classes, strict=True)
        )
        return f"Task({first}, {second})"

    @property
    def class_names(self) -> tuple[str, str]:
        """The labels' names: the lemmas of the synsets, or the synsets where those are equal."""
        first, second = (synset.partition(".")[0] for synset in self.synsets)
        return self.synsets if first == second else (first, second)

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
    classes: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for line in _read("classes.txt"):
        label, wnid, name = line.split()
        classes[int(label)][wnid] = name
    return Task(SYNSETS, classes)


def derive_task(synset0: str, synset1: str, wordnet: Any) -> Task:
    """Return the task of two synsets from nltk's reader of WordNet.

    Raises ValueError if a synset has no ImageNet class, or the two share some.
    """
    wnids = ilsvrc2012()
    first, second = (classes_below(synset, wnids, wordnet) for synset in (synset0, synset1))
    return Task((synset0, synset1), (first, second))


def classes(
    class0: str = SYNSETS[0], class1: str = SYNSETS[1], *, wordnet: str | Path | None = None
) -> Task:
    """Return the ImageNet classes of a task of two, by default the 122 of ImageNet-DogBird.

    Args:
        class0: WordNet synset of label 0, such as "dog.n.01".
        class1: WordNet synset of label 1.
        wordnet: nltk data directory that holds corpora/wordnet, by default nltk's own. DogBird's
            own task comes from packaged lists if it is None.

    Returns:
        The task: `classes` maps wnid to name for each label.

    Raises:
        ValueError: If a synset is unknown, has no ImageNet class or shares some with the other, or
            WordNet is missing.
    """
    # DogBird itself needs no WordNet.
    if (class0, class1) == SYNSETS and wordnet is None:
        return dogbird_task()
    reader = open_wordnet(None if wordnet is None else Path(wordnet))
    return derive_task(class0, class1, reader)


def _read(name: str) -> list[str]:
    return files("dogbird").joinpath(name).read_text(encoding="utf-8").splitlines()
