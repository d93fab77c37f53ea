"""The converted network against the published architecture, written once more as functions."""

import math
import zipfile

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import worlds.torchvision_ops  # noqa: F401
from cifar5m.checkpoint_layout import (
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

WIDTH, MULTIPLIERS, BLOCKS, GROUPS = 8, (1, 2, 2, 2), 2, 4
TINY = {**UNET_CONFIG, "block_out_channels": (8, 16, 16, 16), "norm_num_groups": GROUPS}
TINY_SHAPE = (3, 16, 16)  # attention stays at the second level, as in the published network


def published_shapes(width, multipliers=MULTIPLIERS, blocks=BLOCKS):
    """Names and shapes of the published checkpoint, from its architecture."""
    shapes, time = {}, 4 * width

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def block(name, inputs, outputs):
        layer(f"{name}.norm1", inputs)
        layer(f"{name}.conv1", outputs, inputs, 3, 3)
        layer(f"{name}.temb_proj", outputs, time)
        layer(f"{name}.norm2", outputs)
        layer(f"{name}.conv2", outputs, outputs, 3, 3)
        if inputs != outputs:
            layer(f"{name}.nin_shortcut", outputs, inputs, 1, 1)

    def attention(name, channels):
        layer(f"{name}.norm", channels)
        for part in ("q", "k", "v", "proj_out"):
            layer(f"{name}.{part}", channels, channels, 1, 1)

    channels = [width * m for m in multipliers]
    layer("temb.dense.0", time, width)
    layer("temb.dense.1", time, time)
    layer("conv_in", width, 3, 3, 3)
    skips, h = [width], width
    for level, c in enumerate(channels):
        for j in range(blocks):
            block(f"down.{level}.block.{j}", h, c)
            h = c
            skips.append(h)
            if level == 1:
                attention(f"down.{level}.attn.{j}", h)
        if level < len(channels) - 1:
            layer(f"down.{level}.downsample.conv", h, h, 3, 3)
            skips.append(h)
    block("mid.block_1", h, h)
    attention("mid.attn_1", h)
    block("mid.block_2", h, h)
    for level in reversed(range(len(channels))):
        for j in range(blocks + 1):
            block(f"up.{level}.block.{j}", h + skips.pop(), channels[level])
            h = channels[level]
            if level == 1:
                attention(f"up.{level}.attn.{j}", h)
        if level > 0:
            layer(f"up.{level}.upsample.conv", h, h, 3, 3)
    layer("norm_out", h)
    layer("conv_out", 3, h, 3, 3)
    return shapes


def made_checkpoint(width=WIDTH, seed=0):
    """Random weights of about unit gain, so that every layer changes the output."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in published_shapes(width).items():
        draw = torch.randn(shape, generator=generator)
        fan_in = math.prod(shape[1:])
        if len(shape) > 1:
            state[name] = draw / math.sqrt(fan_in)
        else:
            state[name] = 0.2 * draw + (1.0 if "norm" in name and "weight" in name else 0.0)
    return state


def published_forward(p, x, t, width=WIDTH, levels=4, blocks=BLOCKS, groups=GROUPS):
    """The published network as functions of its own checkpoint `p`: x (B, 3, H, W), t (B,)."""

    def conv(name, x, **options):
        return F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], **options)

    def linear(name, x):
        return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def norm(name, x):
        return F.group_norm(x, groups, p[f"{name}.weight"], p[f"{name}.bias"], eps=1e-6)

    def block(name, x):
        h = conv(f"{name}.conv1", F.silu(norm(f"{name}.norm1", x)), padding=1)
        h = h + linear(f"{name}.temb_proj", F.silu(temb))[:, :, None, None]
        h = conv(f"{name}.conv2", F.silu(norm(f"{name}.norm2", h)), padding=1)
        shortcut = f"{name}.nin_shortcut"
        return h + (conv(shortcut, x) if f"{shortcut}.weight" in p else x)

    def attention(name, x):
        if f"{name}.q.weight" not in p:
            return x
        b, c, height, breadth = x.shape
        h = norm(f"{name}.norm", x)
        q, k, v = (conv(f"{name}.{part}", h).reshape(b, c, -1) for part in "qkv")
        share = torch.einsum("bcq,bck->bqk", q, k).mul(c**-0.5).softmax(dim=-1)
        h = torch.einsum("bqk,bck->bcq", share, v).reshape(b, c, height, breadth)
        return x + conv(f"{name}.proj_out", h)

    half = width // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half) / (half - 1))
    angle = t[:, None].float() * frequency
    temb = torch.cat([angle.sin(), angle.cos()], dim=1)
    temb = linear("temb.dense.1", F.silu(linear("temb.dense.0", temb)))

    h = conv("conv_in", x, padding=1)
    skips = [h]
    for level in range(levels):
        for j in range(blocks):
            h = attention(f"down.{level}.attn.{j}", block(f"down.{level}.block.{j}", h))
            skips.append(h)
        if level < levels - 1:
            h = conv(f"down.{level}.downsample.conv", F.pad(h, (0, 1, 0, 1)), stride=2)
            skips.append(h)
    h = block("mid.block_2", attention("mid.attn_1", block("mid.block_1", h)))
    for level in reversed(range(levels)):
        for j in range(blocks + 1):
            h = block(f"up.{level}.block.{j}", torch.cat([h, skips.pop()], dim=1))
            h = attention(f"up.{level}.attn.{j}", h)
        if level > 0:
            h = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            h = conv(f"up.{level}.upsample.conv", h, padding=1)
    return conv("conv_out", F.silu(norm("norm_out", h)), padding=1)


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
        ("cut.ckpt", "cut", "cannot be read as weights"),
        ("cut.safetensors", "cut-safetensors", "cannot be read as weights"),
        ("noise.ckpt", b"\x00" * 100, "cannot be read as weights"),
        ("empty.ckpt", b"", "cannot be read as weights"),
        ("page.zip", b"<html>", "cannot be read as weights"),
        ("list.ckpt", [1, 2], "holds a list, expected a dict of tensors"),
        ("step.ckpt", {"step": 3}, "holds a dict, expected a dict of tensors"),
        ("code.ckpt", {"a": Dangerous()}, "cannot be read as weights"),
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
