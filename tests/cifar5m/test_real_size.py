"""The networks of the default recipe at their real size, with random weights (slow)."""

import json

import pytest
import torch

from cifar5m.commands.generate import main
from cifar5m.commands.verify import main as verify
from cifar5m.labels.labeler import BIT, load_classifier
from cifar5m.sampling.unet import load_unet
from cifar5m.weights.convert import PARAMETERS, UNET_CONFIG
from cifar5m.weights.sources import find_generator, find_labeler
from tests.cifar5m.tiny_networks import save_unet
from worlds.runtime.torchvision_ops import declare_missing_operators

BIT_PARAMETERS = 232_279_178  # BiT-M-R152x2 with ten classes


def save_bit(folder):
    declare_missing_operators()
    import timm
    from safetensors.torch import save_file

    folder.mkdir()
    torch.manual_seed(0)
    network = timm.create_model(BIT, num_classes=10)
    save_file(network.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    preprocessing = {
        "input_size": [3, 128, 128],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bilinear",
        "num_classes": 10,
    }
    config = {"architecture": BIT, "num_classes": 10, "pretrained_cfg": preprocessing}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_two_shards_of_eight_with_networks_of_real_size(tmp_path):
    unet = save_unet(tmp_path / "unet", **UNET_CONFIG)
    bit = save_bit(tmp_path / "bit")
    network = load_unet(find_generator(str(unet)))
    classifier, _ = load_classifier(find_labeler(str(bit)))
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS == 35_746_307
    assert sum(p.numel() for p in classifier.parameters()) == BIT_PARAMETERS
    folder = tmp_path / "set"
    options = ["--generator", str(unet), "--labeler", str(bit), "--steps", "3", "--quiet"]
    size = ["--n", "16", "--split", "train=16", "--shard-size", "8", "--micro-batch", "8"]
    assert (
        main(["--recipe", "cifar5m", "--out", str(folder), "--device", "cpu", *size, *options]) == 0
    )
    assert len(list((folder / "data").iterdir())) == 2
    assert verify([str(folder)]) == 0
