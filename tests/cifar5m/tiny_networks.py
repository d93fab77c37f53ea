"""Real networks at tiny sizes with random weights, saved in the folders that users have."""

import json
from pathlib import Path

import torch

from worlds.runtime.torchvision_ops import declare_missing_operators

LABELER_CONFIG = {
    "architecture": "resnetv2_18",
    "num_classes": 10,
    "model_args": {"channels": [8, 8, 16, 16], "stem_chs": 8, "layers": [1, 1, 1, 1]},
    "pretrained_cfg": {
        "input_size": [3, 64, 64],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bilinear",
        "num_classes": 10,
    },
}


def save_unet(folder: Path, **changes) -> Path:
    declare_missing_operators()
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    config = {
        "sample_size": 32,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": None,
    }
    UNet2DModel(**(config | changes)).save_pretrained(folder)
    return folder


def save_labeler(folder: Path, **changes) -> Path:
    declare_missing_operators()
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(1)
    config = LABELER_CONFIG | changes
    network = timm.create_model(
        config["architecture"], num_classes=config["num_classes"], **config["model_args"]
    )
    # A head that tells noise images apart, so that more than one class comes up.
    images = torch.randn(64, 3, 32, 32).clamp(-1, 1)
    images = torch.nn.functional.interpolate(images, (64, 64), mode="bilinear")
    with torch.no_grad():
        features = network.eval().forward_head(network.forward_features(images), pre_logits=True)
        head = network.head.fc
        head.weight.normal_(std=30)
        head.bias.copy_(-head.weight.flatten(1) @ features.flatten(1).mean(0))
    folder.mkdir(parents=True)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder
