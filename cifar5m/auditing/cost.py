"""What an audit will cost on a device, from a few hundred images."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from cifar5m.auditing.neighbours import feature_reference, pixel_reference
from cifar5m.auditing.reference import Judge, see
from cifar5m.auditing.shards import FEATURE_IMAGES
from worlds.data.splits import Split

_QUERIES = 256
# Of an image: index and digest; index, distance and ratio in both splits, a space; probabilities.
_FACTS_BYTES, _SPACE_BYTES, _PROBABILITIES_BYTES = 8 + 16, 2 * 12, 2 * 10
_PHOTOGRAPH_BYTES = 4 * 10  # the probabilities of a photograph


@dataclass(frozen=True)
class Cost:
    """Seconds an image takes; those of labeler and features are 0 without a labeler."""

    pixel_seconds: float
    label_seconds: float
    feature_seconds: float
    pixel_operations: float
    feature_width: int  # numbers; 0 without a labeler

    @property
    def image_seconds(self) -> float:
        return self.pixel_seconds + self.label_seconds + self.feature_seconds

    @property
    def search_seconds(self) -> float:
        return self.pixel_seconds + self.feature_seconds

    def disk_bytes(self, images: int, photographs: int) -> int:
        """Return the bytes of the finished audit's arrays."""
        found = images * (_FACTS_BYTES + _SPACE_BYTES)
        if self.feature_width:
            found += images * (_SPACE_BYTES + _PROBABILITIES_BYTES)
            found += 4 * self.feature_width * (min(images, FEATURE_IMAGES) + photographs)
            found += photographs * _PHOTOGRAPH_BYTES
        return found


def measure_cost(photographs: dict[str, Split], judge: Judge | None, device: str) -> Cost:
    """Search 256 photographs among a part of CIFAR-10 and label one batch, on this device.

    The part is 16,384 photographs, a tile; the search takes time in proportion to it.
    """
    place = torch.device(device)
    train = photographs["train"]
    part = train.gather(np.arange(min(len(train), 16_384)))
    total = sum(map(len, photographs.values()))
    times = total / len(part) / _QUERIES
    queries = np.resize(part, (_QUERIES, *part.shape[1:]))
    reference = pixel_reference(part, place)
    pixel = times * _seconds(lambda: reference.nearest(queries))
    label, feature, width = 0.0, 0.0, 0
    if judge is not None:
        images = np.resize(part, (judge.labeler.batch, *part.shape[1:]))
        label = _seconds(lambda: see(judge, images)) / len(images)
        width = see(judge, images[:1]).features.shape[1]
        rows = np.random.default_rng(0).normal(size=(len(part), width)).astype(np.float32)
        features = feature_reference(rows, place)
        feature = times * _seconds(lambda: features.nearest(rows[:_QUERIES]))
    operations = 2.0 * total * float(np.prod(train.image_shape))
    return Cost(pixel, label, feature, operations, width)


def _seconds(call: Callable[[], object]) -> float:
    """Wall time of the second of two calls; their results are on the host, so they are done."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
