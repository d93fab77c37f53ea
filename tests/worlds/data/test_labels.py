import numpy as np
import pytest

from worlds import ArrayStore, LabelNoise
from worlds.data.labels import noisy_labels

CLEAN = np.arange(100_000) % 10
FROZEN = [0, 0, 0, 6, 6, 7, 5, 0, 8, 0, 0, 0]


def off(share, expected):
    """Whether a share of 100,000 is further off than chance has it once in 1,000."""
    return abs(share - expected) > 3.3 * (expected * (1 - expected) / 1e5) ** 0.5 + 1e-9


def test_symmetric_noise_takes_each_other_class_equally_often():
    noisy = noisy_labels(CLEAN, LabelNoise("symmetric", 0.3, seed=1), 10)
    shift = np.bincount((noisy - CLEAN) % 10, minlength=10) / len(CLEAN)
    assert not off(shift[0], 0.7)
    assert not any(off(share, 0.3 / 9) for share in shift[1:])


def test_uniform_noise_of_rate_one_ignores_the_true_class():
    noisy = noisy_labels(CLEAN, LabelNoise("uniform", 1, seed=2), 10)
    assert not any(off(np.mean((noisy - CLEAN) % 10 == k), 0.1) for k in range(10))


def test_pairs_change_the_named_classes_only():
    noisy = noisy_labels(CLEAN, LabelNoise("pairs", 0.3, pairs={3: 5}), 10)
    assert np.array_equal(noisy[CLEAN != 3], CLEAN[CLEAN != 3])
    cats = noisy[CLEAN == 3]
    assert set(cats.tolist()) == {3, 5}
    assert abs(np.mean(cats == 5) - 0.3) < 3.3 * (0.21 / 1e4) ** 0.5


@pytest.mark.parametrize("kind", ["symmetric", "uniform"])
def test_a_sample_keeps_its_label_whatever_comes_after_it(kind):
    noise = LabelNoise(kind, 0.5, seed=4, trial=1)
    whole = noisy_labels(np.tile(CLEAN, 4), noise, 10)
    assert np.array_equal(noisy_labels(CLEAN[:777], noise, 10), whole[:777])
    assert not np.array_equal(
        noisy_labels(CLEAN, LabelNoise(kind, 0.5, seed=4), 10), whole[:100_000]
    )


def test_noise_is_frozen():
    # These literals may not change: a saved run would go on with other labels than it began with.
    noisy = noisy_labels(np.zeros(12, dtype=np.int64), LabelNoise("symmetric", 0.5), 10)
    assert noisy.tolist() == FROZEN


def test_rates_zero_and_one_are_exact():
    assert np.array_equal(noisy_labels(CLEAN, LabelNoise("symmetric", 0), 10), CLEAN)
    assert (noisy_labels(CLEAN, LabelNoise("symmetric", 1), 10) != CLEAN).all()


def test_clean_labels_stay_reachable():
    pool = ArrayStore(np.zeros((50, 8, 8, 3), dtype=np.uint8), np.arange(50) % 5).train
    noisy = pool.with_label_noise(LabelNoise("symmetric", 0.9))
    assert np.array_equal(noisy.clean_labels, pool.labels)
    assert not np.array_equal(noisy.labels, pool.labels)
    again = noisy.with_label_noise(LabelNoise("symmetric", 0))
    assert np.array_equal(again.labels, pool.labels)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: LabelNoise("asymmetric", 0.1), "got 'asymmetric'"),
        (lambda: LabelNoise("symmetric", 1.1), "between 0 and 1, got 1.1"),
        (lambda: LabelNoise("pairs", 0.1), "pairs="),
        (lambda: LabelNoise("uniform", 0.1, pairs={1: 2}), "pairs="),
        (lambda: noisy_labels(CLEAN, LabelNoise("pairs", 1, pairs={3: 10}), 10), r"\[10\]"),
    ],
)
def test_bad_noise_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
