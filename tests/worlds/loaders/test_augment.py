import numpy as np
import pytest
import torch

from worlds.commands.common import AUGMENTS
from worlds.loaders.augment import _NAMED as augment_names
from worlds.loaders.augment import Augment, augment_batch, draw, normalize, parse_augment


def test_pixels_become_minus_one_to_one_with_one_rounding():
    values = normalize(torch.arange(256, dtype=torch.uint8))
    exact = (2 * np.arange(256) - 255) / 255
    assert values[0] == -1
    assert values[255] == 1
    assert np.abs(values.numpy() - exact).max() < 2.0**-23


@pytest.mark.parametrize("reflect", [False, True])
def test_a_crop_is_a_window_of_the_padded_image_and_a_flip_mirrors_it(reflect):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (40, 8, 10, 3), dtype=np.uint8)
    positions, augment = torch.arange(100, 140), Augment(pad=3, reflect=reflect, flip=True)
    found = augment_batch(torch.from_numpy(images), augment, 4, 2, positions)
    draws = draw(augment, 4, 2, positions, 8, 10)
    for k, image in enumerate(images):
        padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="reflect" if reflect else "constant")
        y, x = int(draws.row[k]), int(draws.column[k])
        window = padded[y : y + 8, x : x + 10]
        window = window[:, ::-1] if draws.flip[k] else window
        expected = normalize(torch.from_numpy(window.copy())).permute(2, 0, 1)
        assert torch.equal(found[k], expected)


def test_every_crop_is_drawn_and_half_are_flipped():
    draws = draw(parse_augment("crop+flip"), 0, 0, torch.arange(20_000), 32, 32)
    places = torch.bincount(draws.row * 9 + draws.column, minlength=81).double()
    expected = 20_000 / 81
    # 80 degrees of freedom: 124.8 is exceeded by chance once in 1,000 choices of seed.
    assert ((places - expected) ** 2 / expected).sum() < 124.8
    assert abs(draws.flip.double().mean() - 0.5) < 0.012  # 3.3 standard deviations


def test_cutout_is_a_grey_square_clipped_at_the_border():
    white = torch.full((500, 32, 32, 3), 255, dtype=torch.uint8)
    positions = torch.arange(500)
    found = augment_batch(white, Augment(cutout=16), 0, 0, positions)
    draws = draw(Augment(cutout=16), 0, 0, positions, 32, 32)
    for k in range(500):
        y, x = int(draws.hole_row[k]), int(draws.hole_column[k])
        expected = torch.ones(32, 32)
        expected[max(y - 8, 0) : y + 8, max(x - 8, 0) : x + 8] = 0
        assert torch.equal(found[k], expected.expand(3, 32, 32))
    assert draws.hole_row.unique().tolist() == list(range(32))


def test_augmentation_depends_on_the_position_and_not_on_the_batch():
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    positions, augment = torch.arange(8), parse_augment("crop+flip+cutout")
    whole = augment_batch(images, augment, 1, 0, positions)
    halves = [
        augment_batch(images[s], augment, 1, 0, positions[s]) for s in (slice(5), slice(5, 8))
    ]
    assert torch.equal(torch.cat(halves), whole)
    assert not torch.equal(augment_batch(images, augment, 1, 1, positions), whole)


def test_the_commands_offer_every_name():
    assert ("none", *augment_names) == AUGMENTS


def test_known_names_are_parsed():
    assert parse_augment(None) == Augment()
    assert parse_augment("crop+flip+cutout") == Augment(pad=4, flip=True, cutout=16)
    assert parse_augment(Augment(pad=2)) == Augment(pad=2)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: parse_augment("flip+crop"), "got 'flip\\+crop'"),
        (lambda: Augment(pad=-1), "pad must be 0 or more"),
        (lambda: Augment(cutout=3), "even number"),
        (lambda: Augment(reflect=True), "pad is 0"),
        (lambda: Augment(pad=4).check_size(4, 9), "larger than that, got 4 x 9"),
    ],
)
def test_bad_augmentation_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
