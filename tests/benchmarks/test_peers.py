"""The loaders that benchmarks/loaders.py measures beside this project's."""

import gc

import numpy as np
import pytest
import torch

from benchmarks.peers import PEERS
from worlds.bench.throughput import augment, random_split


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its tars open
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_does_the_same_work(peer, tmp_path):
    if not peer.installed:
        pytest.skip(f"{peer.package} is not installed")
    split = random_split(512)
    batches = peer.epochs(peer.prepare(split.gather(range(512)), split.labels, tmp_path), 128)
    seen = []
    for _ in range(4):
        images, labels = next(batches)
        assert images.shape == (128, 3, 32, 32)
        assert images.dtype == torch.float32
        assert -1 <= images.min() < -0.9
        assert 0.9 < images.max() <= 1
        seen.extend(labels.tolist())
    del batches
    gc.collect()
    assert np.bincount(seen).tolist() == np.bincount(split.labels).tolist()


def test_the_peers_augmentation_crops_and_flips():
    image = np.arange(32 * 32 * 3).reshape(1, 32, 32, 3) % 251 + 1
    images = np.repeat(image, 400, axis=0).astype(np.uint8)
    made = augment(images, np.random.default_rng(0))
    assert len(torch.unique(made, dim=0)) > 100  # of 81 crops, each flipped or not
