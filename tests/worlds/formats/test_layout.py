"""The folder layout as a table of cases."""

import json

import pytest

from worlds.formats.layout import CIFAR10_CLASSES, FORMAT, PLAN, Layout
from worlds.formats.plan import load_plan


# splits, shard size -> (name, start, stop) of every shard
@pytest.mark.parametrize(
    "splits, shard_size, expected",
    [
        # whole shards
        ({"train": 6}, 3, [("train-00000", 0, 3), ("train-00001", 3, 6)]),
        # the last one is shorter
        ({"train": 7}, 3, [("train-00000", 0, 3), ("train-00001", 3, 6), ("train-00002", 6, 7)]),
        # one shard, shorter than the shard size
        ({"train": 2}, 10_000, [("train-00000", 0, 2)]),
        # one image
        ({"train": 1}, 1, [("train-00000", 0, 1)]),
        # each split is cut on its own; indices run on
        (
            {"train": 5, "test": 4},
            3,
            [
                ("train-00000", 0, 3),
                ("train-00001", 3, 5),
                ("test-00000", 5, 8),
                ("test-00001", 8, 9),
            ],
        ),
    ],
)
def test_shards_cover_every_index_once(splits, shard_size, expected):
    layout = Layout(tuple(splits.items()), shard_size)
    found = layout.shards()
    assert [(shard.name, shard.start, shard.stop) for shard in found] == expected
    covered = [index for shard in found for index in range(shard.start, shard.stop)]
    assert covered == list(range(len(layout)))
    assert [len(shard) for shard in found] == [stop - start for _, start, stop in expected]


def test_the_default_set_is_600_shards_and_test_starts_at_five_million():
    layout = Layout((("train", 5_000_000), ("test", 1_000_000)), 10_000)
    assert len(layout.shards()) == 600
    first = layout.shards("test")[0]
    assert (first.start, first.number, first.count) == (5_000_000, 0, 100)
    assert str(first.tar) == "data/test-00000-of-00100.tar"
    assert str(first.arrays) == "meta/test-00000.npz"
    assert str(first.record) == "meta/test-00000.json"


def test_the_shards_of_a_split_are_those_of_the_whole():
    layout = Layout((("train", 5), ("test", 4), ("extra", 1)), 2)
    parts = [shard for split in ("train", "test", "extra") for shard in layout.shards(split)]
    assert parts == layout.shards()
    assert {shard.count for shard in layout.shards("train")} == {3}


@pytest.mark.parametrize(
    "splits, shard_size, message",
    [
        ({"train": 5}, 0, "shard size must be at least 1, got 0"),
        ({"train": 5}, -3, "shard size must be at least 1, got -3"),
        ({"train": 0}, 1, "split 'train' must hold at least 1 image, got 0"),
        ({"train": -1}, 1, "split 'train' must hold at least 1 image, got -1"),
        ({"a/b": 5}, 1, "a split name must be letters, digits and '_', got 'a/b'"),
        ({"": 5}, 1, "a split name must be letters, digits and '_', got ''"),
    ],
)
def test_a_bad_layout_is_refused(splits, shard_size, message):
    with pytest.raises(ValueError, match=message):
        Layout(tuple(splits.items()), shard_size)


def test_a_split_named_twice_is_refused():
    with pytest.raises(ValueError, match="split names must differ"):
        Layout((("train", 5), ("train", 6)), 2)


def test_an_unknown_split_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no split 'val'; there are \['train', 'test'\]"):
        Layout((("train", 5), ("test", 4)), 2).shards("val")


def test_the_plan_keeps_the_order_of_its_splits(tmp_path):
    plan = {"format": FORMAT, "splits": {"train": 5, "test": 4}, "shard_size": 2}
    plan |= {"class_names": CIFAR10_CLASSES, "fingerprint": "0"}
    (tmp_path / PLAN).write_text(json.dumps(plan))
    assert load_plan(tmp_path).layout == Layout((("train", 5), ("test", 4)), 2)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "is not a dataset directory: it holds no plan.json"),
        ("{", "is not valid JSON"),
        ("[1]", "plan.json: expected `object`, got `array`"),
        ('{"format": 99}', "plan.json: format: invalid enum value 99"),
    ],
)
def test_a_folder_without_a_valid_plan_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / PLAN).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_plan(tmp_path)


def test_the_class_order_is_that_of_cifar_10():
    assert CIFAR10_CLASSES.index("airplane") == 0
    assert CIFAR10_CLASSES.index("cat") == 3
    assert CIFAR10_CLASSES.index("dog") == 5
    assert len(CIFAR10_CLASSES) == 10
