"""The pool made on the fly: every sample is a function of the seed and its index alone."""

import hashlib
import pickle

import numpy as np
import pytest
import torch

from worlds import IdealLoader, LabelNoise, RealLoader, open_store
from worlds.data.teacher import POOL, teacher_splits
from worlds.training.build import Data
from worlds.training.config import TrainConfig
from worlds.training.train import train


@pytest.fixture(scope="module")
def store():
    return open_store("teacher:0")


def test_a_sample_alone_is_the_sample_in_a_batch(store):
    indices = np.array([4_999_999, 0, 3_141_592, 17, 0])
    batch, labels = store.train.gather(indices), store.train.labels[indices]
    again = open_store("teacher:0").train  # no label is known there
    for image, label, index in zip(batch, labels, indices.tolist(), strict=True):
        alone, own = again[index]
        assert torch.equal(alone.permute(1, 2, 0), torch.from_numpy(image))
        assert own == label


def test_a_seed_has_the_same_bytes_on_every_machine(store):
    digest = hashlib.sha256(store.train.gather(np.arange(64)).tobytes())
    digest.update(store.train.labels[np.arange(64)].tobytes())
    assert digest.hexdigest()[:16] == "33ffe6344598849a"
    other = open_store("teacher:1").train
    assert other.fingerprint != store.train.fingerprint
    assert (other.gather([0]) != store.train.gather([0])).mean() > 0.9


def test_five_million_samples_of_ten_classes_with_a_test_set_behind_them(store):
    assert (len(store.train), len(store.test)) == (POOL, 100_000)
    counts = np.bincount(store.test.labels[:2_000], minlength=10) / 2_000
    assert counts.min() > 0.04
    assert counts.max() < 0.2
    behind = teacher_splits(0, POOL + 1, 1)[0]
    assert np.array_equal(behind.gather([POOL]), store.test.gather([0]))
    assert behind.labels[[POOL]] == store.test.labels[[0]]


def test_noise_falls_with_frequency_and_colors_go_together(store):
    images = store.test.gather(np.arange(256)).astype(float)
    power = np.abs(np.fft.fft2(images.mean(axis=3) - 128)).mean(axis=0)
    assert power[0, 1] > 2 * power[0, 4] > 4 * power[0, 12]
    red, green = images[..., 0].ravel(), images[..., 1].ravel()
    assert np.corrcoef(red, green)[0, 1] > 0.5


def test_loaders_and_trainer_take_it(store, tmp_path):
    split = pickle.loads(pickle.dumps(store.train))
    real, ideal = RealLoader(split, 100, 20, 3), IdealLoader(split, 20, 3)
    assert all(len(np.unique(loader.sampler.indices(0))) == 20 for loader in (real, ideal))
    config = TrainConfig(
        "mlp_1x8", world="ideal", n=50, steps=3, batch_size=8, augment=None, test_eval=20
    )
    run = train(config, Data.of(store), tmp_path / "run")
    assert run.final["updates"] == 3
    assert run.description.data.pool == POOL


def test_gray_images_are_the_same_ones_in_the_shape_of_mnist(store):
    gray = open_store("teacher:0:gray")
    assert gray.train.image_shape == (28, 28, 1)
    shown, color = gray.test.gather([5])[0, ..., 0], store.test.gather([5])[0].astype(int)
    assert np.array_equal(shown, color[2:-2, 2:-2].sum(axis=2) // 3)
    assert np.array_equal(gray.test.labels[:9], store.test.labels[:9])
    assert gray.train.fingerprint != store.train.fingerprint


def test_it_takes_no_label_noise_and_no_other_seed(store):
    with pytest.raises(ValueError, match="takes no label noise"):
        store.train.with_label_noise(LabelNoise("symmetric", 0.2))
    for address in ("teacher:", "teacher:x", "teacher:-1", "teacher:0:blue"):
        with pytest.raises(ValueError, match=f"such as teacher:0, got {address}"):
            open_store(address)
