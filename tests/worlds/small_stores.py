"""Small datasets in the forms that a store may have."""

from pathlib import Path

import numpy as np

from worlds import Split, open_store
from worlds.formats.layout import CIFAR10_CLASSES, Layout
from worlds.formats.shards import encode_png, write_shard
from worlds.runtime.files import write_json


def write_shards(folder: Path, images: np.ndarray, labels: np.ndarray, test: int = 0) -> Split:
    """A folder of shards of 25 whose last `test` images are the test split; its train split."""
    sizes = {"train": len(images) - test} | ({"test": test} if test else {})
    layout = Layout(tuple(sizes.items()), 25)
    plan = {"format": 1, "splits": sizes, "shard_size": 25, "class_names": CIFAR10_CLASSES}
    write_json(folder / "plan.json", plan | {"fingerprint": "a plan of the tests"})
    for shard in layout.shards():
        part = slice(shard.start, shard.stop)
        write_shard(
            folder,
            shard,
            map(encode_png, images[part]),
            labels[part],
            np.eye(10)[labels[part]],
            {"fingerprint": "a plan of the tests"},
        )
    return open_store(folder).train
