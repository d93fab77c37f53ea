"""Requested classes are balanced, addressed by (seed, index), and only asked of who takes them."""

import pytest
import torch

from cifar5m.sampling.classes import Conditioning, conditioning_of, image_classes
from cifar5m.weights.sources import WeightsError


def test_the_first_classes_of_seed_0_are_what_they_always_were():
    found = image_classes(0, torch.arange(20), 10).tolist()
    assert found == [8, 9, 1, 3, 0, 7, 6, 2, 5, 4, 8, 9, 1, 2, 0, 3, 7, 6, 5, 4]


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
@pytest.mark.parametrize("first", [0, 10, 2**40 * 10])
def test_every_block_holds_each_class_once(seed, first):
    found = image_classes(seed, torch.arange(first, first + 1000), 10).view(100, 10)
    assert torch.equal(found.sort(dim=1).values, torch.arange(10).expand(100, 10))


def test_a_class_depends_on_seed_and_index_alone():
    together = image_classes(3, torch.arange(500), 10)
    alone = torch.cat([image_classes(3, torch.tensor([i]), 10) for i in range(495, 500)])
    assert torch.equal(together[495:], alone)
    assert not torch.equal(together, image_classes(4, torch.arange(500), 10))


def test_every_class_comes_first_equally_often():
    # 50,000 blocks: a share of 0.1 has deviation 0.0013, so 0.0067 is exceeded once in 10^6 tries.
    first = image_classes(0, torch.arange(0, 500_000, 10), 10)
    shares = first.bincount(minlength=10) / len(first)
    assert (shares - 0.1).abs().max() < 0.0067


@pytest.mark.parametrize(
    "config, expected",
    [
        (None, None),
        ({}, None),
        ({"num_class_embeds": None, "class_embed_type": None}, None),
        ({"num_class_embeds": 10}, Conditioning(10)),
        ({"num_class_embeds": 11}, Conditioning(10, null_class=10)),
        ({"class_embed_type": "timestep"}, Conditioning(10)),
    ],
)
def test_a_config_says_how_classes_are_taken(config, expected):
    assert conditioning_of(config, 10, 1.0, "net") == expected


@pytest.mark.parametrize(
    "config, found",
    [
        ({"num_class_embeds": 1000}, "1000 class embeddings"),
        ({"num_class_embeds": "11"}, "11 class embeddings"),
        ({"class_embed_type": "identity"}, "class_embed_type 'identity'"),
    ],
)
def test_embeddings_of_other_classes_are_refused(config, found):
    with pytest.raises(WeightsError, match=f"net has {found}, expected 10 .* or 11"):
        conditioning_of(config, 10, 1.0, "net")


@pytest.mark.parametrize("config", [{}, {"num_class_embeds": 10}, {"class_embed_type": "timestep"}])
def test_guidance_without_a_null_class_is_refused(config):
    with pytest.raises(ValueError, match=r"guidance=1\.5 needs .* leave it at 1"):
        conditioning_of(config, 10, 1.5, "net")


@pytest.mark.parametrize("guidance", [-0.1, float("nan"), float("inf")])
def test_guidance_must_be_a_number_from_0_on(guidance):
    with pytest.raises(ValueError, match="guidance must be a number of at least 0"):
        Conditioning(10, guidance, 10)
