"""The bundled generator: its network, and a loss that spends its steps where structure forms.

Times are drawn with ln sigma normal around -0.35 with deviation 1.1, where sigma^2 is the noise
variance over the signal's, mixed with 20 % uniform ones; of uniform times alone half lie above
sigma 3.4, where hardly anything can be seen. The noise error has weight 1 + 4 sigma^2, at most 300.
"""

import argparse
import json
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tiny_common import autocast, fastest_mode, flip, load_cifar10, to_signed

from worlds.runtime.device import place, training_layout
from worlds.runtime.torchvision_ops import declare_missing_operators

CLASSES = 10
NULL_CLASS = CLASSES  # the last embedding, for "no class"
DROPPED = 0.1  # share of samples whose class is replaced by the null class
TIMES = 1000
PROBE_SEED, PROBE_BATCHES, PROBE_BATCH = 10**9, 8, 64
# What two CPU cores can train (2.7 M parameters, attention at 8 px), and what a GPU can.
CHANNELS = {"cpu": (32, 64, 128), "cuda": (64, 128, 192)}


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal by five Newton-Schulz steps, for convolutions seen as matrices
    (Jordan et al. 2024), at the update size of Adam (Liu et al. 2025).
    """

    def __init__(self, params: Any, lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            # Matrices of one shape are made orthogonal together: a launch for all of them.
            shapes: dict[torch.Size, list[torch.Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for alike in shapes.values():
                self._update(alike, group["lr"], group["momentum"])

    def _update(self, alike: list[torch.Tensor], lr: float, momentum: float) -> None:
        """Move parameters of one shape."""
        for parameter in alike:
            if "m" not in self.state[parameter]:
                self.state[parameter]["m"] = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in alike]
        kept = [self.state[parameter]["m"] for parameter in alike]
        torch._foreach_lerp_(kept, gradients, 1 - momentum)
        blended = torch._foreach_lerp(gradients, kept, momentum)
        updates = orthogonalize(torch.stack([each.flatten(1) for each in blended]))  # (K, N, M)
        size = 0.2 * math.sqrt(max(updates.shape[1:]))
        moves = [update.view_as(p) for update, p in zip(updates, alike, strict=True)]
        torch._foreach_add_(alike, moves, alpha=-lr * size)


def orthogonalize(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Return about the nearest matrices whose singular values are all 1, of (..., N, M)."""
    a, b, c = 3.4445, -4.7750, 2.0315  # Jordan's quintic: steepest at 0, within 0.3 of 1 at the end
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


def network_config(channels: tuple[int, ...], device: str, conditional: bool) -> dict[str, Any]:
    """Return the diffusers config: attention at one level, the last on a CPU, the second on a GPU
    (where there are three).
    """
    levels = len(channels)
    attention = levels - 1 if device == "cpu" else max(levels - 2, 0)
    down = ["AttnDownBlock2D" if i == attention else "DownBlock2D" for i in range(levels)]
    config: dict[str, Any] = {
        "sample_size": 32,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": channels,
        "down_block_types": tuple(down),
        "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(down)),
        "norm_num_groups": math.gcd(16, *channels),
        "attention_head_dim": None,
    }
    return config | ({"num_class_embeds": CLASSES + 1} if conditional else {})


def build_network(args: argparse.Namespace) -> torch.nn.Module:
    """Return the network to train: that of --initial, given class embeddings if it lacks them, or
    one with random weights.
    """
    declare_missing_operators()
    from diffusers import UNet2DModel

    if args.initial is None:
        return UNet2DModel(**network_config(args.channels, args.device, args.conditional))
    config = json.loads((args.initial / "config.json").read_text())
    had = config.get("num_class_embeds")
    if had not in ((None, CLASSES + 1) if args.conditional else (None,)):
        raise ValueError(
            f"--initial {args.initial} has {had} class embeddings, expected "
            + (f"none or {CLASSES + 1}" if args.conditional else "none: give --conditional")
        )
    initial = UNet2DModel.from_pretrained(args.initial, low_cpu_mem_usage=False).float()
    if had is not None or not args.conditional:
        return initial
    # Embeddings of zero leave the network as it was until they are trained.
    network = UNet2DModel.from_config(dict(initial.config) | {"num_class_embeds": CLASSES + 1})
    state = initial.state_dict()
    state["class_embedding.weight"] = torch.zeros_like(network.class_embedding.weight)
    network.load_state_dict(state)
    return network


class GeneratorTask:
    """What the training loop needs to know of the generator."""

    name = "generator"
    warmup_steps = 0

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.args, self.device = args, torch.device(args.device)
        model = build_network(args)
        self.layout = training_layout(model, self.device)
        self.model = place(model, self.device, self.layout)
        images, labels = load_cifar10(args.data, "train")
        self.images = torch.from_numpy(images).to(self.device)
        self.labels = torch.from_numpy(labels).to(self.device)
        # sigma^2 is the noise variance over the signal's
        alphas_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, TIMES, dtype=torch.float64), 0)
        self.sigmas = ((1 - alphas_bar) / alphas_bar).sqrt().float().to(self.device)
        self.alphas_bar = alphas_bar.float().to(self.device)
        self.optimizers = self._optimizers()
        self.mode: str = args.mode
        if self.mode == "auto":
            self.mode = fastest_mode(self.model, self._try, args.batch)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam, or Muon for the convolutions between first and last and Adam for the rest."""
        named = dict(self.model.named_parameters())
        if self.args.optimizer == "adam":
            return [torch.optim.Adam(named.values(), self.args.lr)]
        inner = [
            name
            for name, parameter in named.items()
            if parameter.ndim == 4 and "conv_in" not in name and "conv_out" not in name
        ]
        rest = [parameter for name, parameter in named.items() if name not in inner]
        muon = Muon([named[name] for name in inner], self.args.lr)
        return [muon, torch.optim.Adam(rest, self.args.lr)]

    @cached_property
    def _compiled(self) -> Any:
        return torch.compile(self.model)

    def next_loss(self, step: int) -> torch.Tensor:
        return self._loss(self.draw(self.args.batch, self.args.seed * 1_000_003 + step + 7))

    @torch.no_grad()
    def probe(self) -> float:
        """Return the loss of fixed batches, which compares between steps and runs."""
        batches = (self.draw(PROBE_BATCH, PROBE_SEED + i) for i in range(PROBE_BATCHES))
        return sum(self._loss(batch).item() for batch in batches) / PROBE_BATCHES

    def draw(self, count: int, seed: int) -> tuple[torch.Tensor, ...]:
        """Return images (B, 3, 32, 32), classes (B,), times (B,) and noise as the images."""
        device = self.device
        g = torch.Generator(device).manual_seed(seed)
        chosen = torch.randint(0, len(self.images), (count,), generator=g, device=device)
        x = flip(to_signed(self.images[chosen]), g).contiguous(memory_format=self.layout)
        dropped = torch.rand(count, generator=g, device=device) < DROPPED
        classes = torch.where(dropped, NULL_CLASS, self.labels[chosen])
        times = self._draw_times(count, g)
        noise = torch.randn(x.shape, generator=g, device=device)
        return x, classes, times, noise.contiguous(memory_format=self.layout)

    def _draw_times(self, count: int, g: torch.Generator) -> torch.Tensor:
        device = self.device
        wanted = torch.randn(count, generator=g, device=device) * 1.1 - 0.35  # ln sigma
        times = torch.searchsorted(self.sigmas.log(), wanted).clamp(0, TIMES - 1)
        uniform = torch.randint(0, TIMES, (count,), generator=g, device=device)
        return torch.where(torch.rand(count, generator=g, device=device) < 0.2, uniform, times)

    def _loss(self, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        x, classes, times, noise = batch
        a = self.alphas_bar[times].view(-1, 1, 1, 1)
        noisy = a.sqrt() * x + (1 - a).sqrt() * noise
        network = self._compiled if self.mode.startswith("compiled") else self.model
        asked = classes if self.args.conditional else None
        with autocast(self.mode, self.device):
            predicted = network(noisy, times, asked, return_dict=False)[0]
        weight = (1 + 4 * self.sigmas[times].square()).clamp(max=300)
        return (weight * (predicted.float() - noise).square().mean((1, 2, 3))).mean()

    def _try(self, mode: str) -> None:
        self.mode = mode
        self._loss(self.draw(self.args.batch, 0)).backward()

    def average_decay(self, step: int) -> float:
        return min(self.args.ema, 0.998) if step < 1000 else self.args.ema

    @property
    def directory(self) -> Path:
        return self.args.out / ("conditional" if self.args.conditional else "generator")

    def save(self, directory: Path) -> None:
        """Write the model as an fp16 diffusers directory."""
        self.model.half().save_pretrained(directory, safe_serialization=True)
        # Where the weights came from is this machine's matter.
        path = directory / "config.json"
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n")
