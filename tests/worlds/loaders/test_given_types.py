"""What a user may hand to the library: numpy's numbers are taken, what cannot be is refused."""

import inspect
import json
from tokenize import TokenError

import numpy as np
import pytest
import torch

from tests.worlds.small_stores import write_shards
from worlds import (
    ArrayStore,
    BootstrapLoader,
    FixedReuseLoader,
    IdealLoader,
    LabelNoise,
    RealLoader,
    SequentialLoader,
    open_store,
    verify_pack,
    write_pack,
)
from worlds.loaders.base import Loader

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 10, 100)
STORE = ArrayStore(IMAGES, LABELS)
POOL = STORE.train


def test_a_state_with_numpys_numbers_survives_json():
    given = {"seed": np.int64(3), "trial": np.uint8(1)}
    loader = RealLoader(POOL, np.int64(60), np.int32(16), np.int64(9), **given)
    assert json.loads(json.dumps(loader.state_dict())) == loader.state_dict()
    loader = FixedReuseLoader(POOL, None, 16, reuse=np.int64(2))
    assert json.loads(json.dumps(loader.state_dict())) == loader.state_dict()


def test_the_state_of_a_noisy_split_survives_json():
    rate, pairs = np.float32(0.5), {np.int64(3): np.int64(5)}
    noise = LabelNoise("pairs", rate, seed=np.int64(1), trial=np.int64(2), pairs=pairs)
    state = RealLoader(POOL.with_label_noise(noise), 60, 16, 9).state_dict()
    assert json.loads(json.dumps(state)) == state
    plain = LabelNoise("pairs", 0.5, seed=1, trial=2, pairs={3: 5})
    RealLoader(POOL.with_label_noise(plain), 60, 16, 9).load_state_dict(state)


def test_tensors_and_lists_make_a_store():
    ours = ArrayStore(torch.from_numpy(IMAGES), torch.from_numpy(LABELS)).train
    assert ours.fingerprint == POOL.fingerprint
    assert np.array_equal(ours.gather([3, 99]), IMAGES[[3, 99]])
    assert ArrayStore(IMAGES, LABELS.tolist()).train.fingerprint == POOL.fingerprint
    shares = np.full((100, 10), 0.1).tolist()
    assert ArrayStore(IMAGES, LABELS, probabilities=shares).train.probabilities.shape == (100, 10)


def test_packs_are_written_and_verified_by_the_name_of_a_folder(tmp_path):
    write_pack((POOL,), str(tmp_path / "a pack of ünïcode"))
    verify_pack(str(tmp_path / "a pack of ünïcode"))
    (tmp_path / "a pack of ünïcode" / "labels.npy").unlink()
    with pytest.raises(ValueError, match=r"labels.npy has 0 bytes, .* make it again"):
        verify_pack(tmp_path / "a pack of ünïcode")


def test_a_pack_with_a_damaged_header_is_refused(tmp_path):
    write_pack([POOL], tmp_path)
    data = bytearray((tmp_path / "images.npy").read_bytes())
    data[10:14] = bytes(4)
    (tmp_path / "images.npy").write_bytes(data)
    assert not issubclass(TokenError, ValueError)  # what numpy raises there
    with pytest.raises(ValueError, match=r"images.npy is corrupt, or not an array: the header"):
        open_store(tmp_path)


def lose(pattern):
    def lost(folder):
        write_shards(folder, IMAGES, LABELS)
        next(iter(sorted(folder.glob(pattern)))).unlink()
        return open_store(folder)

    return lost


def empty_record(folder):
    write_shards(folder, IMAGES, LABELS)
    (folder / "meta" / "train-00000.json").write_text("{}")
    return open_store(folder)


def damage_image(folder):
    split = write_shards(folder, IMAGES, LABELS)
    tar = folder / "data" / "train-00001-of-00004.tar"
    data = bytearray(tar.read_bytes())
    data[512:600] = bytes(88)
    tar.write_bytes(data)
    return split.gather([24, 25])


def first(transform):
    return next(iter(RealLoader(POOL, 60, 16, 9, transform=transform)))


BAD = [
    (lambda f: RealLoader(STORE, 60, 16, 9), "a split, such as .*, got ArrayStore"),
    (lambda f: IdealLoader("pack", 16), "a split, such as .*, got str"),
    (lambda f: BootstrapLoader(IMAGES, 9, 3, 3), "a split, such as .*, got ndarray"),
    (lambda f: SequentialLoader(None, 16), "a split, such as .*, got NoneType"),
    (lambda f: RealLoader(POOL, "60", 16, 9), "n must be an integer, got '60'"),
    (lambda f: RealLoader(POOL, None, 16, 9), "n must be an integer, got None"),
    (lambda f: RealLoader(POOL, 60, 16, 9, seed=1.5), "seed must be an integer, got 1.5"),
    (lambda f: RealLoader(POOL, 60, 16, 9, seed=None), "seed must be an integer, got None"),
    (lambda f: RealLoader(POOL, 60, 16, 9, trial=1.5), "trial must be an integer, got 1.5"),
    (lambda f: RealLoader(POOL, 60, 16, 9, threads=1.5), "threads must be an integer, got 1.5"),
    (lambda f: RealLoader(POOL, 60, 16, 9, rank=0.0), "rank must be an integer, got 0.0"),
    (
        lambda f: RealLoader(POOL, 5, 4, 9, remainder="short", world_size=2),
        r"a batch of 1, too few for 2 ranks: take .carry. or .drop.",
    ),
    (lambda f: RealLoader(POOL, 60, 16, 9, device=None), 'device must be "cpu", "cuda"'),
    (lambda f: RealLoader(POOL, 60, 16, 9, transform="flip"), "a function of an image, got 'flip'"),
    (lambda f: first(lambda x: None), "must give tensors, all of one size, got NoneType"),
    (lambda f: first(lambda x: x[:, : x[0, 0, 0]]), r"one size, got \(3, .*\) and \(3, .*\)"),
    (lambda f: IdealLoader(POOL, 16, passes=0), "passes must be 1 or more, got 0"),
    (lambda f: IdealLoader(POOL, 16, passes=2.5), "passes must be an integer, got 2.5"),
    (lambda f: SequentialLoader(POOL, 16, n=9.0), "n must be an integer, got 9.0"),
    (lambda f: SequentialLoader(POOL, 16, indices=np.zeros((2, 2), int)), r"\(B,\), got \(2, 2\)"),
    (lambda f: RealLoader(POOL, 60, 16, 9).indices(-1), "step must be 0 or more, got -1"),
    (lambda f: POOL.gather(3), r"indices must be \(B,\), got \(\)"),
    (lambda f: POOL.with_label_noise("symmetric:0.2"), "such as LabelNoise"),
    (lambda f: LabelNoise("symmetric", "0.2"), "rate of label noise must be .*, got '0.2'"),
    (lambda f: LabelNoise("symmetric", 0.2, trial=-1), "trial must be in"),
    (lambda f: LabelNoise("pairs", 0.2, pairs={"cat": "dog"}), "an integer, got 'cat'"),
    (lambda f: ArrayStore(IMAGES, ["cat"] * 100), "labels must be integers .*, got <U3"),
    (lambda f: ArrayStore(IMAGES.tolist(), LABELS), "must be uint8, 0 to 255, got int64"),
    (lambda f: write_pack(STORE, f), r"such as \[store.train, store.test\], got Store"),
    (lambda f: write_pack([], f), "give one split or more"),
    (lambda f: open_store((IMAGES, LABELS)), "expected a path, got tuple; of arrays, ArrayStore"),
    (lambda f: open_store("s3://bucket/name"), "hf://datasets/OWNER/NAME, got s3://bucket/name"),
    (lose("meta/*.npz"), "train-00000.npz is missing: make the shard again"),
    (empty_record, "missing required field `tar`"),
    (damage_image, "train-00001-of-00004.tar: sample 25 cannot be decoded: make the shard again"),
]


def test_a_shard_that_is_gone_is_not_told_to_be_damaged(tmp_path):
    split = write_shards(tmp_path, IMAGES, LABELS)
    (tmp_path / "data" / "train-00002-of-00004.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00002-of-00004\.tar"):
        split.gather([0, 60])


@pytest.mark.parametrize("make, says", BAD, ids=[says for _, says in BAD])
def test_what_cannot_be_is_refused_in_one_line(make, says, tmp_path):
    with pytest.raises(ValueError, match=says) as caught:
        make(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "loader", [RealLoader, IdealLoader, FixedReuseLoader, BootstrapLoader, SequentialLoader]
)
def test_every_loader_shows_its_options_with_defaults(loader):
    shown = inspect.signature(loader).parameters
    options = list(inspect.signature(Loader).parameters.values())[3:]
    assert len(options) == 16
    for option in options:
        assert shown[option.name] == option
        assert f"\n    {option.name}: " in loader.__doc__


def test_reprs_are_one_short_line():
    assert repr(POOL) == "Split(train, 100 images of 32 x 32, 10 classes)"
    real = RealLoader(POOL, 60, 16, 9, rank=1, world_size=2)
    assert repr(real) == "RealLoader(train, n=60, batch_size=16, step 0 of 9, rank 1 of 2)"
    assert repr(SequentialLoader(POOL, 50)) == (
        "SequentialLoader(train, n=100, batch_size=50, step 0 of 2)"
    )
