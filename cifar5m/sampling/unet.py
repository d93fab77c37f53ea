"""The generator: a diffusers `UNet2DModel` that predicts noise, made fast.

The state stays float32, and so do the parameters unless the precision is bf16-weights; the others
are those of the network's products alone. Memory is channels_last everywhere (1.4 times the speed
of NCHW in float32 on two CPU cores), and on a GPU the network is compiled for the one batch shape
that is ever used, with choices that do not depend on timing, so that the same device and versions
make the same bytes.
"""

import warnings
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F

from cifar5m.sampling.group_norm import fuse_norms, use_half_weights
from cifar5m.weights.convert import UNET_CONFIG, build_unet, read_state, unet_state
from cifar5m.weights.sources import Weights, WeightsError
from worlds.runtime.device import device_name, float32_by_choice, in_precision, on_device
from worlds.runtime.errors import first_line, lacks_memory
from worlds.runtime.precision import check_precision
from worlds.runtime.selfcheck import passes
from worlds.runtime.torchvision_ops import declare_missing_operators

# How far the compiled network may be from the plain one, as a share of the result's length.
TOLERANCES: Final = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 5e-3, "bf16": 3e-2, "bf16-weights": 3e-2}


class Generator:
    """A noise predictor `generator(x, t)` on one device, in one precision.

    `x` is float32 (B, 3, 32, 32), `t` the time step, 0 to T - 1 (or a scalar on the device), and
    `classes` int64 (B,) for a network with class embeddings; the result is float32, shaped like x.
    """

    def __init__(self, network: torch.nn.Module, device: torch.device, precision: str) -> None:
        check_precision(precision)
        self.device, self.precision = device, precision
        self._autocast, self._dtype, self._note = precision, torch.float32, ""
        if precision == "bf16-weights":
            use_half_weights(network)
            self._autocast, self._dtype = "fp32", torch.bfloat16
        self.network = on_device(network, device)
        self._call: Callable[..., Any] | None = self.network
        if device.type == "cuda":
            keep_channels_last(self.network)
            self._call = None  # chosen for the first batch
            if precision == "bf16-weights" and not fuse_norms(self.network, device):
                self._note = ", plain norms"

    @property
    def device_name(self) -> str:
        """Return the device's name in a shard's record, with what makes the network round otherwise
        than on its like.
        """
        uncompiled = self.device.type == "cuda" and self._call is self.network
        return device_name(self.device) + (", uncompiled" if uncompiled else "") + self._note

    @property
    def name(self) -> str:
        """Return what a check of this network is remembered by."""
        return f"U-Net, {self.parameters:,} parameters, {self.precision}"

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    @torch.inference_mode()
    def __call__(
        self, x: torch.Tensor, t: int | torch.Tensor, classes: torch.Tensor | None = None
    ) -> torch.Tensor:
        if not isinstance(t, torch.Tensor):
            t = torch.full((), t, device=self.device)
        time_step = t.repeat(len(x))  # (B,)
        x = x.to(self._dtype).contiguous(memory_format=torch.channels_last)
        with in_precision(self._autocast, self.device):
            if self._call is None:
                self._call = self._choose(x, time_step, classes)
            return self._call(x, time_step, classes, return_dict=False)[0].float()

    def _choose(self, *batch: torch.Tensor | None) -> Callable[..., Any]:
        """Return the compiled network, or the plain one if that differs or cannot be had here."""
        # Compared on the first batch, and remembered for this machine.
        compiled = compile_network(self.network)

        def is_close() -> bool:
            found, expected = (
                call(*batch, return_dict=False)[0].float() for call in (compiled, self.network)
            )
            tolerance = TOLERANCES[self.precision] * expected.norm()
            return bool((found - expected).norm() <= tolerance)

        with float32_by_choice():
            if not passes(f"compiled {self.name}", self.device, is_close, "the network uncompiled"):
                return self.network
            compiled(*batch, return_dict=False)  # compiles, where the check was remembered
        return compiled


def compile_network(network: torch.nn.Module) -> Callable[..., Any]:
    """Return the network compiled by Inductor without choices by timing, which may sum in another
    order in the next process; older versions of torch have no such setting.
    """
    from torch._inductor import config

    if hasattr(config, "deterministic"):
        return torch.compile(network, options={"deterministic": True})
    warnings.warn(
        f"torch {torch.__version__} chooses compiled kernels by timing: another process may make "
        "other bytes; a later version does not",
        RuntimeWarning,
        stacklevel=4,
    )
    return torch.compile(network)


def keep_channels_last(network: torch.nn.Module) -> None:
    """Let diffusers' upsampling keep its input's memory layout, which from batches of 64 it copies
    for the sake of older versions of torch.
    """
    declare_missing_operators()
    from diffusers.models.upsampling import Upsample2D

    class Upsample(Upsample2D):
        def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            found: torch.Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            return found

    # Only plain upsampling is replaced: nearest neighbor, then a convolution.
    for module in network.modules():
        plain = type(module) is Upsample2D and module.interpolate and module.norm is None
        if plain and hasattr(module, "conv") and not module.use_conv_transpose:
            module.__class__ = Upsample


def load_unet(weights: Weights) -> torch.nn.Module:
    """Load the U-Net of a diffusers directory, or of a file in the published layout of Ho's
    checkpoint.

    Raises WeightsError unless its tensors are exactly those of its config, and it maps
    3 x 32 x 32 to 3 x 32 x 32.
    """
    # A bare file is Ho's checkpoint, whose config is known.
    if weights.folder is None:
        return build_unet(unet_state(read_state(weights.file), UNET_CONFIG), UNET_CONFIG)
    declare_missing_operators()
    config = weights.config or {}
    try:
        # Weights that are not finite are left to the guard on the network's output.
        state = unet_state(read_state(weights.file), config, finite=False)
        network: Any = build_unet(state, config)
    except Exception as error:  # of diffusers, of safetensors, of pickle
        if lacks_memory(error):
            raise
        raise WeightsError(
            f"{weights.folder} does not load as a diffusers UNet2DModel: {first_line(error)}"
        ) from error
    # The samplers make 3 x 32 x 32 images and nothing else.
    shape = (network.config.in_channels, network.config.out_channels, network.config.sample_size)
    if shape != (3, 3, 32):
        raise WeightsError(
            f"the generator must map 3 x 32 x 32 to 3 x 32 x 32, {weights.folder} has "
            f"in_channels {shape[0]}, out_channels {shape[1]}, sample_size {shape[2]}"
        )
    return network
