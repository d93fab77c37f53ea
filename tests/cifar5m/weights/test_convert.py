"""The converted network against the published architecture, of `published_network`."""

import math
import zipfile

import pytest
import torch
from safetensors.torch import save_file

import worlds.runtime.torchvision_ops  # noqa: F401
from cifar5m.weights.convert import (
    PARAMETERS,
    UNET_CONFIG,
    build_unet,
    convert,
    name_table,
    read_state,
    tensors_sha256,
    unet_state,
    weights_file,
)
from tests.cifar5m.published_network import (
    TINY,
    TINY_SHAPE,
    made_checkpoint,
    published_forward,
    published_shapes,
)


def inputs(batch=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *TINY_SHAPE, generator=generator)
    return x, torch.tensor([0, 1, 500, 999])[:batch]


def largest_difference(unet, checkpoint, **options):
    x, t = inputs()
    with torch.no_grad():
        ours, theirs = unet(x, t).sample, published_forward(checkpoint, x, t, **options)
    assert theirs.std() > 0.1  # a dead output would agree with anything
    return (ours - theirs).abs().max().item()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_converted_network_equals_the_published_architecture(seed):
    checkpoint = made_checkpoint(seed=seed)
    unet = build_unet(convert(checkpoint, TINY), TINY)
    assert largest_difference(unet, checkpoint) < 1e-5
    assert not unet.training
    assert not any(p.requires_grad for p in unet.parameters())


@pytest.mark.parametrize(
    "change",
    [
        {"downsample_padding": 1},
        {"flip_sin_to_cos": True},
        {"freq_shift": 0},
        {"norm_eps": 1e-3},
        {"attention_head_dim": 4},
        {"act_fn": "relu"},
    ],
)
def test_the_comparison_sees_every_setting_that_shapes_do_not(change):
    checkpoint = made_checkpoint()
    unet = build_unet(convert(checkpoint, TINY), {**TINY, **change})
    assert largest_difference(unet, checkpoint) > 1e-4


def test_every_group_norm_has_the_published_epsilon():
    unet = build_unet(convert(made_checkpoint(), TINY), TINY)
    norms = [m for m in unet.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert len(norms) == 2 * 22 + 6 + 1  # two a residual block, one an attention, one at the end
    assert {m.eps for m in norms} == {1e-6}


def test_every_published_weight_reaches_the_output():
    checkpoint = {name: tensor.requires_grad_() for name, tensor in made_checkpoint().items()}
    x, t = inputs()
    published_forward(checkpoint, x, t).square().sum().backward()
    # A bias before a softmax over keys cancels out, whatever its value.
    without = {
        name for name, p in checkpoint.items() if p.grad is None or p.grad.abs().max() < 1e-6
    }
    assert without <= {name for name in checkpoint if name.endswith(".k.bias")}


def test_the_real_width_holds_the_published_number_of_parameters():
    shapes = published_shapes(128)
    assert sum(math.prod(shape) for shape in shapes.values()) == PARAMETERS == 35_746_307
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    unet = build_unet(convert(state))
    assert sum(p.numel() for p in unet.parameters()) == PARAMETERS
    assert {k: unet.config[k] for k in UNET_CONFIG} == dict(UNET_CONFIG)


def test_each_published_name_goes_to_one_place():
    table = name_table()
    assert len(set(table.values())) == len(table)
    assert table["up.0.block.2.nin_shortcut"] == "up_blocks.3.resnets.2.conv_shortcut"
    assert table["up.1.attn.0.proj_out"] == "up_blocks.2.attentions.0.to_out.0"
    assert table["down.1.attn.1.q"] == "down_blocks.1.attentions.1.to_q"


def old_names(state):
    for old, new in [
        ("query", "to_q"),
        ("key", "to_k"),
        ("value", "to_v"),
        ("proj_attn", "to_out.0"),
    ]:
        state = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in state.items()}
    return state


def test_old_attention_names_are_renamed_as_diffusers_renames_them(tmp_path):
    from diffusers import UNet2DModel

    checkpoint = made_checkpoint()
    ours = convert(checkpoint, TINY)
    build_unet(ours, TINY).save_pretrained(tmp_path)
    old = old_names(ours)
    assert any(".query." in name for name in old)
    save_file(old, tmp_path / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    theirs = UNet2DModel.from_pretrained(tmp_path, local_files_only=True).state_dict()
    renamed = unet_state(read_state(weights_file(tmp_path)), TINY)
    assert renamed.keys() == theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        assert torch.equal(tensor, ours[name])
        assert torch.equal(renamed[name], ours[name])


@pytest.mark.parametrize("form", ["zip-pickle", "legacy-pickle", "safetensors", "bin", "zip"])
def test_every_form_of_file_gives_the_same_tensors(tmp_path, form):
    published = made_checkpoint()
    ours = convert(published, TINY)
    file = tmp_path / "model.ckpt"
    if form == "safetensors":
        save_file(ours, file := tmp_path / "model.safetensors")
    elif form == "bin":
        torch.save(old_names(ours), file := tmp_path / "diffusion_pytorch_model.bin")
        assert weights_file(tmp_path) == file
    elif form == "zip":
        torch.save(ours, tmp_path / "w.bin")
        with zipfile.ZipFile(file := tmp_path / "ddpm.zip", "w") as archive:
            archive.write(tmp_path / "w.bin", "ddpm/unet/diffusion_pytorch_model.bin")
            archive.writestr("ddpm/model_index.json", "{}")
    else:
        torch.save(published, file, _use_new_zipfile_serialization=form == "zip-pickle")
    assert tensors_sha256(unet_state(read_state(file), TINY)) == tensors_sha256(ours)


def test_the_hash_of_the_tensors_sees_one_changed_bit():
    state = convert(made_checkpoint(), TINY)
    before = tensors_sha256(state)
    state["conv_in.bias"].view(torch.int32)[0] ^= 1
    assert tensors_sha256(state) != before
    assert tensors_sha256(dict(reversed(state.items()))) == tensors_sha256(state)


def without(state, name):
    return {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize(
    "damage, message",
    [
        (
            lambda s: without(s, "mid.attn_1.q.weight"),
            "1 names missing .mid.attn_1.q.weight., 0 not",
        ),
        (lambda s: s | {"extra": torch.zeros(1)}, "0 names missing .none., 1 not expected .extra."),
        (
            lambda s: s | {"conv_in.bias": torch.zeros(9)},
            r"conv_in.bias is torch.float32 \(9,\), exp",
        ),
        (lambda s: s | {"conv_in.bias": torch.zeros(8).int()}, "conv_in.bias is torch.int32"),
        (
            lambda s: s | {"conv_in.bias": torch.full((8,), torch.nan)},
            "conv_in.bias holds values that",
        ),
        (lambda s: {"module." + k: v for k, v in s.items()}, "neither in the published layout"),
        (lambda s: {}, "neither in the published layout .* first names are none"),
    ],
)
def test_another_network_is_refused_by_name(damage, message):
    with pytest.raises(ValueError, match=message) as error:
        unet_state(damage(made_checkpoint()), TINY)
    assert "\n" not in str(error.value)


class Dangerous:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("cut.ckpt", "cut", "not a file of weights"),
        ("cut.safetensors", "cut-safetensors", "not a file of weights"),
        ("noise.ckpt", b"\x00" * 100, "not a file of weights"),
        ("empty.ckpt", b"", "not a file of weights"),
        ("page.zip", b"<html>", "not a file of weights"),
        ("list.ckpt", [1, 2], "holds a list, expected a dict of tensors"),
        ("step.ckpt", {"step": 3}, "holds a dict, expected a dict of tensors"),
        ("code.ckpt", {"a": Dangerous()}, "not a file of weights"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_in_one_line(
    tmp_path, capsys, name, content, message
):
    file = tmp_path / name
    if content == "cut":
        torch.save(made_checkpoint(), file)
        file.write_bytes(file.read_bytes()[:5000])
    elif content == "cut-safetensors":
        save_file(made_checkpoint(), file)
        file.write_bytes(file.read_bytes()[:5000])
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ValueError, match=message) as error:
        read_state(file)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_a_folder_without_weights_and_an_absent_path_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no diffusion_pytorch_model"):
        weights_file(tmp_path)
    with pytest.raises(ValueError, match="is neither a file nor a folder"):
        weights_file(tmp_path / "absent")
