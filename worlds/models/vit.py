"""Vision Transformer for 32 px (Dosovitskiy et al. 2020): ViT-B/4 of figures 1, 8 and 13.

The paper follows an early PyTorch version that differs from today's in four ways. Its attention
logits are scaled by 768^-0.5, the full width, where 64^-0.5, the head's, is the rule
(`attention_scale="head"`); class token and position embedding start from N(0, 1) (`embedding_std`);
no norm follows the stack but the one in the head; the head has a hidden layer. The fine-tuned net
of figure 13 starts from a last layer of zeros without bias: `zero_head=True`.

Nets of another `width` have other numbers of heads, of 64 channels each, and the same scale.
"""

import torch
import torch.nn.functional as F
from torch import nn

from worlds.models.layers import check_choice, check_positive
from worlds.models.registry import Architecture

WIDTH, HEAD, LAYERS = 768, 64, 12  # ViT-B


class Attention(nn.Module):
    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, width // HEAD, HEAD)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, tokens, 64)
        attended = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.out(attended.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, scale)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    def __init__(
        self, num_classes: int, patch: int, width: int, layers: int, scale: float, std: float
    ) -> None:
        super().__init__()
        tokens = (32 // patch) ** 2 + 1  # and the class token
        self.patch = patch
        self.embed = nn.Linear(3 * patch * patch, width)
        self.class_token = nn.Parameter(std * torch.randn(1, 1, width))
        self.positions = nn.Parameter(std * torch.randn(1, tokens, width))
        self.blocks = nn.Sequential(*(Block(width, scale) for _ in range(layers)))
        self.head = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, num_classes),
        )

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, patches, 3 p^2): raster order, values by (row, column, channel)."""
        batch, channels, height, width = x.shape
        p = self.patch  # pixels a side
        x = x.reshape(batch, channels, height // p, p, width // p, p).permute(0, 2, 4, 3, 5, 1)
        return x.reshape(batch, -1, p * p * channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The class token stands first; only it goes to the head.
        tokens = self.embed(self.patches(x))
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], dim=1)
        return self.head(self.blocks(tokens + self.positions)[:, 0])


def zero_last_layer(model: VisionTransformer) -> None:
    """Replace the head's last layer by zeros without bias, as the paper's fine-tuning starts."""
    last = model.head[-1]
    assert isinstance(last, nn.Linear)
    fresh = nn.Linear(last.in_features, last.out_features, bias=False, device=last.weight.device)
    nn.init.zeros_(fresh.weight)
    model.head[-1] = fresh


def vit_b(
    num_classes: int,
    patch: int,
    width: int = WIDTH,
    layers: int = LAYERS,
    attention_scale: str = "width",
    embedding_std: float = 1.0,
    zero_head: bool = False,
) -> VisionTransformer:
    check_positive(width=width, layers=layers)
    if width % HEAD:
        raise ValueError(f"width must be a multiple of {HEAD}, the size of a head, got {width}")
    check_choice("attention_scale", attention_scale, ("width", "head"))
    if embedding_std < 0:
        raise ValueError(f"embedding_std must not be negative, got {embedding_std}")
    # The paper's code divides by the root of the full width.
    fan = WIDTH if attention_scale == "width" else HEAD
    model = VisionTransformer(num_classes, patch, width, layers, fan**-0.5, embedding_std)
    if zero_head:
        zero_last_layer(model)
    return model


ARCHITECTURES = (
    Architecture("vit_b4", "vit", 32, vit_b, {"patch": 4}, "1 8 13"),
    Architecture("vit_b8", "vit", 32, vit_b, {"patch": 8}),
)
