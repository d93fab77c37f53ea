"""The bundled labeler: a pre-activation ResNet-18 of width 32 with crop, flip and cutout.

Its ImageNet stem divides by 4, so images of 32 px are resized to 128, as for BiT.
"""

import argparse
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tiny_common import autocast, crop, cutout, fastest_mode, flip, load_cifar10, to_signed

from worlds.runtime.device import place, training_layout
from worlds.runtime.torchvision_ops import declare_missing_operators

SIZE = 128
CONFIG = {
    "architecture": "resnetv2_18",
    "num_classes": 10,
    "mirror": True,
    "model_args": {"channels": [32, 64, 128, 256], "stem_chs": 32},
    "pretrained_cfg": {
        "input_size": [3, SIZE, SIZE],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "num_classes": 10,
    },
}


class LabelerTask:
    """What the training loop needs to know of the labeler."""

    name = "labeler"
    warmup_steps = 500

    def __init__(self, args: argparse.Namespace) -> None:
        declare_missing_operators()
        import timm

        torch.manual_seed(args.seed)
        self.args, self.device = args, torch.device(args.device)
        if args.initial is None:
            model = timm.create_model(
                CONFIG["architecture"], num_classes=10, **CONFIG["model_args"]
            )
        else:
            model = timm.create_model(f"local-dir:{args.initial}", pretrained=True).float()
        self.layout = training_layout(model, self.device)
        self.model = place(model, self.device, self.layout)
        images, labels = load_cifar10(args.data, "train")
        self.images = to_signed(torch.from_numpy(images).to(self.device))
        self.labels = torch.from_numpy(labels).to(self.device)
        self.optimizers = [self._optimizer()]
        self.mode: str = args.mode
        if self.mode == "auto":
            self.mode = fastest_mode(self.model, self._try, args.batch)

    def _optimizer(self) -> torch.optim.Optimizer:
        """SGD, with weight decay for matrices alone."""
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 5e-4},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.SGD(groups, self.args.lr, momentum=0.9, nesterov=True)

    def _classify(self, x: torch.Tensor) -> torch.Tensor:
        size = (SIZE, SIZE)
        return self.model(F.interpolate(x, size, mode="bilinear", align_corners=False))

    @cached_property
    def _compiled(self) -> Any:
        return torch.compile(self._classify)

    def next_loss(self, step: int) -> torch.Tensor:
        """Return the loss of a batch in the order of its epoch, each image once an epoch."""
        per_epoch = max(1, len(self.images) // self.args.batch)
        seed = self.args.seed * 7919 + step // per_epoch
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))
        chosen = order[step % per_epoch * self.args.batch :][: self.args.batch].to(self.device)
        g = torch.Generator(self.device).manual_seed(self.args.seed * 1_000_003 + step)
        return self._loss(chosen, g)

    def _loss(self, chosen: torch.Tensor, g: torch.Generator) -> torch.Tensor:
        x = crop(flip(self.images[chosen], g), g)
        if self.args.cutout:
            x = cutout(x, g, self.args.cutout)
        network = self._compiled if self.mode.startswith("compiled") else self._classify
        with autocast(self.mode, self.device):
            logits = network(x.contiguous(memory_format=self.layout))
        return F.cross_entropy(logits.float(), self.labels[chosen], label_smoothing=0.1)

    @torch.no_grad()
    def probe(self) -> float:
        """Return the error on the first 1,000 training images, without augmentation."""
        self.model.eval()
        parts = self.images[:1000].split(100)
        found = torch.cat([self._classify(part).argmax(1) for part in parts])
        self.model.train()
        return (found != self.labels[:1000]).float().mean().item()

    def _try(self, mode: str) -> None:
        self.mode = mode
        chosen = torch.arange(min(self.args.batch, len(self.images)), device=self.device)
        self._loss(chosen, torch.Generator(self.device).manual_seed(0)).backward()

    def average_decay(self, step: int) -> float:
        return min(self.args.ema, 0.998) if step < 1000 else self.args.ema

    @property
    def directory(self) -> Path:
        return self.args.out / "labeler"

    def save(self, directory: Path) -> None:
        """Write the model as a timm directory, its numbers in half precision."""
        from safetensors.torch import save_file

        directory.mkdir(parents=True, exist_ok=True)
        state: dict[str, Any] = self.model.state_dict()
        halves = {
            name: value.half().contiguous() if value.is_floating_point() else value
            for name, value in state.items()
        }
        save_file(halves, directory / "model.safetensors", metadata={"format": "pt"})
        (directory / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
