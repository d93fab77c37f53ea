"""The quality of a labeler: accuracy and calibration on labeled images, kept beside its weights.

FOLDER/evaluation.json    what `evaluation` returns, the data's name and the weights' sha256
"""

from typing import Any, Final

import numpy as np

BINS: Final = 15  # of equal width, as Guo et al. 2017 (arXiv:1706.04599), section 2


def evaluation(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the numbers of evaluation.json: `probabilities` float (N, C), `labels` int (N,)."""
    # Beside the calibration: the log loss, and the accuracy of each class.
    found = calibration(probabilities, labels)
    right = probabilities.argmax(axis=1) == labels
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    hits = np.bincount(labels[right], minlength=probabilities.shape[1])
    return {
        **{name: found[name] for name in ("images", "accuracy", "mean_confidence")},
        "calibration_error": found["expected_calibration_error"],
        "log_loss": float(-np.log(np.maximum(own, 1e-12)).mean()),
        "class_accuracy": [
            round(float(h / c), 6) if c else None for h, c in zip(hits, counts, strict=True)
        ],
    }


def calibration(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return accuracy, mean confidence and expected calibration error of (N, C) probabilities.

    The error is the mean over images of |accuracy - mean confidence| of the image's bin.
    """
    confidence = probabilities.max(1).astype(np.float64)  # (N,)
    right = probabilities.argmax(1) == labels
    # Mean confidence and accuracy of each bin.
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    sums = [np.bincount(place, values, BINS) for values in (confidence, right)]
    mean, accuracy = (total / np.maximum(counts, 1) for total in sums)
    return {
        "images": len(labels),
        "accuracy": float(right.mean()),
        "mean_confidence": float(confidence.mean()),
        "expected_calibration_error": float((counts * abs(mean - accuracy)).sum() / len(labels)),
        "bins": [
            {"count": int(count), "confidence": float(c), "accuracy": float(a)}
            for count, c, a in zip(counts, mean, accuracy, strict=True)
            if count
        ],
    }
