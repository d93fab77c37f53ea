"""The packaged class lists, WordNet's own, and the command that prints them."""

import gc
import shutil
from pathlib import Path

import nltk
import pytest

from dogbird.commands.classes import main
from dogbird.tasks import SYNSETS, classes, derive_task, dogbird_task, ilsvrc2012
from dogbird.wordnet import classes_below, open_wordnet
from tests.dogbird.small_wordnet import HUNTING_DOG, INSTANCE, NOUNS, write_wordnet

# nltk leaves its files to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet-samples"


@pytest.fixture(scope="module", autouse=True)
def _garbage_is_collected_here():
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def _nltk_paths(monkeypatch):
    monkeypatch.setattr(nltk.data, "path", list(nltk.data.path))


@pytest.fixture
def data(tmp_path) -> Path:
    return write_wordnet(tmp_path / "nltk_data")


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
        wordnet = open_wordnet()
    except ValueError:
        pytest.skip("WordNet 3.0 is not installed (python -m nltk.downloader wordnet)")
    assert derive_task(SYNSETS, wordnet) == dogbird_task()


def test_classes_below_follows_every_path_upwards(data):
    wordnet = open_wordnet(data)
    wnids = [wnid for wnid, _, _ in NOUNS]
    assert classes_below("hunting_dog.n.01", wnids, wordnet) == {
        HUNTING_DOG: "hunting_dog",
        "n02087394": "Rhodesian_ridgeback",
        "n02088094": "Afghan_hound",
    }
    assert list(classes_below("domestic_dog.n.01", wnids, wordnet))[-1] == INSTANCE
    below_second = classes_below("hunting_dog.n.02", wnids, wordnet)
    assert below_second == classes_below("bird.n.01", wnids, wordnet)
    assert len(classes_below("animal.n.01", wnids, wordnet)) == len(NOUNS)


def test_the_corpus_is_also_read_from_the_zip_that_nltk_downloads(data):
    corpora = data / "corpora"
    shutil.make_archive(str(corpora / "wordnet"), "zip", corpora, "wordnet")
    shutil.rmtree(corpora / "wordnet")
    assert classes_below("bird.n.01", ["n01514668"], open_wordnet(data)) == {"n01514668": "cock"}


def test_derive_tells_each_difference_and_exits_1(data, capsys):
    assert main(["--derive", "--wordnet", str(data)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "0 n02087394 Rhodesian_ridgeback",
        "0 n02088094 Afghan_hound",
        "1 n01514668 cock",
    ]
    assert lines[3] == "2 under hunting_dog.n.01, 1 under bird.n.01"
    assert len(lines[4:]) == 61 + 58
    assert "only packaged: 0 n02088238 basset" in lines


def test_any_two_synsets_make_a_task(data, capsys):
    options = ["--wordnet", str(data)]
    assert main(["--labels", "bird.n.01,dog.n.01", *options]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "0 n01514668 cock"
    assert out[-1] == "1 under bird.n.01, 3 under dog.n.01"


def test_any_classes_make_a_task_without_wordnet(capsys):
    assert main(["--labels", "n01443537,n02012849,n03126707"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:3] == ["0 n01443537 goldfish", "1 n02012849 crane", "2 n03126707 crane"]
    whole = classes(["imagenet"])
    assert list(whole.labels.values()) == list(range(1000))
    assert len(set(whole.class_names)) == 1000
    assert (whole.class_names[1], whole.class_names[134]) == ("goldfish", "n02012849")
    with pytest.raises(ValueError, match="2 labels or more, got n01443537"):
        classes(["n01443537"])


@pytest.mark.parametrize(
    "options, message",
    [
        (["--labels", "hunting_dog.n.01,dog.n.01"], "share 2 classes, the first is n02087394"),
        (["--labels", "unicorn.n.01,bird.n.01"], "has no synset 'unicorn.n.01'"),
        (["--labels", "bird.n.02,dog.n.01"], "has no synset 'bird.n.02'"),
        (["--labels", "bird,dog.n.01"], "a synset is written like hunting_dog.n.01, got 'bird'"),
        (["--derive", "--labels", "dog.n.01"], "--derive compares the packaged lists"),
    ],
)
def test_bad_tasks_are_one_line(options, message, data, capsys):
    options = [*options, "--wordnet", str(data)]
    assert main(options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("dogbird-classes: ")
    assert error.count("\n") == 1


def test_a_missing_or_incomplete_corpus_is_one_line_with_the_download_command(data, capsys):
    (data / "corpora" / "wordnet" / "index.noun").unlink()
    for directory, reason in ((data / "corpora", "is missing"), (data, "index.noun")):
        assert main(["--derive", "--wordnet", str(directory)]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert "python -m nltk.downloader wordnet" in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    "offset, byte, message",
    [(1_440_764, b"9", "expected WordNet 3.0"), (1_440_778, b"z", "corrupt")],
)
def test_another_wordnet_or_a_corrupt_one_is_one_line(offset, byte, message, data, capsys):
    with (data / "corpora" / "wordnet" / "data.noun").open("r+b") as stream:
        stream.seek(offset)
        stream.write(byte)
    assert main(["--derive", "--wordnet", str(data)]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_zip_of_wordnet_is_one_line(tmp_path, capsys):
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "wordnet.zip").write_bytes(b"PK\3\4 no zip")
    assert main(["--derive", "--wordnet", str(tmp_path)]) == 2
    assert "WordNet is corrupt (File is not a zip file)" in capsys.readouterr().err
