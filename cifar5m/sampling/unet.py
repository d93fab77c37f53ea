"""The generator: a diffusers `UNet2DModel` that predicts noise, made fast.

The parameters and the state stay float32; the chosen precision is that of the network's products
alone. Memory is channels_last everywhere (1.4 times the speed of NCHW in float32 on two CPU cores),
and on a GPU the network is compiled for the one batch shape that is ever used.
"""

from collections.abc import Callable
from typing import Any

import torch

from cifar5m.weights.convert import UNET_CONFIG, build_unet, read_state, unet_state
from cifar5m.weights.sources import Weights, WeightsError
from worlds.runtime.device import in_precision, on_device
from worlds.runtime.errors import first_line
from worlds.runtime.precision import check_precision
from worlds.runtime.torchvision_ops import declare_missing_operators


class Generator:
    """A noise predictor `generator(x, t)` on one device, in one precision.

    `x` is float32 (B, 3, 32, 32), `t` the time step, 0 to T - 1, and `classes` int64 (B,) for a
    network with class embeddings; the result is float32, shaped like x.
    """

    def __init__(self, network: torch.nn.Module, device: torch.device, precision: str) -> None:
        check_precision(precision)
        self.device, self.precision = device, precision
        self.network = on_device(network, device)
        self._call: Callable[..., Any] = self.network
        if device.type == "cuda":
            self._call = torch.compile(self.network)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    @torch.inference_mode()
    def __call__(
        self, x: torch.Tensor, t: int, classes: torch.Tensor | None = None
    ) -> torch.Tensor:
        time_step = torch.full((len(x),), t, device=self.device)
        x = x.contiguous(memory_format=torch.channels_last)
        with in_precision(self.precision, self.device):
            return self._call(x, time_step, classes, return_dict=False)[0].float()


def load_unet(weights: Weights) -> torch.nn.Module:
    """Load the U-Net of a diffusers directory, or of a file in the published layout of Ho's
    checkpoint.

    Raises WeightsError unless its tensors are exactly those of its config, and it maps
    3 x 32 x 32 to 3 x 32 x 32.
    """
    if weights.folder is None:
        return build_unet(unet_state(read_state(weights.file), UNET_CONFIG), UNET_CONFIG)
    declare_missing_operators()
    config = weights.config or {}
    try:
        # Weights that are not finite are left to the guard on the network's output.
        state = unet_state(read_state(weights.file), config, finite=False)
        network: Any = build_unet(state, config)
    except Exception as error:  # of diffusers, of safetensors, of pickle
        raise WeightsError(
            f"{weights.folder} does not load as a diffusers UNet2DModel: {first_line(error)}"
        ) from error
    shape = (network.config.in_channels, network.config.out_channels, network.config.sample_size)
    if shape != (3, 3, 32):
        raise WeightsError(
            f"the generator must map 3 x 32 x 32 to 3 x 32 x 32, {weights.folder} has "
            f"in_channels {shape[0]}, out_channels {shape[1]}, sample_size {shape[2]}"
        )
    return network
