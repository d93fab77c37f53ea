"""Neighbors are those that plain loops over differences find."""

import numpy as np
import pytest
import torch

from cifar5m.auditing import neighbors
from cifar5m.auditing.neighbors import feature_reference, pixel_reference

CPU = torch.device("cpu")


def pictures(count, seed, shape=(8, 8, 3)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def by_loops(queries, rows, k):
    """Index (N, k) and squared distance (N, k), of equal distances the lower index first."""
    squares = np.stack([((rows - query) ** 2).sum(1) for query in queries])
    index = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(squares, index, 1)


@pytest.mark.parametrize(
    "rows, queries, k, tile",
    [
        (1, 1, 1, 16_384),
        (7, 3, 50, 16_384),  # fewer rows than neighbors
        (60, 33, 5, 16_384),
        (100, 40, 50, 16),  # a last tile of 4 rows, each shorter than k
        (129, 1, 3, 64),
    ],
)
@pytest.mark.parametrize("exact", [True, False])
def test_pixels_have_the_neighbors_of_plain_loops(monkeypatch, rows, queries, k, tile, exact):
    monkeypatch.setattr(neighbors, "_TILE", tile)
    monkeypatch.setattr(neighbors, "_int8_is_faster", lambda device, width: exact)
    images, asked = pictures(rows, 0), pictures(queries, 1)
    reference = pixel_reference(images, CPU, memory=1)  # batches of 32 queries
    assert reference.batch == 32
    found = reference.nearest(asked, k)
    flat = [a.reshape(len(a), -1).astype(np.int64) for a in (asked, images)]
    index, squares = by_loops(*flat, k)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.distance, np.sqrt(squares / 192), rtol=1e-6)


def test_features_have_the_neighbors_of_plain_loops(monkeypatch):
    monkeypatch.setattr(neighbors, "_TILE", 32)
    rng = np.random.default_rng(0)
    rows, asked = rng.normal(size=(75, 16)), rng.normal(size=(9, 16))
    found = feature_reference(rows, CPU).nearest(asked, 6)
    units = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (asked, rows)]
    index, squares = by_loops(*units, 6)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.distance, np.sqrt(squares), rtol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_the_extremes_and_a_copy_are_exact_at_real_size(monkeypatch, exact):
    monkeypatch.setattr(neighbors, "_int8_is_faster", lambda device, width: exact)
    rows = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (0, 254, 255)])
    found = pixel_reference(rows, CPU).nearest(rows[[0, 2]], 3)
    np.testing.assert_array_equal(found.index, [[0, 1, 2], [2, 1, 0]])
    np.testing.assert_array_equal(found.distance, [[0, 254, 255], [0, 1, 255]])


def test_int8_and_float32_products_find_the_same_to_the_bit(monkeypatch):
    images, asked = pictures(3_000, 0, (32, 32, 3)), pictures(50, 1, (32, 32, 3))
    found = []
    for exact in (True, False):
        monkeypatch.setattr(neighbors, "_int8_is_faster", lambda device, width, exact=exact: exact)
        reference = pixel_reference(images, CPU)
        found.append(reference.nearest(asked, 50))
    np.testing.assert_array_equal(found[0].index, found[1].index)
    np.testing.assert_array_equal(found[0].distance, found[1].distance)


def test_one_grey_level_in_one_value_is_told_from_a_copy():
    rows = pictures(20, 2, (32, 32, 3))
    asked = rows[[4]].copy()
    asked[0, 5, 6, 1] ^= 1
    found = pixel_reference(rows, CPU).nearest(asked)
    assert found.index[0, 0] == 4
    assert found.distance[0, 0] == pytest.approx(3072**-0.5)


def test_the_ratio_is_the_nearest_to_the_mean_of_all():
    rows = np.zeros((3, 1, 1, 3), np.uint8)
    rows[:, 0, 0, 0] = 1, 2, 3
    asked = np.zeros((1, 1, 1, 3), np.uint8)
    assert pixel_reference(rows, CPU).nearest(asked).ratio == pytest.approx(1 / 2)
    copies = np.repeat(asked, 3, 0)
    assert pixel_reference(copies, CPU).nearest(asked).ratio == 0


def test_mapped_files_are_taken(tmp_path):
    np.save(tmp_path / "rows.npy", pictures(9, 3))
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert pixel_reference(rows, CPU).nearest(rows[2:3]).index[0, 0] == 2


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: pixel_reference(np.zeros((2, 4, 4, 3)), CPU), "must be uint8, got float64"),
        (lambda: pixel_reference(pictures(0, 0), CPU), "a reference needs rows"),
        (lambda: pixel_reference(pictures(2, 0), CPU).nearest(pictures(1, 0, (4, 4, 3))), "48"),
    ],
)
def test_what_cannot_be_compared_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.gpu
def test_a_gpu_finds_the_same():
    images, asked = pictures(1003, 4, (32, 32, 3)), pictures(70, 5, (32, 32, 3))
    here = pixel_reference(images, CPU).nearest(asked)
    there = pixel_reference(images, torch.device("cuda")).nearest(asked)
    np.testing.assert_array_equal(here.index, there.index)
    np.testing.assert_array_equal(here.distance, there.distance)
