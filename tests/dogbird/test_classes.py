"""The packaged class lists, WordNet's own, and the command that prints them."""

from pathlib import Path

import pytest

from dogbird.commands.classes import main
from dogbird.tasks import SYNSETS, derive_task, dogbird_task, ilsvrc2012
from dogbird.wordnet import Nouns, find_wordnet

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet-samples"

# wnid, words, what it is a kind of; n00000009 is an instance of a kind of dog.
NOUNS = [
    ("n00000001", ["animal"], []),
    ("n00000002", ["dog", "domestic_dog"], ["n00000001"]),
    ("n00000003", ["hunting_dog"], ["n00000002"]),
    ("n02087394", ["Rhodesian_ridgeback"], ["n00000003"]),
    ("n02088094", ["Afghan_hound", "Afghan"], ["n00000003", "n00000001"]),
    ("n00000006", ["bird"], ["n00000001"]),
    ("n01514668", ["cock"], ["n00000006"]),
    ("n02110063", ["malamute"], ["n00000002"]),
]


def write_wordnet(folder: Path) -> Path:
    """A WordNet of NOUNS, where `hunting_dog` has a second sense, the bird; all of ImageNet's other
    classes are there, and are no kind of anything.
    """
    folder.mkdir()
    licence = "  1 This software is a few synsets.  \n"
    known = {wnid for wnid, _, _ in NOUNS}
    others = [(wnid, [name], []) for wnid, name in ilsvrc2012().items() if wnid not in known]
    data, senses = [licence], {}
    for wnid, words, above in [*NOUNS, *others]:
        text = " ".join(f"{word} 0" for word in words)
        pointers = " ".join(f"@ {other[1:]} n 0000" for other in above)
        part = f"#p {NOUNS[0][0][1:]} n 0000"  # a pointer that is no hypernym
        fields = f"{wnid[1:]} 05 n {len(words):02x} {text} {len(above) + 1:03d} {part} {pointers}"
        data.append(f"{fields.rstrip()} | a gloss with 00000003 in it  \n")
        for word in words:
            senses.setdefault(word.lower(), []).append(wnid[1:])
    senses["hunting_dog"].append("00000006")
    index = [
        f"{word} n {len(found)} 2 @ #p {len(found)} 0 {' '.join(found)}  \n"
        for word, found in sorted(senses.items())
    ]
    (folder / "data.noun").write_text("".join(data))
    (folder / "index.noun").write_text("".join([licence, *index]))
    return folder


def test_the_packaged_lists_are_63_hunting_dogs_and_59_birds():
    dogs, birds = dogbird_task().classes
    assert (len(dogs), len(birds)) == (63, 59)
    assert dogs["n02087394"] == "Rhodesian_ridgeback"
    assert birds["n01514668"] == "cock"
    assert dogbird_task().class_names == ("hunting_dog", "bird")
    assert set(dogbird_task().labels) <= set(ilsvrc2012())
    assert list(ilsvrc2012()) == sorted(ilsvrc2012())
    assert len(ilsvrc2012()) == 1000


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="needs ../shared")
def test_the_lists_are_those_of_the_sample_photographs_by_wnid_and_name():
    named = {p.stem[:9]: p.stem[10:] for p in SAMPLES.glob("*.JPEG")}
    dogs, birds = dogbird_task().classes
    assert (dogs | birds).items() <= named.items()
    assert len(named) - len(dogs | birds) == 10


def test_the_lists_are_wordnets():
    try:
        nouns = Nouns(find_wordnet())
    except ValueError:
        pytest.skip("WordNet 3.0 is not installed (Debian's wordnet-base)")
    assert derive_task(*SYNSETS, nouns) == dogbird_task()


def test_below_follows_every_path_upwards(tmp_path):
    nouns = Nouns(write_wordnet(tmp_path / "wordnet"))
    wnids = [wnid for wnid, _, _ in NOUNS]
    assert nouns.below("hunting_dog.n.01", wnids) == {
        "n00000003": "hunting_dog",
        "n02087394": "Rhodesian_ridgeback",
        "n02088094": "Afghan_hound",
    }
    assert list(nouns.below("domestic_dog.n.01", wnids))[-1] == "n02110063"
    assert nouns.below("hunting_dog.n.02", wnids) == nouns.below("bird.n.01", wnids)
    assert len(nouns.below("animal.n.01", wnids)) == len(NOUNS)


def test_derive_tells_each_difference_and_exits_1(tmp_path, capsys):
    assert main(["--derive", "--wordnet", str(write_wordnet(tmp_path / "wordnet"))]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "0 n02087394 Rhodesian_ridgeback",
        "0 n02088094 Afghan_hound",
        "1 n01514668 cock",
    ]
    assert lines[3] == "2 under hunting_dog.n.01, 1 under bird.n.01"
    assert len(lines[4:]) == 61 + 58
    assert "only packaged: 0 n02088238 basset" in lines


def test_any_two_synsets_make_a_task(tmp_path, capsys):
    options = ["--wordnet", str(write_wordnet(tmp_path / "wordnet"))]
    assert main(["--class0", "bird.n.01", "--class1", "dog.n.01", *options]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "0 n01514668 cock"
    assert out[-1] == "1 under bird.n.01, 3 under dog.n.01"


@pytest.mark.parametrize(
    "options, message",
    [
        (["--class1", "dog.n.01"], "share 2 classes, the first is n02087394"),
        (["--class0", "unicorn.n.01"], "unicorn has 0 senses as a noun"),
        (["--class0", "bird.n.02"], "bird has 1 senses as a noun"),
        (["--class0", "bird"], "a synset is written like hunting_dog.n.01, got 'bird'"),
        (["--derive", "--class0", "dog.n.01"], "--derive compares the packaged lists"),
    ],
)
def test_bad_tasks_are_one_line(options, message, tmp_path, capsys):
    options = [*options, "--wordnet", str(write_wordnet(tmp_path / "wordnet"))]
    assert main(options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("dogbird-classes: ")
    assert error.count("\n") == 1


def test_a_folder_without_wordnet_is_one_line(tmp_path, capsys):
    assert main(["--derive", "--wordnet", str(tmp_path)]) == 2
    assert "is no WordNet database: it has no index.noun" in capsys.readouterr().err
