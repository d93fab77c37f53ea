"""The labeler that exists for everybody: a public ViT in timm's layout, unless BiT is at hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar5m.commands.generate import main
from cifar5m.commands.publish import main as publish
from cifar5m.labels.labeler import Labeler, Preprocessing, load_classifier
from cifar5m.weights.sources import (
    DEFAULT_LABELER,
    WeightsError,
    find_labeler,
    labeler_folder,
)
from tests.cifar5m.loopback_hub import Fault, Repo, hub_of_this_process
from worlds.runtime.torchvision_ops import declare_missing_operators

BASE = {"base": "vit_base_patch16_224"}
TINY = {"depth": 1, "embed_dim": 48, "num_heads": 1}


def save_vit(
    folder: Path, base="vit_tiny_patch16_224", outputs=10, **model_args
) -> torch.nn.Module:
    """A ViT with random weights in the layout of the public labeler."""
    declare_missing_operators()
    import timm

    torch.manual_seed(0)
    network = timm.create_model(base, num_classes=outputs, **model_args)
    torch.nn.init.normal_(network.head.weight, std=1.0)
    folder.mkdir(parents=True)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    config = {
        "architecture": f"timm/{base}.augreg_in21k_ft_in1k",
        "num_classes": outputs,
        "global_pool": "token",
        "model_args": model_args,
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 1000,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return network


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit") / "labeler"
    return folder, save_vit(folder, **TINY)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEP_BOOTSTRAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


def test_the_hubs_layout_loads_with_its_own_head_and_labels_as_timm_does(vit, pixels):
    import timm

    folder, saved = vit
    network, preprocessing = load_classifier(find_labeler(str(folder)))
    assert all(torch.equal(a, saved.state_dict()[k]) for k, a in network.state_dict().items())
    labeler = Labeler(network, preprocessing, torch.device("cpu"), "fp32", batch=4)
    config = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    transform = timm.data.create_transform(**timm.data.resolve_data_config(config))
    images = torch.stack([transform(Image.fromarray(image)) for image in pixels])
    with torch.no_grad():
        expected = saved.eval()(images).softmax(1)
    found = labeler(torch.from_numpy(pixels))
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)  # timm rounds pixels to 8 bits


def test_a_mirrored_labeler_gives_an_image_and_its_mirror_image_the_same_label(vit, pixels):
    folder, _ = vit
    images = torch.from_numpy(pixels)
    once = Labeler(*load_classifier(find_labeler(str(folder))), torch.device("cpu"), "fp32", 4)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mirror": True}))
    both = Labeler(*load_classifier(find_labeler(str(folder))), torch.device("cpu"), "fp32", 4)
    expected = (once(images) + once(images.flip(2))) / 2
    torch.testing.assert_close(both(images), expected)
    torch.testing.assert_close(both(images.flip(2)), both(images))


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size, pct", [((224, 224), 0.9), ((64, 64), 1.0), ((48, 40), 0.875)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_prepared_as_timm_evaluates(mode, size, pct, interpolation, pixels):
    from timm.data import create_transform

    mean, std = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)
    options = {"interpolation": interpolation, "crop_pct": pct, "crop_mode": mode}
    transform = create_transform((3, *size), mean=mean, std=std, **options)
    expected = torch.stack([transform(Image.fromarray(image)) for image in pixels])
    preprocessing = Preprocessing(size, mean, std, interpolation, pct, mode)
    device = torch.device("cpu")
    labeler = Labeler(torch.nn.Identity(), preprocessing, device, "fp32", batch=4)
    found = labeler.prepare(torch.from_numpy(pixels))
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1.7 / 255 / min(std)  # Pillow rounds twice to 8 bits


def test_a_network_of_a_thousand_outputs_is_refused(tmp_path):
    save_vit(tmp_path / "vit", outputs=1000, **TINY)
    with pytest.raises(WeightsError, match=r"ten classes of CIFAR-10, .* has 1000"):
        load_classifier(find_labeler(str(tmp_path / "vit")))


def test_a_config_that_claims_ten_classes_for_a_thousand_outputs_is_refused(tmp_path):
    save_vit(tmp_path / "vit", outputs=1000, **TINY)
    path = tmp_path / "vit" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_classes": 10}))
    with pytest.raises(WeightsError, match="does not load"):
        load_classifier(find_labeler(str(tmp_path / "vit")))


def test_bit_labels_where_it_was_fine_tuned_and_the_public_one_elsewhere(cache):
    with pytest.raises(WeightsError, match="BiT-M-R152x2 fine-tuned on CIFAR-10 is not published"):
        find_labeler("bit")
    save_vit(labeler_folder(DEFAULT_LABELER), **TINY)
    assert find_labeler("auto").source == DEFAULT_LABELER
    save_vit(labeler_folder("bit"), **TINY)
    assert find_labeler("auto").source == find_labeler("bit").source == "bit"
    assert find_labeler(DEFAULT_LABELER).folder == labeler_folder(DEFAULT_LABELER)


def test_offline_the_public_labeler_says_what_to_download_and_where_to_put_it(cache, tmp_path):
    with hub_of_this_process(tmp_path) as hub:
        hub.faults.append(Fault("HEAD", "/", status=404, times=99))
        with pytest.raises(WeightsError) as error:
            find_labeler("auto")
    for part in (DEFAULT_LABELER, "config.json", "pytorch_model.bin", str(cache / "labelers")):
        assert part in str(error.value)


def serve(hub, folder):
    """Let a loopback Hub serve a labeler's folder under the public name."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repos[DEFAULT_LABELER] = Repo(commits=[{name: (d, False) for name, d in files.items()}])


@pytest.mark.parametrize(
    "generator, classifier, options",
    [
        ("tiny", TINY, ["--n", "4", "--micro-batch", "4"]),
        pytest.param(
            "real",
            {"base": "vit_base_patch16_224"},
            ["--split", "train=16"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_headline_command_labels_by_the_public_classifier_and_says_so(
    generator, classifier, options, cache, tmp_path, unet_folder, capsys
):
    if generator == "real":
        from diffusers import UNet2DModel

        from cifar5m.weights.convert import UNET_CONFIG

        torch.manual_seed(0)
        network = UNet2DModel(**UNET_CONFIG)
        assert sum(p.numel() for p in network.parameters()) == 35_746_307
        network.save_pretrained(tmp_path / "unet")
        unet_folder = tmp_path / "unet"
    save_vit(tmp_path / "vit", **classifier)
    out = tmp_path / "set"
    with hub_of_this_process(tmp_path) as hub:
        serve(hub, tmp_path / "vit")
        run = ["--n", "16", "--steps", "2", "--out", str(out), "--device", "cpu", "--quiet"]
        assert main([*run, "--generator", str(unet_folder), *options]) == 0
    assert f"labeler: {DEFAULT_LABELER}" in capsys.readouterr().out
    plan = json.loads((out / "plan.json").read_text())
    assert plan["about"]["labeler"] == DEFAULT_LABELER
    assert publish([str(out), "--repo", "me/set", "--workers", "1", "--quiet", "--dry-run"]) == 0
    assert f"labeler `{DEFAULT_LABELER}`" in capsys.readouterr().out
