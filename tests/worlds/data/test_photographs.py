"""Photographs in shards: crops that are torchvision's to the bit, at the address of the sample."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from worlds import (
    ArrayStore,
    Augment,
    FixedReuseLoader,
    IdealLoader,
    RealLoader,
    SequentialLoader,
    Store,
    open_store,
)
from worlds.data.images import resized_shape
from worlds.data.photographs import AREA, RATIO, crop_box, decode_photograph
from worlds.data.resampling import resample
from worlds.formats.layout import Layout
from worlds.formats.shards import decode_image, write_shard
from worlds.runtime.files import write_json

CROP = {"augment": "crop+flip"}
SIZES = [(341, 256), (256, 256), (256, 300), (500, 375), (120, 90), (700, 256)]  # width, height


def jpeg(seed: int, width: int, height: int, mode: str = "RGB") -> bytes:
    """Smooth noise, encoded."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.convert(mode).save(stream, "JPEG")
    return stream.getvalue()


def make_store(folder, count: int = 40) -> Store:
    """Shards of 15 photographs of all SIZES, the last 10 of them the validation split."""
    splits = {"train": count - 10, "val": 10}
    facts = {"fingerprint": "a plan of the tests"}
    plan = {"format": 1, "splits": splits, "shard_size": 15, "image_shape": [None, None, 3]}
    write_json(folder / "plan.json", plan | facts | {"class_names": ["dog", "bird"]})
    for shard in Layout(tuple(splits.items()), 15).shards():
        index = range(shard.start, shard.stop)
        labels = np.array([i % 2 for i in index])
        rows = [jpeg(i, *SIZES[i % len(SIZES)]) for i in index]
        write_shard(folder, shard, rows, labels, np.eye(2)[labels], facts, "jpg")
    return open_store(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return make_store(tmp_path_factory.mktemp("photographs"))


def bytes_of(images: torch.Tensor) -> np.ndarray:
    """[-1, 1] (B, 3, H, W) back to uint8 (B, H, W, 3)."""
    return ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def photograph(store: Store, split: str, index: int) -> Image.Image:
    return Image.fromarray(next(store[split].images.whole(np.array([index]))))


def test_a_store_of_photographs_has_224_pixels_and_the_validation_split_as_test(store):
    assert store.train.image_shape == (224, 224, 3)
    assert store.test is store["val"]
    assert store.class_names == ("dog", "bird")
    assert store.train[7][0].shape == (3, 224, 224)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_photographs_are_decoded_to_pillows_pixels(mode):
    data = jpeg(1, 300, 200, mode)
    assert np.array_equal(decode_photograph(data), decode_image(data))


def test_what_is_no_whole_jpeg_is_pillows_to_decode_or_to_refuse():
    stream = io.BytesIO()
    Image.new("RGBA", (9, 7), (1, 2, 3, 4)).save(stream, "PNG")
    assert decode_photograph(stream.getvalue()).shape == (7, 9, 3)
    for data in (jpeg(1, 300, 200)[:-900], b"text", b""):
        with pytest.raises(ValueError, match=r"truncated|identify"):
            decode_photograph(data)


# Where the height shrinks more than the width, Pillow 13 takes the columns first.
@pytest.mark.parametrize("height", [30, 200, 224])
@pytest.mark.parametrize("width", [25, 223, 224, 225, 400])
def test_resampling_equals_pillows_to_the_bit(height, width):
    generator = np.random.default_rng(height * width)
    image = generator.integers(0, 256, (height + 20, width + 30, 3), dtype=np.uint8)
    out = np.empty((224, 224, 3), np.uint8)
    resample(image, (11, 17, height, width), out)
    box = Image.fromarray(image).crop((17, 11, 17 + width, 11 + height))
    expected = np.asarray(box.resize((224, 224), Image.Resampling.BILINEAR))
    assert np.array_equal(out, expected)


def test_without_augmentation_it_is_the_usual_evaluation(store):
    import worlds.runtime.torchvision_ops  # noqa: F401, I001
    from torchvision.transforms import CenterCrop, Compose, Resize

    evaluation = Compose([Resize(256), CenterCrop(224)])
    images, labels = next(iter(SequentialLoader(store.test, 10)))
    for k, image in enumerate(bytes_of(images)):
        expected = np.asarray(evaluation(photograph(store, "val", k))).astype(int)
        # One rounding may come in another order where the height shrinks most (see above).
        assert np.abs(image - expected).max() <= 1
    assert labels.tolist() == [i % 2 for i in range(30, 40)]


@pytest.mark.parametrize("size", SIZES)
def test_the_evaluations_resize_keeps_the_shorter_side_at_256(size):
    height, width = resized_shape(size[1], size[0], 256)
    assert min(height, width) == 256
    assert abs(height / width - size[1] / size[0]) < 0.01


def test_a_crop_is_its_box_resized_and_flipped(store):
    import worlds.runtime.torchvision_ops  # noqa: F401, I001
    from torchvision.transforms.functional import InterpolationMode, resized_crop

    from worlds.loaders.augment import draw
    from worlds.rng.philox import words
    from worlds.rng.streams import DECODE

    loader = RealLoader(store.train, 30, 30, 3, seed=5, **CROP)
    flipped = 0
    for step, (images, _) in enumerate(loader):
        positions = torch.from_numpy(loader.positions(step))
        flips = draw(Augment(flip=True), 5, 0, positions, 224, 224).flip
        drawn = words(5, DECODE, 0, positions, 10).tolist()
        for k, index in enumerate(loader.indices(step)):
            image = photograph(store, "train", int(index))
            box = crop_box(image.height, image.width, drawn[k])
            bilinear = InterpolationMode.BILINEAR
            expected = np.asarray(resized_crop(image, *box, [224, 224], bilinear)).astype(int)
            if flips[k]:
                expected = expected[:, ::-1]
            assert np.abs(bytes_of(images[k : k + 1])[0] - expected).max() <= 1
        flipped += int(flips.sum())
    assert 20 < flipped < 70  # of 90: 2e-7 of all seeds fall outside


@pytest.mark.parametrize("size", [(256, 341), (256, 256), (600, 256), (256, 2000), (2000, 256)])
def test_boxes_are_distributed_as_torchvisions(size):
    """4,000 boxes of each: means within five standard errors of the difference."""
    import worlds.runtime.torchvision_ops  # noqa: F401, I001
    from torchvision.transforms import RandomResizedCrop

    count, (height, width) = 4_000, size
    drawn = np.random.default_rng(0).integers(0, 1 << 32, (count, 40))
    ours = np.array([crop_box(height, width, row) for row in drawn.tolist()])
    tops, lefts, heights, widths = ours.T
    assert (tops >= 0).all()
    assert (lefts >= 0).all()
    assert (tops + heights <= height).all()
    assert (lefts + widths <= width).all()
    image = torch.empty(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = np.array(
            [RandomResizedCrop.get_params(image, list(AREA), list(RATIO)) for _ in range(count)]
        )
    spread = np.hypot(ours.std(0), theirs.std(0)) / count**0.5
    assert (np.abs(ours.mean(0) - theirs.mean(0)) <= 5 * spread + 0.5).all()
    fixed = ours[:, 2:].std(0).sum() == 0
    assert fixed == (theirs[:, 2:].std(0).sum() == 0)


def test_the_first_boxes_are_frozen():
    """Literals: another definition of the crops would change every training run on photographs."""
    from worlds.rng.philox import words
    from worlds.rng.streams import DECODE

    drawn = words(7, DECODE, 0, torch.arange(4), 10).tolist()
    assert [crop_box(256, 341, row) for row in drawn] == [
        (23, 130, 146, 194),
        (4, 59, 235, 228),
        (54, 46, 180, 233),
        (20, 26, 236, 202),
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"threads": 0},
        {"threads": 3},
        {"dtype": torch.bfloat16},
        {"channels_last": True},
    ],
)
def test_threads_and_layout_change_no_pixel(other, store):
    one = RealLoader(store.train, 20, 8, 7, **CROP)
    two = RealLoader(store.train, 20, 8, 7, **CROP, **other)
    for (x, y), (x2, y2) in zip(one, two, strict=True):
        assert torch.equal(x.to(x2.dtype), x2)
        assert torch.equal(y, y2)


def test_ranks_share_the_batches_and_a_restored_loader_gives_the_rest(store):
    whole = list(RealLoader(store.train, 20, 8, 6, **CROP))
    shares = [
        list(RealLoader(store.train, 20, 8, 6, rank=rank, world_size=2, **CROP)) for rank in (0, 1)
    ]
    for (x, _), (first, _), (second, _) in zip(whole, *shares, strict=True):
        assert torch.equal(x, torch.cat([first, second]))
    loader = RealLoader(store.train, 20, 8, 6, **CROP)
    for _ in zip(range(2), loader, strict=False):
        pass
    restored = RealLoader(store.train, 20, 8, 6, threads=2, **CROP)
    restored.load_state_dict(loader.state_dict())
    for (x, _), (x2, _) in zip(whole[loader.step :], restored, strict=True):
        assert torch.equal(x, x2)


def test_an_ideal_world_of_several_passes_is_allowed_only_by_name(store):
    with pytest.raises(ValueError, match="the largest possible is 3 steps"):
        IdealLoader(store.train, 8, 9)
    exact = IdealLoader(store.train, 8, 3)
    assert (exact.sampler.world, exact.passes) == ("ideal", 0.8)
    loader = IdealLoader(store.train, 8, 9, passes=3, **CROP)
    assert (loader.sampler.world, loader.passes) == ("approximate ideal", 2.4)
    used = np.concatenate([loader.indices(step) for step in range(9)])
    assert np.bincount(used, minlength=30).max() == 3
    assert sorted(used[:30]) == list(range(30))
    with pytest.raises(ValueError, match="used at most 3 time"):
        IdealLoader(store.train, 8, 12, passes=3)
    with pytest.raises(ValueError, match="the saved loader has world = 'approximate ideal'"):
        IdealLoader(store.train, 8, 3, **CROP).load_state_dict(loader.state_dict())
    assert FixedReuseLoader(store.train, 10, 5, reuse=4).passes == 4


@pytest.mark.parametrize("name", ["unit", "imagenet"])
@pytest.mark.parametrize("options", [CROP, {"augment": None, "channels_last": True}])
def test_normalization_is_an_affine_map_of_the_pixels(name, options, store):
    plain, _ = next(iter(RealLoader(store.train, 30, 30, 1, **options)))
    found, _ = next(iter(RealLoader(store.train, 30, 30, 1, normalize=name, **options)))
    expected = (plain.double() + 1) / 2
    if name == "imagenet":
        mean, std = (
            torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        expected = (expected - mean) / std
    assert torch.allclose(found.double(), expected, atol=2e-6)
    assert found.stride() == plain.stride()


def test_a_transform_gets_the_whole_photograph(store):
    shapes = []

    def transform(image: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(image.shape))
        return image[:, :32, :32]

    images, _ = next(iter(SequentialLoader(store.train, 6, 6, transform=transform)))
    assert images.shape == (6, 3, 32, 32)
    assert shapes == [(3, height, width) for width, height in SIZES]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"augment": Augment(pad=4)}, "pad must be 0, got 4"),
        ({"gpu_decode": True}, "gpu_decode=True decodes photographs on a GPU"),
        (
            {"normalize": "mean"},
            "normalize must be one of 'symmetric', 'unit', 'cifar10', 'imagenet'",
        ),
        ({"normalize": "unit", "transform": abs}, "a transform normalizes by itself"),
    ],
)
def test_what_photographs_cannot_have_is_refused(options, message, store):
    with pytest.raises(ValueError, match=message):
        RealLoader(store.train, 8, 8, 1, **options)


def test_resized_crops_of_small_images_are_refused():
    small = ArrayStore(np.zeros((4, 32, 32, 3), np.uint8), np.zeros(4, int))
    with pytest.raises(ValueError, match="resized_crop=True is for photographs"):
        RealLoader(small.train, 4, 4, 1, augment=Augment(resized_crop=True))
    with pytest.raises(ValueError, match="resized_crop=True is a crop already, but pad is 4"):
        Augment(pad=4, resized_crop=True)


@pytest.mark.parametrize("random", [False, True])
def test_what_is_cropped_on_a_gpu_is_the_same_box(random, store):
    """The half of worlds/loaders/nvjpeg.py behind the decoder, here on a CPU: torchvision's
    resampling of tensors, which rounds otherwise than Pillow's.
    """
    from worlds.loaders.nvjpeg import crop_decoded
    from worlds.rng.philox import words
    from worlds.rng.streams import DECODE

    index, positions = np.arange(12), np.arange(100, 112)
    decoded = [torch.tensor(image).permute(2, 0, 1) for image in store.train.images.whole(index)]
    drawn = words(3, DECODE, 0, torch.from_numpy(positions), 10).tolist() if random else None
    found = crop_decoded(decoded, drawn, 224, 256).numpy().astype(int)
    expected = np.empty((12, 224, 224, 3), np.uint8)
    if random:
        store.train.images.gather_crops(index, positions, 3, 0, expected)
    else:
        store.train.images.gather(index, expected)
    assert np.abs(found - expected).max() <= 2


@pytest.mark.gpu
@pytest.mark.parametrize("augment", [None, "crop+flip"])
def test_a_gpu_makes_the_cpus_batches(augment, store):
    one = RealLoader(store.train, 20, 8, 5, augment=augment)
    for options, tolerance in (({}, 0), ({"gpu_decode": True}, 12 / 255)):
        two = RealLoader(store.train, 20, 8, 5, augment=augment, device="cuda", **options)
        for (x, y), (x2, y2) in zip(one, two, strict=True):
            assert (x - x2.cpu()).abs().mean() <= tolerance
            assert torch.equal(y, y2.cpu())
        one = RealLoader(store.train, 20, 8, 5, augment=augment)


@pytest.mark.gpu
def test_threads_that_decode_on_a_gpu_do_not_disturb_each_other(store):
    options = {"augment": "crop+flip", "device": "cuda", "gpu_decode": True}
    one, many = (
        RealLoader(store.train, 30, 16, 200, threads=threads, **options) for threads in (0, 16)
    )
    for (x, y), (x2, y2) in zip(one, many, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


def test_a_damaged_photograph_is_named(tmp_path):
    store = make_store(tmp_path, 20)
    offset, size = store.train.images.members._indexed(0)[3].tolist()
    tar = tmp_path / "data" / "train-00000-of-00001.tar"
    content = bytearray(tar.read_bytes())
    content[offset : offset + size] = bytes(size)
    tar.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-00000-of-00001\.tar: sample 3"):
        list(SequentialLoader(store.train, 4))
