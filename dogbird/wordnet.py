"""WordNet 3.0: which of ImageNet's classes lie under a synset.

    nouns = Nouns(find_wordnet())
    nouns.below("hunting_dog.n.01", ilsvrc2012())     # {"n02087394": "Rhodesian_ridgeback", ...}

A wnid is `n` and the offset of the synset's line in `data.noun`, so two plain files, `index.noun`
and `data.noun`, say everything (their format: wndb(5WN)). Debian's package `wordnet-base` has them,
and so has nltk's corpus `wordnet`. nltk's own reader cannot take Debian's folder: it wants a file
`lexnames` that is not there and, from release 3.10 on, a folder within nltk's own paths.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

PLACES: Final = (
    Path("/usr/share/wordnet"),  # Debian's wordnet-base
    Path("~/nltk_data/corpora/wordnet"),
    Path("/usr/share/nltk_data/corpora/wordnet"),
)
_SYNSET: Final = re.compile(r"([^.\s]+)\.n\.(\d\d)")
_HYPERNYMS: Final = ("@", "@i")  # pointers to what a synset is a kind of, or an instance of


def find_wordnet() -> Path:
    """The first of PLACES that holds WordNet's nouns; ValueError with what to do if none does."""
    for place in PLACES:
        if (place.expanduser() / "data.noun").is_file():
            return place.expanduser()
    raise ValueError(
        f"WordNet 3.0 is not at {', '.join(map(str, PLACES))}: install Debian's wordnet-base, or "
        "name the folder that holds index.noun and data.noun with --wordnet"
    )


class Nouns:
    """The nouns of a WordNet folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._senses = dict(_read_index(folder / "index.noun"))
            self._synsets = dict(_read_synsets(folder / "data.noun"))
        except FileNotFoundError as error:
            raise ValueError(
                f"{folder} is no WordNet database: it has no {Path(error.filename).name}"
            ) from error
        except (IndexError, ValueError) as error:
            raise ValueError(f"{folder} is no WordNet database: {error}") from error

    def wnid(self, synset: str) -> str:
        """The wnid of a synset such as `hunting_dog.n.01`: of a lemma, its first sense."""
        match = _SYNSET.fullmatch(synset)
        if match is None:
            raise ValueError(f"a synset is written like hunting_dog.n.01, got {synset!r}")
        senses = self._senses.get(match[1].lower(), [])
        if not 1 <= int(match[2]) <= len(senses):
            raise ValueError(
                f"WordNet has no synset {synset!r}: {match[1]} has {len(senses)} senses as a noun"
            )
        return senses[int(match[2]) - 1]

    def name(self, wnid: str) -> str:
        """The first word of a synset, with `_` for spaces."""
        return self._synset(wnid)[0]

    def below(self, synset: str, wnids: Iterable[str]) -> dict[str, str]:
        """Those of `wnids` that are `synset` or a kind of it, sorted, with their names."""
        top = self.wnid(synset)
        return {wnid: self.name(wnid) for wnid in sorted(wnids) if top in self._ancestors(wnid)}

    def _ancestors(self, wnid: str) -> set[str]:
        """`wnid` and everything that it is a kind of."""
        found, waiting = {wnid}, [wnid]
        while waiting:
            above = self._synset(waiting.pop())[1]
            waiting += [other for other in above if other not in found]
            found.update(above)
        return found

    def _synset(self, wnid: str) -> tuple[str, list[str]]:
        if wnid not in self._synsets:
            raise ValueError(f"{self.folder} has no synset {wnid}: it is not WordNet 3.0")
        return self._synsets[wnid]


def _lines(path: Path) -> Iterator[list[str]]:
    """The fields of each line; those of the licence on top begin with spaces."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if not line.startswith(" "):
                yield line.partition("|")[0].split()


def _read_index(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Lemma, and the wnids of its senses in order."""
    for fields in _lines(path):
        yield fields[0], [f"n{offset}" for offset in fields[-int(fields[2]) :]]


def _read_synsets(path: Path) -> Iterator[tuple[str, tuple[str, list[str]]]]:
    """wnid, and its first word and the wnids above it."""
    for fields in _lines(path):
        words = int(fields[3], 16)
        pointers = fields[5 + 2 * words :]  # symbol, offset, part of speech, source and target
        count = int(fields[4 + 2 * words])
        above = [f"n{pointers[4 * k + 1]}" for k in range(count) if pointers[4 * k] in _HYPERNYMS]
        yield f"n{fields[0]}", (fields[4], above)
