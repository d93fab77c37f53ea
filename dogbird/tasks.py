"""Which of ImageNet's 1,000 classes make a task of two: hunting dogs against birds, or any other.

    task = dogbird_task()                 # the packaged lists: 63 hunting dogs, 59 birds
    task = derive_task("dog.n.01", "cat.n.01", Nouns(find_wordnet()))

`ilsvrc2012.txt` holds the 1,000 wnids of ILSVRC-2012 in the order of their class numbers, 0 to 999,
with the first word of each synset; `classes.txt` holds the 122 of DogBird by label. Both are facts
of WordNet 3.0; tools/make_class_lists.py writes them.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from dogbird.wordnet import Nouns

SYNSETS: Final = ("hunting_dog.n.01", "bird.n.01")  # labels 0 and 1 of ImageNet-DogBird


@dataclass(frozen=True)
class Task:
    """Two synsets, and the ILSVRC-2012 classes below each: wnid to name, sorted by wnid."""

    synsets: tuple[str, str]
    classes: tuple[dict[str, str], dict[str, str]]

    def __post_init__(self) -> None:
        for synset, classes in zip(self.synsets, self.classes, strict=True):
            if not classes:
                raise ValueError(f"none of ImageNet's 1,000 classes is a kind of {synset}")
        both = sorted(set(self.classes[0]) & set(self.classes[1]))
        if both:
            raise ValueError(
                f"{self.synsets[0]} and {self.synsets[1]} share {len(both)} classes, the first is "
                f"{both[0]} ({self.classes[0][both[0]]}): choose synsets that exclude one another"
            )

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
    """The 1,000 wnids in the order of their class numbers, with names."""
    return dict(line.split() for line in _read("ilsvrc2012.txt"))


@cache
def dogbird_task() -> Task:
    """ImageNet-DogBird, from the packaged lists."""
    classes: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for line in _read("classes.txt"):
        label, wnid, name = line.split()
        classes[int(label)][wnid] = name
    return Task(SYNSETS, classes)


def derive_task(synset0: str, synset1: str, nouns: Nouns) -> Task:
    """The task of any two synsets, from WordNet; ValueError where one has no ImageNet class, or
    the two share some.
    """
    wnids = ilsvrc2012()
    return Task((synset0, synset1), (nouns.below(synset0, wnids), nouns.below(synset1, wnids)))


def find_task(synset0: str, synset1: str, nouns: Nouns | None = None) -> Task:
    """The packaged task where it is the one asked for, else that of WordNet's `nouns`."""
    if (synset0, synset1) == SYNSETS and nouns is None:
        return dogbird_task()
    if nouns is None:
        from dogbird.wordnet import find_wordnet

        nouns = Nouns(find_wordnet())
    return derive_task(synset0, synset1, nouns)


def _read(name: str) -> list[str]:
    return files("dogbird").joinpath(name).read_text(encoding="utf-8").splitlines()
