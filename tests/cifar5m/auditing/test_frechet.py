import numpy as np
import pytest

from cifar5m.auditing.frechet import Moments, frechet_distance, moments


def test_distance_of_diagonal_gaussians_is_the_closed_form():
    a = Moments(np.array([0.0, 1.0]), np.diag([4.0, 9.0]), 10)
    b = Moments(np.array([3.0, 1.0]), np.diag([1.0, 16.0]), 10)
    assert frechet_distance(a, b) == pytest.approx(9 + (2 - 1) ** 2 + (3 - 4) ** 2)


def test_moments_of_batches_are_the_moments_of_all_rows():
    rows = np.random.default_rng(0).normal(3, 2, (1000, 5)).astype(np.float32)
    found = moments([rows[:1], rows[1:400], rows[400:]])
    np.testing.assert_allclose(found.mean, rows.mean(0, dtype=float), rtol=1e-9)
    np.testing.assert_allclose(found.covariance, np.cov(rows.T.astype(float)), rtol=1e-9)
    assert found.count == 1000


def test_a_set_has_distance_zero_to_itself_and_positive_to_a_moved_one():
    rows = np.random.default_rng(1).normal(size=(500, 8))
    here, there = moments([rows]), moments([rows + 0.5])
    assert frechet_distance(here, here) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(here, there) == pytest.approx(8 * 0.25)


def test_too_few_vectors_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        moments([np.zeros((1, 3))])
