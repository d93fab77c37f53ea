"""A WordNet of a few synsets, as nltk's reader takes it."""

from pathlib import Path

from nltk.corpus.reader.wordnet import WordNetCorpusReader

from dogbird.tasks import ilsvrc2012

ANIMAL, DOG, HUNTING_DOG, BIRD = "n00000100", "n00000300", "n00000900", "n00001200"
INSTANCE = "n02110063"  # the malamute is an instance of a dog here

# wnid, words, what it is a kind of
NOUNS = [
    (ANIMAL, ["animal"], []),
    (DOG, ["dog", "domestic_dog"], [ANIMAL]),
    (HUNTING_DOG, ["hunting_dog"], [DOG]),
    ("n02087394", ["Rhodesian_ridgeback"], [HUNTING_DOG]),
    ("n02088094", ["Afghan_hound", "Afghan"], [HUNTING_DOG, ANIMAL]),
    (BIRD, ["bird"], [ANIMAL]),
    ("n01514668", ["cock"], [BIRD]),
    (INSTANCE, ["malamute"], [DOG]),
]


def write_wordnet(directory: Path) -> Path:
    """An nltk data directory with the WordNet of NOUNS, where `hunting_dog` has a second sense, the
    bird; all of ImageNet's other classes are there, and are no kind of anything.
    """
    corpus = directory / "corpora" / "wordnet"
    corpus.mkdir(parents=True)
    for name in WordNetCorpusReader._FILES:
        (corpus / name).write_text("")
    (corpus / "lexnames").write_text("".join(f"{k:02d}\tnoun.{k}\t1\n" for k in range(45)))
    (corpus / "data.adj").write_text("  1 WordNet 3.0 Copyright 2006 by nobody  \n")
    _write_nouns(corpus)
    return directory


def _write_nouns(corpus: Path) -> None:
    """Write index.noun and data.noun; each synset begins at the byte that its wnid says."""
    known = {wnid for wnid, _, _ in NOUNS}
    others = [(wnid, [name], []) for wnid, name in ilsvrc2012().items() if wnid not in known]
    senses: dict[str, list[str]] = {}
    with (corpus / "data.noun").open("w") as stream:
        for wnid, words, above in [*NOUNS, *others]:
            text = " ".join(f"{word} 0" for word in words)
            pointers = [f"{'@i' if wnid == INSTANCE else '@'} {a[1:]} n 0000" for a in above]
            pointers.append(f"#p {NOUNS[0][0][1:]} n 0000")  # a pointer that is no hypernym
            fields = [wnid[1:], "05 n", f"{len(words):02x}", text, f"{len(pointers):03d}"]
            stream.seek(int(wnid[1:]))
            stream.write(f"{' '.join([*fields, *pointers])} | g\n")
            for word in words:
                senses.setdefault(word.lower(), []).append(wnid[1:])
    senses["hunting_dog"].append(BIRD[1:])
    (corpus / "index.noun").write_text(
        "".join(
            f"{word} n {len(found)} 2 @ #p {len(found)} 0 {' '.join(found)}  \n"
            for word, found in sorted(senses.items())
        )
    )
