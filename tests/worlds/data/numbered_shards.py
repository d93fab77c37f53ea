"""A pool of images that are their numbers, made as slowly as a test needs."""

import time

import numpy as np

from worlds.data.endless import Maker, ShardCache, endless_splits


class Numbered(Maker):
    """Images whose pixels and label are their index, each shard in `seconds`."""

    seconds = 0.0

    def load(self):
        return self.make

    def make(self, start, stop):
        if start == 1 << 40:
            raise ValueError("no such images")
        time.sleep(self.seconds)
        rows = np.arange(start, stop)
        return np.broadcast_to((rows % 251)[:, None, None, None], (len(rows), 2, 2, 3)), rows % 10


class SlowNumbered(Numbered):
    seconds = 0.1


def numbered(folder, n=100, most_bytes=10**6, kind=Numbered, shards=5, window=2):
    maker = kind(kind.__name__, tuple("0123456789"), (2, 2, 3), shards)
    return endless_splits(ShardCache(maker, folder, most_bytes, window), n, 10)
