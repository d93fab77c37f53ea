"""Train the two networks of the bundled recipe `tiny` on CIFAR-10 photographs.

    python tools/train_tiny.py generator --data ../shared/data --images 15000000 --device cuda
    python tools/train_tiny.py labeler   --data ../shared/data --epochs 60 --device cuda

Each run keeps its state in --work (default runs/tiny) every few minutes; the same command goes on
from there. At the end the weights are written as fp16 safetensors to
cifar5m/tiny/{generator,labeler}: a diffusers folder and a timm folder. Then `python
tools/card_tiny.py` measures them and writes the model card.
"""

import argparse
import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from worlds.runtime.torchvision_ops import declare_missing_operators

REPO = Path(__file__).resolve().parent.parent
UNET = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 1,
    "block_out_channels": (64, 128, 192),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 16,
    "attention_head_dim": None,
}
# What two CPU cores can train in 90 minutes: 2.7 M parameters, attention at 8 px only.
UNET_CPU = UNET | {
    "block_out_channels": (32, 64, 128),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
}
# Pre-activation ResNet-18 of width 32. Its ImageNet stem divides by 4, so 32 px images are resized
# to 128 as for BiT.
LABELER = {
    "architecture": "resnetv2_18",
    "num_classes": 10,
    "model_args": {"channels": [32, 64, 128, 256], "stem_chs": 32},
    "pretrained_cfg": {
        "input_size": [3, 128, 128],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "num_classes": 10,
    },
}


def load_cifar10(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The JPEG copy of CIFAR-10: uint8 (N, 32, 32, 3) and int64 (N,)."""
    spec = importlib.util.spec_from_file_location("cifar10_jpeg", folder / "cifar10_jpeg.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(split)


def to_signed(images: np.ndarray, device: str) -> torch.Tensor:
    """uint8 (N, 32, 32, 3) to float32 (N, 3, 32, 32) in [-1, 1], channels_last."""
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last)


def flip(x: torch.Tensor) -> torch.Tensor:
    """Mirror each image with probability one half."""
    return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)


def crop(x: torch.Tensor, pad: int = 4) -> torch.Tensor:
    """A random 32 x 32 window of each image after zero padding."""
    padded = F.pad(x, (pad,) * 4)
    top, left = torch.randint(0, 2 * pad + 1, (2, len(x), 1, 1, 1), device=x.device)
    steps = torch.arange(32, device=x.device)
    batch = torch.arange(len(x), device=x.device).view(-1, 1, 1, 1)
    channel = torch.arange(3, device=x.device).view(1, -1, 1, 1)
    return padded[batch, channel, top + steps.view(1, 1, -1, 1), left + steps]


def cutout(x: torch.Tensor, size: int) -> torch.Tensor:
    """Gray out one square of `size` px in each image, its centre uniform."""
    centre_y, centre_x = torch.randint(0, 32, (2, len(x), 1, 1, 1), device=x.device)
    steps = torch.arange(32, device=x.device) + size // 2
    rows = (steps.view(-1, 1) >= centre_y) & (steps.view(-1, 1) < centre_y + size)
    columns = (steps >= centre_x) & (steps < centre_x + size)
    return x.masked_fill(rows & columns, 0.0)


def cosine(progress: float, warmup: float) -> float:
    """Learning-rate factor: linear up over the first `warmup` of the run, cosine down to 0."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


class Average:
    """Exponential moving average of a model's parameters and buffers, corrected for its first
    steps.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.values = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                self.values[name].lerp_(value, 1 - decay)
            else:
                self.values[name].copy_(value)


def train(
    args: argparse.Namespace,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average,
    total: int,
    warmup: float,
    next_loss: Callable[[int], torch.Tensor],
) -> None:
    """Run `total` optimizer steps from the last saved state, with progress on stderr."""
    state_file = args.work / f"{args.what}.pt"
    step, spent = 0, 0.0
    if state_file.exists():
        state: dict[str, Any] = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.values, average.steps = state["average"], state["average_steps"]
        step, spent = state["step"], state["seconds"]
        print(f"resumed at step {step} of {total}", file=sys.stderr)
    start, first, saved, losses = time.time(), step, time.time(), []
    model.train()
    while step < total:
        for group in optimizer.param_groups:
            group["lr"] = args.lr * cosine((step + 1) / total, warmup)
        torch.manual_seed(
            args.seed * 1_000_003 + step
        )  # a resumed run draws what the unbroken one would
        loss = next_loss(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        step += 1
        losses.append(loss.detach())
        if step % 100 == 0:
            rate = (step - first) / (time.time() - start)
            mean = torch.stack(losses).mean().item()
            losses.clear()
            left = (total - step) / rate / 60
            print(
                f"step {step}/{total} loss {mean:.4f} {rate:.2f} steps/s, {left:.0f} min left",
                file=sys.stderr,
            )
        if time.time() - saved > 180 or step == total:
            saved = time.time()
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average.values,
                "average_steps": average.steps,
                "step": step,
                "seconds": spent + saved - start,
            }
            torch.save(state, f"{state_file}.tmp")
            os.replace(f"{state_file}.tmp", state_file)


def write_facts(args: argparse.Namespace, folder: Path, model: torch.nn.Module) -> None:
    """training.json beside the weights: what the model card says of the training."""
    state = torch.load(args.work / f"{args.what}.pt", weights_only=True)
    options = {k: str(v) for k, v in vars(args).items() if k not in ("run", "what", "work", "out")}
    facts = {
        "data": "CIFAR-10 (JPEG copy), the 50,000 training images",
        "images_seen": state["step"] * args.batch,
        "minutes": round(state["seconds"] / 60, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "options": options | {"data": args.data.name},
        "torch": torch.__version__,
    }
    (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n")


def min_snr_loss(
    network: Callable[..., Any],
    images: torch.Tensor,
    noise: torch.Tensor,
    time_step: torch.Tensor,
    alpha_bar: torch.Tensor,
) -> torch.Tensor:
    """Noise-prediction loss with weight min(SNR, 5) / SNR (Hang et al. 2023)."""
    a = alpha_bar[time_step].view(-1, 1, 1, 1)
    noisy = a.sqrt() * images + (1 - a).sqrt() * noise
    with torch.autocast(images.device.type, torch.bfloat16):
        predicted = network(noisy, time_step, return_dict=False)[0]
    signal_to_noise = (a / (1 - a)).flatten()
    weight = signal_to_noise.clamp(max=5) / signal_to_noise
    return (weight * (predicted.float() - noise).square().mean((1, 2, 3))).mean()


def train_generator(args: argparse.Namespace) -> None:
    declare_missing_operators()
    from diffusers import UNet2DModel

    torch.manual_seed(args.seed)
    model = UNet2DModel(**(UNET_CPU if args.device == "cpu" else UNET)).to(
        args.device, memory_format=torch.channels_last
    )
    images = torch.from_numpy(load_cifar10(args.data, "train")[0])
    images = images.to(args.device)
    optimizer = torch.optim.Adam(model.parameters(), args.lr)
    average = Average(model, args.ema)
    alpha_bar = (
        torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
        .float()
        .to(args.device)
    )
    network = torch.compile(model)

    def next_loss(step: int) -> torch.Tensor:
        chosen = torch.randint(0, len(images), (args.batch,), device=args.device)
        x = flip(images[chosen].permute(0, 3, 1, 2).float() / 127.5 - 1)
        x = x.contiguous(memory_format=torch.channels_last)
        time_step = torch.randint(0, 1000, (args.batch,), device=args.device)
        return min_snr_loss(network, x, torch.randn_like(x), time_step, alpha_bar)

    train(args, model, optimizer, average, args.images // args.batch, 0.02, next_loss)
    model.load_state_dict(average.values)
    model.half().save_pretrained(args.out / "generator", safe_serialization=True)
    write_facts(args, args.out / "generator", model)


def train_labeler(args: argparse.Namespace) -> None:
    declare_missing_operators()
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(args.seed)
    model = timm.create_model(LABELER["architecture"], num_classes=10, **LABELER["model_args"])
    model = model.to(args.device, memory_format=torch.channels_last)
    raw, targets = load_cifar10(args.data, "train")
    images, labels = to_signed(raw, args.device), torch.from_numpy(targets).to(args.device)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, args.lr, momentum=0.9, nesterov=True)
    average = Average(model, args.ema)
    network = torch.compile(
        lambda x: model(F.interpolate(x, (128, 128), mode="bilinear", align_corners=False))
    )
    per_epoch = len(images) // args.batch

    def next_loss(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(args.seed * 7919 + step // per_epoch)
        order = torch.randperm(len(images), generator=generator)
        chosen = order[step % per_epoch * args.batch :][: args.batch].to(args.device)
        x = crop(flip(images[chosen]))
        if args.cutout:
            x = cutout(x, args.cutout)
        with torch.autocast(args.device, torch.bfloat16):
            logits = network(x.contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(logits.float(), labels[chosen], label_smoothing=0.1)

    train(args, model, optimizer, average, args.epochs * per_epoch, 0.2, next_loss)
    model.load_state_dict(average.values)
    folder = args.out / "labeler"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        k: v.half().contiguous() if v.dtype.is_floating_point else v
        for k, v in model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(LABELER, indent=2) + "\n")
    write_facts(args, folder, model)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    generator = commands.add_parser(
        "generator", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    generator.add_argument("--images", type=int, default=15_000_000, help="images seen, >= --batch")
    generator.add_argument("--batch", type=int, default=512, help="images a step, >= 1")
    generator.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of Adam")
    generator.add_argument(
        "--ema", type=float, default=0.9996, help="decay of the weight average, 0 to 1"
    )
    generator.set_defaults(run=train_generator)
    labeler = commands.add_parser("labeler", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    labeler.add_argument(
        "--epochs", type=int, default=60, help="passes over the 50,000 training images, >= 1"
    )
    labeler.add_argument("--batch", type=int, default=256, help="images a step, >= 1")
    labeler.add_argument("--lr", type=float, default=0.2, help="peak learning rate of SGD")
    labeler.add_argument(
        "--ema", type=float, default=0.999, help="decay of the weight average, 0 to 1"
    )
    labeler.add_argument(
        "--cutout", type=int, default=8, help="side of the square cut out, 0 for none"
    )
    labeler.set_defaults(run=train_labeler)
    for command in (generator, labeler):
        command.add_argument(
            "--data", type=Path, required=True, help="folder that holds cifar10_jpeg.py"
        )
        command.add_argument(
            "--out", type=Path, default=REPO / "cifar5m" / "tiny", help="where the weights go"
        )
        command.add_argument(
            "--work", type=Path, default=REPO / "runs" / "tiny", help="where the state is kept"
        )
        command.add_argument(
            "--device",
            default="cuda" if torch.cuda.is_available() else "cpu",
            choices=("cpu", "cuda"),
        )
        command.add_argument("--threads", type=int, default=None, help="CPU threads")
        command.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    args.run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
