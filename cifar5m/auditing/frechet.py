"""Frechet distance between two sets of feature vectors (Heusel et al. 2017): the distance of the
Gaussians with their means and covariances. In Inception features it is called FID; here it is used
in the labeler's own features, and compares only with distances in the same features.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Mean (F,) and covariance (F, F) of a set of feature vectors, float64."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int


def moments(batches: Iterable[np.ndarray]) -> Moments:
    """Return the moments of all rows of float (n, F) batches, summed in float64."""
    # Sums first, so that no batch is held longer than needed.
    count, total, products = 0, None, None
    for batch in batches:
        rows = np.asarray(batch, dtype=np.float64)  # (n, F)
        count += len(rows)
        total = rows.sum(0) if total is None else total + rows.sum(0)
        products = rows.T @ rows if products is None else products + rows.T @ rows
    if count < 2 or total is None or products is None:
        raise ValueError(f"moments need at least 2 feature vectors, got {count}")
    mean = total / count
    covariance = (products - count * np.outer(mean, mean)) / (count - 1)
    return Moments(mean, covariance, count)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return |mean difference|^2 + tr(A + B - 2 (A B)^(1/2))."""
    # A^(1/2) B A^(1/2) is symmetric and has the eigenvalues of A B.
    values, vectors = np.linalg.eigh(a.covariance)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.linalg.eigvalsh(root @ b.covariance @ root)
    between = np.sqrt(cross.clip(0)).sum()
    difference = a.mean - b.mean
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return float(difference @ difference + traces - 2 * between)
