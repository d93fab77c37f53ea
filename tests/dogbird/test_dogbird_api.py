"""The Python API of dogbird: the same code as its commands."""

import pytest

import dogbird
from tests.dogbird.small_imagenet import write_folder


def test_public_names_are_sorted_importable_and_documented():
    assert list(dogbird.__all__) == sorted(dogbird.__all__)
    for name in dogbird.__all__:
        found = getattr(dogbird, name)
        assert found.__name__ == name
        assert {"Args:", "Returns:", "Raises:"} <= set(found.__doc__.split())
    assert not hasattr(dogbird, "catfish")


def test_the_classes_of_dogbird_come_from_packaged_lists():
    task = dogbird.classes()
    assert [len(classes) for classes in task.classes] == [63, 59]
    assert repr(task) == "Task(63 under hunting_dog.n.01, 59 under bird.n.01)"


def test_a_build_reports_progress_and_is_resumed_by_the_same_call(tmp_path, capfd):
    source, seen = write_folder(tmp_path / "imagenet"), []
    given = {"any_counts": True, "shard_size": 50, "size": 40, "workers": 1}
    made = dogbird.build(source, tmp_path / "out", **given, on_progress=seen.append)
    assert {name: summary.images for name, summary in made.splits.items()} == {
        "train": 244,
        "val": 122,
    }
    assert made.broken == ()
    assert {"list", "convert", "write"} <= {progress.phase for progress in seen}
    assert seen[-1].done == seen[-1].total == 366
    assert dogbird.build(source, tmp_path / "out", **given) == made
    assert capfd.readouterr() == ("", "")


def test_errors_speak_of_parameters(tmp_path):
    with pytest.raises(ValueError, match=r"^shard_size must be at least 1, got 0"):
        dogbird.build(tmp_path, tmp_path / "out", shard_size=0)
    with pytest.raises(ValueError, match=r"^splits must be train, val or train,val, got 'test'"):
        dogbird.build(tmp_path, tmp_path / "out", splits=("test",))
