"""Data that is not RGB images: gray images, features, sequences, regression targets."""

import gzip
import struct

import numpy as np
import pytest
import torch

from worlds import ArrayStore, IdealLoader, RealLoader, open_store, verify_pack, write_pack
from worlds.loaders.augment import augment_batch, parse_augment

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (60, 28, 28), np.uint8)
RGB = RNG.integers(0, 256, (60, 32, 32, 3), np.uint8)
FEATURES = RNG.normal(size=(60, 7)).astype(np.float32)
TOKENS = RNG.integers(0, 256, (60, 16)).astype(np.int32)
CLASSES = np.arange(60) % 10


def batch_of(store, **options):
    loader = IdealLoader(store.train, batch_size=20, steps=1, seed=3, **options)
    x, y = next(iter(loader))
    return x, y, loader.indices(0).astype(np.int64)


@pytest.mark.parametrize("images", [GRAY, GRAY[..., None]], ids=["NHW", "NHW1"])
def test_gray_images_are_augmented_as_the_others(images):
    x, y, index = batch_of(ArrayStore(images, CLASSES), augment="crop+flip")
    assert x.shape == (20, 1, 28, 28)
    expected = augment_batch(
        torch.from_numpy(GRAY[index][..., None]), parse_augment("crop+flip"), 3, 0, torch.arange(20)
    )
    assert torch.equal(x, expected)
    assert np.array_equal(y, CLASSES[index])


def test_planes_first_are_taken_where_the_layout_says_so():
    store = ArrayStore(RGB.transpose(0, 3, 1, 2), CLASSES, layout="chw")
    assert torch.equal(batch_of(store)[0], batch_of(ArrayStore(RGB, CLASSES))[0])
    with pytest.raises(ValueError, match='give layout="chw"'):
        ArrayStore(RGB.transpose(0, 3, 1, 2), CLASSES)


def test_features_and_tokens_come_as_they_are():
    x, _, index = batch_of(ArrayStore(FEATURES, CLASSES))
    assert np.array_equal(x, FEATURES[index])
    assert batch_of(ArrayStore(FEATURES, CLASSES), dtype=torch.bfloat16)[0].dtype == torch.bfloat16
    x, _, index = batch_of(ArrayStore(TOKENS, CLASSES))
    assert x.dtype == torch.int32
    assert np.array_equal(x, TOKENS[index])


@pytest.mark.parametrize("targets", [FEATURES[:, 0], FEATURES[:, :2], TOKENS], ids=str)
def test_targets_may_be_floats_or_arrays(targets):
    store = ArrayStore(FEATURES, targets)
    _, y, index = batch_of(store)
    assert np.array_equal(y, targets[index])
    assert store.class_names == ()
    _, target = store.train[5]
    assert np.array_equal(target, targets[5])


@pytest.mark.parametrize(
    "options, says",
    [
        ({"augment": "flip"}, "augment is for uint8 images"),
        ({"normalize": "unit"}, "normalize is for uint8 images"),
    ],
)
def test_what_is_for_images_is_refused_for_features(options, says):
    with pytest.raises(ValueError, match=says):
        batch_of(ArrayStore(FEATURES, CLASSES), **options)


@pytest.mark.parametrize("samples", [GRAY, FEATURES, TOKENS], ids=["gray", "features", "tokens"])
def test_packs_keep_every_kind(samples, tmp_path):
    store = ArrayStore(samples, CLASSES, samples[:20], CLASSES[:20])
    write_pack([store.train, store.test], tmp_path / "pack")
    verify_pack(tmp_path / "pack")
    opened = open_store(tmp_path / "pack")
    for name in ("train", "test"):
        assert opened[name].images.dtype == store[name].images.dtype
        everything = np.arange(len(store[name]))
        assert np.array_equal(opened[name].gather(everything), store[name].gather(everything))


@pytest.mark.parametrize(
    "normalize",
    ["unit", "cifar10", "imagenet", (0.5, 0.25), ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))],
    ids=str,
)
def test_ranges_equal_torchvisions_normalize(normalize):
    import worlds.runtime.torchvision_ops  # noqa: F401, I001
    from torchvision.transforms import v2

    constants = {
        "unit": ((0.0,) * 3, (1.0,) * 3),
        "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (0.5, 0.25): ((0.5,) * 3, (0.25,) * 3),
    }
    mean, std = constants.get(normalize, normalize)
    x, _, index = batch_of(ArrayStore(RGB, CLASSES), normalize=normalize)
    images = torch.from_numpy(RGB[index]).permute(0, 3, 1, 2)
    expected = v2.Normalize(mean, std)(v2.ToDtype(torch.float32, scale=True)(images))
    ulp = float(torch.finfo(torch.float32).eps * expected.abs().max())
    assert (x - expected).abs().max() <= ulp


def test_raw_pixels_are_those_of_the_crop():
    store = ArrayStore(RGB, CLASSES)
    raw, _, _ = batch_of(store, normalize=None, augment="crop+flip")
    symmetric, _, _ = batch_of(store, augment="crop+flip")
    assert raw.dtype == torch.uint8
    assert torch.allclose((raw.float() * 2 - 255) / 255, symmetric, atol=1e-6)
    plain, _, index = batch_of(store, normalize=None)
    assert np.array_equal(plain.permute(0, 2, 3, 1), RGB[index])


@pytest.mark.parametrize("bad", ["cifar", (0.5,), (0.5, 0.0), ((0.1, 0.2), 1.0), 3])
def test_other_ranges_are_refused(bad):
    with pytest.raises(ValueError, match=r"normalize must be|above 0"):
        batch_of(ArrayStore(RGB, CLASSES), normalize=bad)


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_is_read_as_torchvision_leaves_it(zipped, tmp_path):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for stem, part in (("train", slice(0, 40)), ("t10k", slice(40, 60))):
        for name, array in (("images-idx3", GRAY[part]), ("labels-idx1", CLASSES[part])):
            header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(
                f">{array.ndim}I", *array.shape
            )
            data = header + array.astype(np.uint8).tobytes()
            path = folder / f"{stem}-{name}-ubyte{'.gz' * zipped}"
            path.write_bytes(gzip.compress(data) if zipped else data)
    store = open_store(tmp_path)
    assert store.class_names[0] == "T-shirt/top"
    assert np.array_equal(store.test.gather(np.arange(20))[..., 0], GRAY[40:])
    assert np.array_equal(store.train.labels, CLASSES[:40])
    x, _ = next(iter(RealLoader(store.train, n=20, batch_size=10, steps=1)))
    assert x.shape == (10, 1, 28, 28)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="is corrupt, or not an idx file"):
        open_store(tmp_path)
