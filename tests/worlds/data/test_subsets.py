"""Subsets by rule hold exactly what the rule says, in views that loaders take."""

import hashlib
import json
import pickle

import numpy as np
import pytest

from tests.worlds.small_stores import write_shards
from worlds import ArrayStore, LabelNoise, RealLoader, SequentialLoader, open_store, subset
from worlds.formats.layout import CIFAR10_CLASSES

RNG = np.random.default_rng(8)
IMAGES = RNG.integers(0, 256, (400, 32, 32, 3), np.uint8)
LABELS = RNG.permutation(np.arange(400) % 10)
STORE = ArrayStore(IMAGES, LABELS, IMAGES[:50], LABELS[:50], class_names=CIFAR10_CLASSES)
POOL = STORE.train


def counts(split):
    return np.bincount(split.labels, minlength=len(split.class_names)).tolist()


def holds_its_rows(view, labels=LABELS):
    assert np.array_equal(view.gather(np.arange(len(view))), IMAGES[view.indices])
    return np.array_equal(view.labels, labels[view.indices])


def test_classes_are_renumbered_in_the_order_given_by_name_or_number():
    view = subset(POOL, classes=["dog", 3])
    assert view.class_names == ("dog", "cat")
    assert set(LABELS[view.indices]) == {3, 5}
    assert len(view) == 80
    assert holds_its_rows(view, np.where(LABELS == 5, 0, 1))


def test_classes_may_keep_their_numbers():
    view = subset(POOL, classes=[7, 2], renumber=False)
    assert view.class_names == CIFAR10_CLASSES
    assert set(view.labels) == {2, 7}
    assert holds_its_rows(view)


def test_groups_of_classes_become_one_class():
    view = subset(POOL, classes=[["airplane", "ship"], ["cat", "dog", "horse"]])
    assert view.class_names == ("airplane+ship", "cat+dog+horse")
    assert counts(view) == [80, 120]


def test_ratios_take_as_many_as_the_pool_has_and_n_exactly_n():
    halves = [1 / (i + 1) for i in range(10)]
    assert counts(subset(POOL, ratios=halves)) == [40 // (i + 1) for i in range(10)]
    view = subset(POOL, ratios=halves, n=100)
    assert len(view) == 100
    exact = 100 * np.array(halves) / sum(halves)
    assert np.abs(counts(view) - exact).max() < 1
    assert counts(subset(POOL, classes=[1, 2], ratios=[1, 9])) == [4, 40]


def test_smaller_sets_lie_in_larger_ones_and_another_trial_draws_others():
    for rule in ({}, {"balanced": True}, {"ratios": np.arange(1, 11)}):
        small, large = (set(subset(POOL, n=n, **rule).indices) for n in (50, 150))
        assert small < large
        # 50 of 400 twice: all equal with a chance far below 1e-50
        assert small != set(subset(POOL, n=50, trial=1, **rule).indices)
    assert counts(subset(POOL, balanced=True, n=50)) == [5] * 10


def test_a_subset_of_n_is_the_real_worlds_own():
    own = RealLoader(POOL, n=64, batch_size=8, steps=1, seed=3, trial=2).sampler.samples
    assert set(own) == set(subset(POOL, n=64, seed=3, trial=2).indices)


def test_shards_are_disjoint_and_each_has_its_share_of_every_class():
    shards = [subset(POOL, n=300, shard=(k, 7)) for k in range(7)]
    together = np.concatenate([s.indices for s in shards])
    assert np.array_equal(np.sort(together), subset(POOL, n=300).indices)
    spread = np.array([counts(s) for s in shards])
    assert np.ptp(spread, axis=0).max() <= 1


@pytest.mark.parametrize("name", ["idx.npy", "idx.txt"])
def test_a_file_of_indices_is_a_split_in_the_files_order(tmp_path, name):
    chosen = RNG.permutation(400)[:60]
    path = tmp_path / name
    np.save(path, chosen) if path.suffix == ".npy" else np.savetxt(path, chosen, "%d")
    view = subset(POOL, indices=path)
    assert np.array_equal(view.indices, chosen)
    assert holds_its_rows(view)
    assert view.manifest["rule"] == {"indices": str(path)}


def test_tars_and_subsets_of_subsets_are_read_through_views(tmp_path):
    pool = write_shards(tmp_path, IMAGES, LABELS)
    inner = subset(subset(pool, classes=[4, 5, 6]), balanced=True, n=30)
    direct = subset(subset(POOL, classes=[4, 5, 6]), balanced=True, n=30)
    assert np.array_equal(inner.gather(range(30)), direct.gather(range(30)))
    assert np.array_equal(inner.labels, direct.labels)
    again = pickle.loads(pickle.dumps(inner))
    assert np.array_equal(again.gather([3, 29]), inner.gather([3, 29]))


def test_loaders_hand_out_the_views_samples():
    view = subset(POOL, classes=["cat", "dog"], n=33)
    (x, y), *_ = SequentialLoader(view, 33, normalize=None)
    assert np.array_equal(x.permute(0, 2, 3, 1).numpy(), IMAGES[view.indices])
    assert y.tolist() == view.labels.tolist()
    noisy = view.with_label_noise(LabelNoise("symmetric", 1.0))
    assert (noisy.labels != view.labels).all()


def test_a_manifest_names_the_rule_and_the_indices(tmp_path):
    view = subset(POOL, classes=["cat", ["dog", "frog"]], n=20, seed=5)
    view.write_manifest(tmp_path / "m.json")
    manifest = json.loads((tmp_path / "m.json").read_text())
    assert manifest["rule"] == {"classes": ["cat", ["dog", "frog"]], "n": 20, "seed": 5}
    assert manifest["pool"] == POOL.fingerprint
    digest = hashlib.sha256(view.indices.astype("<i8").tobytes()).hexdigest()
    assert manifest["indices_sha256"] == digest
    assert list(manifest["classes"].values()) == counts(view)
    assert view.fingerprint != subset(POOL, classes=["cat", "dog"], n=20).fingerprint


def test_a_store_keeps_the_classes_in_every_split_and_opens_from_its_manifest(tmp_path):
    np.savez(tmp_path / "part0.npz", X=IMAGES[:300], Y=LABELS[:300])
    np.savez(tmp_path / "part5.npz", X=IMAGES[300:], Y=LABELS[300:])
    store = open_store(tmp_path).subset(classes=["cat", "dog"]).subset(n=40)
    assert store.test.class_names == store.class_names == ("cat", "dog")
    assert len(store.test) == np.isin(LABELS[300:], (3, 5)).sum()
    store.write_manifest(tmp_path / "pets.json")
    again = open_store(tmp_path / "pets.json")
    assert again.train.fingerprint == store.train.fingerprint
    assert again.test.fingerprint == store.test.fingerprint
    np.savez(tmp_path / "part0.npz", X=IMAGES[:300], Y=LABELS[:300][::-1])
    with pytest.raises(ValueError, match="not what it was"):
        open_store(tmp_path / "pets.json")


@pytest.mark.parametrize(
    "rule",
    [
        {"indices": [1, 2, 3, 4]},
        {"indices": ["a", None, None]},
        {"indices": "gone.npy"},
        {"test": {"a": 1}},
        {"test": True},
        {"n": []},
        {"shard": [1]},
        {"unknown": 1},
        {"classes": {"cat": 1}},
    ],
)
def test_a_damaged_manifest_is_one_line(rule, tmp_path):
    np.savez(tmp_path / "train.npz", X=IMAGES, Y=LABELS)
    store = open_store(tmp_path / "train.npz").subset(n=10)
    store.write_manifest(tmp_path / "m.json")
    manifest = json.loads((tmp_path / "m.json").read_text())
    (tmp_path / "m.json").write_text(json.dumps(manifest | {"rules": [rule]}))
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        open_store(tmp_path / "m.json")


def test_a_slice_of_train_becomes_the_test_split_and_never_shares_samples(tmp_path):
    store = STORE.subset(indices=slice(0, 300), test=slice(-100, None))
    assert (len(store.train), len(store.test), store.test.name) == (300, 100, "test")
    assert np.array_equal(store.test.labels, LABELS[300:])
    with pytest.raises(ValueError, match="shares 1 samples"):
        STORE.subset(indices=slice(0, 301), test=slice(300, None))


def test_a_test_split_of_n_is_drawn_from_everywhere_and_opens_again(tmp_path):
    order = np.argsort(LABELS, kind="stable")  # a pool sorted by class
    np.savez(tmp_path / "train.npz", X=IMAGES[order], Y=LABELS[order])
    store = open_store(tmp_path / "train.npz").subset(test=100, balanced=True, n=200)
    assert (len(store.train), len(store.test)) == (200, 100)
    assert min(counts(store.test)) > 0  # none of a class: odds below 1e-4
    store.write_manifest(tmp_path / "held.json")
    again = open_store(tmp_path / "held.json")
    assert np.array_equal(again.test.indices, store.test.indices)


def test_class_files_open_as_a_store(tmp_path):
    for label in range(10):
        np.save(tmp_path / f"class{label}.npy", IMAGES[label == LABELS])
    view = subset(open_store(tmp_path).train, classes=["dog"])
    assert np.array_equal(view.gather(range(40)), IMAGES[LABELS == 5])


@pytest.mark.parametrize(
    "rule, message",
    [
        ({"classes": ["unicorn"]}, "unicorn"),
        ({"classes": [10]}, "10"),
        ({"classes": []}, "classes"),
        ({"classes": ["cat", 3]}, "twice"),
        ({"classes": [[1, 2]], "renumber": False}, "renumber"),
        ({"n": 401}, "401"),
        ({"n": 2.5}, "n: expected"),
        ({"ratios": [1, 2]}, "10 numbers"),
        ({"ratios": [0] + [1] * 9}, "above 0"),
        ({"ratios": [np.nan] + [1] * 9}, "above 0"),
        ({"ratios": [np.inf] + [1] * 9}, "above 0"),
        ({"ratios": [1] * 10, "n": 9}, "0"),
        ({"ratios": [99] + [1] * 9, "n": 200}, "airplane"),
        ({"shard": (3, 3)}, r"\(3, 3\)"),
        ({"indices": [1, 1]}, "twice"),
        ({"indices": [400]}, "400"),
        ({"indices": "nowhere.npy"}, "nowhere"),
        ({"indices": slice(9, 9)}, "no sample"),
        ({"seed": -1, "n": 3}, "seed"),
        ({"trial": 1 << 32, "n": 3}, "trial"),
    ],
)
def test_what_a_pool_cannot_give_is_refused_by_name(rule, message):
    with pytest.raises(ValueError, match=message):
        subset(POOL, **rule)


def test_a_store_or_noisy_labels_are_refused():
    with pytest.raises(ValueError, match="ArrayStore"):
        subset(STORE, n=3)
    with pytest.raises(ValueError, match="noise"):
        subset(POOL.with_label_noise(LabelNoise("uniform", 0.5)), n=3)


def test_targets_can_be_cut_but_have_no_classes():
    pool = ArrayStore(RNG.normal(size=(30, 4)), RNG.normal(size=30)).train
    view = subset(pool, n=12, shard=(0, 2))
    assert view.labels.tolist() == pool.labels[view.indices].tolist()
    assert len(view) == 6
    with pytest.raises(ValueError, match="classes"):
        subset(pool, classes=[0])
