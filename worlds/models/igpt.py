"""Image GPT for 32 px (Chen et al. 2020). Figure 5b fine-tunes iGPT-S after 131,000 and 1,000,000
steps of pretraining; pretrained.py loads such checkpoints.

    model = create("igpt_s", num_classes=10)

A pixel becomes the token of the nearest of 512 colors, and a causal transformer reads the 1,024
tokens shifted right behind a start token; logits are a linear map, first zero, of the mean over its
outputs. Three norms exist. Released weights have a gain alone: "rms" divides by the root mean
square, as OpenAI's model does, while the paper's code divides the uncentered input by its standard
deviation ("std", the default) and does not train the gains (`train_gains=False`). Its nets from
scratch use ordinary LayerNorm ("layer"). `lm_head=True` adds the output layer of the language
model, which the loss does not use.

It is written here, not taken from `transformers`, because that library knows one norm only, and a
GPT is less code than an adapter.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from worlds.models.layers import check_choice, check_positive
from worlds.models.registry import Architecture

COLORS, CONTEXT = 512, 32 * 32
# layers, width, heads
SIZES = {"igpt_s": (24, 512, 8), "igpt_m": (36, 1024, 8), "igpt_l": (48, 1536, 16)}
NORMS = ("std", "rms", "layer")
EPSILON = 1e-5
# Variables of the optimizer, which lie in OpenAI's files beside the weights.
_OPTIMIZER = ("adam_m", "adam_v", "AdamWeightDecayOptimizer", "global_step", "_step")


class GainNorm(nn.Module):
    """The input, not centered, over its standard deviation or root mean square, times a gain."""

    def __init__(self, width: int, centered_scale: bool) -> None:
        super().__init__()
        self.centered_scale = centered_scale
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.centered_scale:
            square = x.var(-1, unbiased=False, keepdim=True)
        else:
            square = x.square().mean(-1, keepdim=True)
        return x * torch.rsqrt(square + EPSILON) * self.weight


def _norm(width: int, kind: str) -> nn.Module:
    return nn.LayerNorm(width, EPSILON) if kind == "layer" else GainNorm(width, kind == "std")


class Block(nn.Module):
    def __init__(self, width: int, heads: int, norm: str) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = _norm(width, norm)
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.ln_2 = _norm(width, norm)
        self.c_fc = nn.Linear(width, 4 * width)
        self.mlp_proj = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        qkv = self.c_attn(self.ln_1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, tokens, width / heads)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(attended.transpose(1, 2).reshape(batch, tokens, width))
        # GELU by OpenAI's approximation, x * sigmoid(1.702 x).
        hidden = self.c_fc(self.ln_2(x))
        return x + self.mlp_proj(hidden * torch.sigmoid(1.702 * hidden))


def color_grid() -> torch.Tensor:
    """Return (512, 3) in [-1, 1]: eight even levels a channel, without OpenAI's clusters."""
    levels = torch.linspace(-1, 1, 8)
    return torch.cartesian_prod(levels, levels, levels)


class ImageGPT(nn.Module):
    colors: torch.Tensor

    def __init__(
        self, num_classes: int, layers: int, width: int, heads: int, norm: str, lm_head: bool
    ) -> None:
        super().__init__()
        self.register_buffer("colors", color_grid())
        self.wte = nn.Embedding(COLORS + 1, width)  # the last token is the start
        self.wpe = nn.Embedding(CONTEXT, width)
        self.h = nn.Sequential(*(Block(width, heads, norm) for _ in range(layers)))
        self.ln_f = _norm(width, norm)
        self.lm_head = nn.Linear(width, COLORS, bias=False) if lm_head else None
        self.classifier = nn.Linear(width, num_classes, bias=False)
        # Initialize: the same spread everywhere, and a classifier of zeros.
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, 0.0, width**-0.5)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.classifier.weight)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Return the nearest color of each pixel of x, in raster order: int64 (B, 1024)."""
        pixels = x.flatten(2).transpose(1, 2).float()  # (B, 1024, 3)
        # |p - c|^2 up to |p|^2, which is the same for every color.
        distance = self.colors.square().sum(1) - 2 * (pixels @ self.colors.T)
        return distance.argmin(-1)

    def outputs(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, 1024, width): position i has read the pixels before i."""
        start = torch.full((len(x), 1), COLORS, dtype=torch.int64, device=x.device)
        tokens = torch.cat([start, self.tokens(x)[:, :-1]], dim=1)
        return self.ln_f(self.h(self.wte(tokens) + self.wpe.weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.outputs(x).mean(1))

    def pixel_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of each pixel, given those before it: (B, 1024, 512)."""
        if self.lm_head is None:
            raise ValueError("this network has no language-model head; create it with lm_head=True")
        return self.lm_head(self.outputs(x))


def igpt(
    num_classes: int,
    size: str,
    layers: int | None = None,
    norm: str = "std",
    train_gains: bool = True,
    lm_head: bool = False,
) -> ImageGPT:
    """Build an Image GPT; `layers` keeps the first few blocks only, for trials."""
    depth, width, heads = SIZES[size]
    check_choice("norm", norm, NORMS)
    check_positive(layers=depth if layers is None else layers)
    # The paper's code leaves the gains as they were loaded.
    model = ImageGPT(num_classes, layers or depth, width, heads, norm, lm_head)
    if not train_gains:
        for module in model.modules():
            if isinstance(module, GainNorm):
                module.weight.requires_grad_(False)
    return model


def _from_released(name: str, array: np.ndarray, width: int) -> tuple[str, torch.Tensor]:
    """Return our name and layout of one variable; q, k, v and sos are still apart."""
    value = torch.from_numpy(np.array(array, dtype=np.float32)).squeeze()
    # The embeddings and the last norm, then what is in a block.
    scopes = name.removeprefix("model/").split("/")
    if scopes[0] in ("wpe", "wte", "sos", "wtet"):
        return {"wtet": "lm_head"}.get(scopes[0], scopes[0]) + ".weight", value
    if scopes[0] == "ln_f":
        return "ln_f.weight", value
    block = f"h.{scopes[0].removeprefix('h')}"
    if scopes[1] in ("ln_1", "ln_2"):
        return f"{block}.{scopes[1]}.weight", value
    if scopes[1] == "mlp":  # linear maps are stored (inputs, outputs)
        ours = {"c_fc": "c_fc", "c_proj": "mlp_proj"}[scopes[2]]
        leaf = "weight" if scopes[3] == "w" else "bias"
        return f"{block}.{ours}.{leaf}", value.T.contiguous() if leaf == "weight" else value
    value = value.reshape(width, width)  # (heads, features of a head, width)
    if scopes[2] == "c_proj":
        return f"{block}.c_proj.weight", value.T.contiguous()
    return f"{block}.{scopes[2]}", value


def released_state(arrays: Mapping[str, Any], width: int) -> dict[str, torch.Tensor]:
    """Return our names' weights, from a released checkpoint read as {variable name: array}.

    Where TensorFlow is at hand, tf.train.list_variables and load_variable read one. Biases, which
    the released model does not have, are missing here.
    """
    state: dict[str, torch.Tensor] = {}
    for name, array in arrays.items():
        # The optimizer's variables are no weights.
        if any(part in _OPTIMIZER for part in name.split("/")):
            continue
        try:
            ours, value = _from_released(name, array, width)
        except (IndexError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"{name} of shape {np.shape(array)} is not a variable of an Image GPT of width "
                f"{width}"
            ) from error
        state[ours] = value
    # The start token is our embedding's last row; q, k and v are one linear map.
    if "wte.weight" in state and "sos.weight" in state:
        state["wte.weight"] = torch.cat([state["wte.weight"], state.pop("sos.weight")[None]])
    for block in {key.rpartition(".")[0] for key in state if key.endswith(".q_proj")}:
        parts = [state.pop(f"{block}.{part}_proj", None) for part in "qkv"]
        whole = [part for part in parts if part is not None]
        if len(whole) == 3:
            state[f"{block}.c_attn.weight"] = torch.cat(whole)
    return state


def hub_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights under our names, from a state dict of the Hub's openai/imagegpt-* (names of
    `transformers`), or as they are if they have our names already.
    """
    if not any(name.startswith("transformer.") for name in state):
        return dict(state)
    # Drop the causal masks, rename, and turn the linear maps.
    ours = {}
    for name, value in state.items():
        name = name.removeprefix("transformer.")
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue  # the causal mask
        for theirs, own in ((".attn.", "."), (".mlp.c_proj", ".mlp_proj"), (".mlp.", ".")):
            name = name.replace(theirs, own)
        linear = (name.endswith(".weight") and ".c_" in name) or name.endswith("mlp_proj.weight")
        ours[name] = value.T.contiguous() if linear else value  # stored (inputs, outputs)
    return ours


ARCHITECTURES = tuple(
    Architecture(name, "igpt", 32, igpt, {"size": name}, "5b" if name == "igpt_s" else "")
    for name in SIZES
)
