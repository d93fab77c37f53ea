"""Group normalization of half-precision networks, with the SiLU that follows it.

Statistics, scale and shift are float32, input and output are the network's half precision. Two ways
make it: `normalize_plain`, and on a GPU a Triton kernel with fixed tiles (`group_norm_kernel.py`),
which no timing chooses. The kernel is the operator `deep_bootstrap::group_norm`, so that
`torch.compile` keeps it as it is; on a CPU the operator is the plain way.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from worlds.runtime.selfcheck import passes

_BATCH, _SIDE = 2, 12  # of the images that check the kernel; the last tile of pixels is not full


def normalize_plain(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float, silu: bool
) -> torch.Tensor:
    """Return x (B, C, H, W) normalized in float32, then `silu`, in the type of x."""
    normalized = F.group_norm(x.float(), groups, weight, bias, eps)  # float32 (B, C, H, W)
    shown = F.silu(normalized) if silu else normalized
    return shown.to(x.dtype, memory_format=torch.channels_last)


normalize = torch.library.custom_op(
    "deep_bootstrap::group_norm", normalize_plain, mutates_args=(), device_types="cpu"
)


@normalize.register_kernel("cuda")
def _normalize_on_gpu(x: torch.Tensor, *given: Any) -> torch.Tensor:
    from cifar5m.sampling.group_norm_kernel import normalize_fused

    with torch.cuda.device(x.device):  # Triton launches on the current one
        return normalize_fused(x, *given)


@normalize.register_fake
def _like_its_input(x: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


class FixedGroupNorm(nn.GroupNorm):
    """A GroupNorm with float32 parameters in a half-precision network. `silu` is applied to the
    result; `fused` takes the operator.
    """

    silu = False
    fused = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels = x.reshape(*x.shape[:2], -1, 1)  # (B, C, H, W) or, in attention, (B, C, H * W)
        way = normalize if self.fused else normalize_plain
        found = way(pixels, self.weight, self.bias, self.num_groups, self.eps, self.silu)
        return found.reshape(x.shape)


class _SiLUOfVectors(nn.Module):
    """The activation of a block whose normalizations apply it to images: the time embedding's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(x) if x.ndim == 2 else x


def use_half_weights(network: Any, dtype: torch.dtype = torch.bfloat16) -> None:
    """Cast a diffusers U-Net's weights to `dtype` once, without those of its group normalizations,
    and let these apply the SiLU that follows.
    """
    from diffusers.models.resnet import ResnetBlock2D

    # Weights in half precision, but for those of the normalizations.
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.__class__ = FixedGroupNorm
            continue
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)
    # Blocks whose SiLU follows a normalization hand it over.
    for block in network.modules():
        plain = isinstance(block, ResnetBlock2D) and block.time_embedding_norm == "default"
        if plain and isinstance(block.nonlinearity, nn.SiLU):
            block.norm1.silu = block.norm2.silu = True
            block.nonlinearity = _SiLUOfVectors()
    if isinstance(network.conv_act, nn.SiLU):
        network.conv_norm_out.silu, network.conv_act = True, nn.Identity()


def fuse_norms(network: nn.Module, device: torch.device) -> bool:
    """Let the network's normalizations take the operator if it passes its check on the device."""
    norms = [module for module in network.modules() if isinstance(module, FixedGroupNorm)]
    kinds = sorted({(norm.num_channels, norm.num_groups) for norm in norms})
    if not passes(
        f"Triton group norm, {kinds}", device, lambda: _is_close(norms, device), "PyTorch"
    ):
        return False
    for norm in norms:
        norm.fused = True
    return True


def _is_close(norms: list[FixedGroupNorm], device: torch.device) -> bool:
    """Return whether the operator's results are the plain way's but for a rounding."""
    distinct = {(norm.num_channels, norm.num_groups, norm.silu): norm for norm in norms}
    for norm in distinct.values():
        x = torch.randn(_BATCH, norm.num_channels, _SIDE, _SIDE).to(device, torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last)
        given = x, norm.weight, norm.bias, norm.num_groups, norm.eps, norm.silu
        found, expected = normalize(*given).float(), normalize_plain(*given).float()
        if not torch.allclose(found, expected, rtol=2**-7, atol=1e-4):
            return False
    return True
