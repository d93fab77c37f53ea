"""Images for the examples, made on the spot: ten classes, each a pattern of soft blobs, which every
image shows at another place, at another strength and under noise.
"""

import numpy as np


def make_images(count: int, seed: int = 0, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Return gray images uint8 (count, size, size) and labels int64 (count,)."""
    patterns = np.random.default_rng(0).normal(size=(10, 5, 5)).repeat(2, 1).repeat(2, 2)
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, count)
    images = random.normal(size=(count, size, size))
    places = random.integers(0, size - 9, (count, 2))
    strengths = random.uniform(0.6, 1.6, count)
    for image, label, (y, x), strength in zip(images, labels, places, strengths, strict=True):
        image[y : y + 10, x : x + 10] += strength * patterns[label]
    return (128 + 40 * images).clip(0, 255).astype(np.uint8), labels
