"""WordNet 3.0, read by nltk: the ImageNet classes below a synset.

    wordnet = open_wordnet()                  # nltk's own data, or open_wordnet(directory)
    classes_below("hunting_dog.n.01", ilsvrc2012(), wordnet)    # {"n02087394": "Rhodesian...

A wnid is `n` and the offset of a noun synset in WordNet's `data.noun`.
"""

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from worlds.runtime.errors import first_line

DOWNLOAD = "python -m nltk.downloader wordnet"


def open_wordnet(directory: Path | None = None) -> Any:
    """Return nltk's reader of `corpora/wordnet` (or its zip) in an nltk data directory.

    Without `directory`, nltk searches its own paths; with one, `directory` joins them (nltk reads
    nothing outside its paths). Raises ValueError if the corpus is missing or corrupt.
    """
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    if directory is not None and str(directory) not in nltk.data.path:
        nltk.data.path.insert(0, str(directory))
    root = _find_corpus(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk announces that this reader is English only
        try:
            return WordNetCorpusReader(root, None)
        except Exception as error:
            reason = first_line(error)
    raise ValueError(f"{root} is not a complete WordNet corpus ({reason}): run {DOWNLOAD}")


def find_synset(name: str, wordnet: Any) -> Any:
    """Return the noun synset of a name such as `hunting_dog.n.01`."""
    from nltk.corpus.reader.wordnet import WordNetError

    # Verbs and adjectives have no ImageNet classes.
    if not re.fullmatch(r".+\.n\.\d+", name):
        raise ValueError(f"a synset is written like hunting_dog.n.01, got {name!r}")
    try:
        return wordnet.synset(name)
    except WordNetError as error:
        raise ValueError(f"WordNet has no synset {name!r}: {first_line(error)}") from error
    except Exception as error:  # nltk stumbles over corrupt lines in many ways
        raise _corrupt(error) from error


def _corrupt(error: Exception) -> ValueError:
    return ValueError(f"WordNet is corrupt ({first_line(error)}): run {DOWNLOAD}")


def find_wnid(wnid: str, wordnet: Any) -> Any:
    """Return the synset of a wnid; raises ValueError if the corpus is not WordNet 3.0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        synset = wordnet.synset_from_pos_and_offset("n", int(wnid[1:]))
    if synset is None:
        raise ValueError(f"WordNet has no synset {wnid}: expected WordNet 3.0, run {DOWNLOAD}")
    return synset


def classes_below(name: str, wnids: Iterable[str], wordnet: Any) -> dict[str, str]:
    """Return the sorted wnids that are the synset or a kind of it, each with its first lemma."""
    # A class is a kind of the synset if that is among its hypernyms.
    top = find_synset(name, wordnet)
    found = {}
    try:
        for wnid in sorted(wnids):
            synset = find_wnid(wnid, wordnet)
            if top in synset.common_hypernyms(top):  # each synset counts as its own hypernym
                found[wnid] = synset.lemma_names()[0]
    except Exception as error:
        raise _corrupt(error) from error
    return found


def _find_corpus(directory: Path | None) -> Any:
    import nltk

    # nltk reads the corpus unpacked or zipped.
    paths = None if directory is None else [str(directory)]
    for resource in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        try:
            return nltk.data.find(resource, paths)
        except LookupError:
            pass
        except Exception as error:  # of a zip that is none
            raise _corrupt(error) from error
    where = "in nltk's data directories" if directory is None else f"in {directory}"
    option = "" if directory is None else f" -d {directory}"
    raise ValueError(f"corpora/wordnet is missing {where}: run {DOWNLOAD}{option}")
