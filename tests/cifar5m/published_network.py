"""Ho et al.'s published network for tests: its checkpoint's names and shapes, and its forward pass.

Written from the architecture alone, without this project's converter or diffusers.
"""

import math

import torch
import torch.nn.functional as F

from cifar5m.weights.convert import UNET_CONFIG

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
