"""Coordinate check: how far each layer moves in the first steps, by width. Flat lines are muP.

    python tools/coordinate_check.py --arch mlp_3x --widths 64 128 256 512 1024 --out check.png
    python tools/coordinate_check.py --arch preresnet18 --widths 8 16 32 --optimizers sgd adam

Each panel is a parametrization and an optimizer; a line is a layer: the root mean square, over
images and units, of its outputs after some steps less those before the first.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from worlds.models import create
from worlds.training.config import TrainConfig
from worlds.training.optimizers import make_optimizer

LAYERS = (nn.Linear, nn.Conv2d)
RATES = {"sgd": 0.1, "adam": 0.001, "muon": 0.001}


def make_model(arch: str, width: int, options: dict[str, Any], classes: int = 10) -> nn.Module:
    """A network of the family at a width: `mlp_3x` takes it in its name, others as an option."""
    if arch.startswith("mlp_"):
        return create(f"{arch}{width}", classes, **{"batch_norm": False} | options)
    return create(arch, classes, width=width, **options)


def movements(
    model: nn.Module, optimizer: str, rate: float, steps: int, batch: int, seed: int
) -> dict[str, float]:
    """How far the outputs of each layer have moved on one random batch after `steps` on it."""
    momentum = {"muon": 0.95}.get(optimizer, 0.0)
    config = TrainConfig("net", optimizer=optimizer, learning_rate=rate, momentum=momentum)
    made = make_optimizer(config, model, rate)
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 3, 32, 32, generator=random)
    y = torch.randint(0, 10, (batch,), generator=random)
    before = outputs(model, x)
    for _ in range(steps):
        made.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        made.step()
    after = outputs(model, x)
    return {name: float((after[name] - before[name]).square().mean().sqrt()) for name in before}


@torch.no_grad()
def outputs(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each linear and convolutional layer gives on a batch."""
    seen: dict[str, torch.Tensor] = {}
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, LAYERS)]
    hooks = [
        m.register_forward_hook(lambda _m, _x, out, name=name: seen.update({name: out.detach()}))
        for name, m in layers
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return seen


def check(
    arch: str,
    widths: Iterable[int],
    optimizer: str,
    options: dict[str, Any],
    rate: float | None = None,
    steps: int = 3,
    batch: int = 64,
    trials: int = 3,
) -> dict[str, list[float]]:
    """The movement of each layer, one number a width, the mean of some trials."""
    found: dict[str, list[float]] = {}
    for width in widths:
        rows = []
        for trial in range(trials):
            torch.manual_seed(trial)
            model = make_model(arch, width, options)
            given = RATES[optimizer] if rate is None else rate
            rows.append(movements(model, optimizer, given, steps, batch, trial))
        for name in rows[0]:
            found.setdefault(name, []).append(float(np.mean([row[name] for row in rows])))
    return found


def slope(widths: Iterable[int], moved: list[float]) -> float:
    """The exponent of the width in the movement, by least squares on log axes."""
    return float(np.polyfit(np.log(list(widths)), np.log(moved), 1)[0])


def draw(
    panels: dict[tuple[str, str], dict[str, list[float]]], widths: list[int], out: Path
) -> None:
    """A row for each parametrization and a column for each optimizer, on common log axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds, optimizers = (list(dict.fromkeys(key[i] for key in panels)) for i in (0, 1))
    shape = {"figsize": (3.2 * len(optimizers) + 1.2, 2.8 * len(kinds)), "layout": "constrained"}
    figure, axes = plt.subplots(
        len(kinds), len(optimizers), sharex=True, sharey=True, squeeze=False, **shape
    )
    for (kind, optimizer), layers in panels.items():
        axis = axes[kinds.index(kind), optimizers.index(optimizer)]
        colors = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(layers)))
        for color, (name, moved) in zip(colors, layers.items(), strict=True):
            axis.plot(widths, moved, "o-", color=color, markersize=3, label=name)
        axis.set(xscale="log", yscale="log", title=f"{kind}, {optimizer}")
        axis.set_xticks(widths, [str(width) for width in widths])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.supxlabel("width")
    figure.supylabel("RMS change of a layer's outputs")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    shown = np.unique(np.linspace(0, len(labels) - 1, min(8, len(labels))).astype(int))
    picked = [handles[i] for i in shown], [labels[i] for i in shown]
    figure.legend(*picked, title="layer", loc="outside right upper", fontsize=8)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main() -> None:
    parse = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("--arch", default="mlp_3x", help="mlp_DEPTHx, or a name with a width option")
    parse.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parse.add_argument("--optimizers", nargs="+", default=["sgd", "adam"], choices=sorted(RATES))
    parse.add_argument("--steps", type=int, default=3)
    parse.add_argument("--batch", type=int, default=64)
    parse.add_argument("--trials", type=int, default=3)
    parse.add_argument("--base-width", type=int, help="default: the first of the widths")
    parse.add_argument("--option", type=option, action="append", default=[], help="NAME=JSON")
    parse.add_argument("--out", type=Path, default=Path("coordinate-check.png"))
    args = parse.parse_args()
    base = {"base_width": args.base_width or args.widths[0]}
    kinds: dict[str, dict[str, Any]] = {"standard": {}, "muP": {"parametrization": "mup"} | base}
    panels, slopes = {}, {}
    for optimizer in args.optimizers:
        for kind, options in kinds.items():
            given = (args.arch, args.widths, optimizer, options | dict(args.option))
            found = check(*given, steps=args.steps, batch=args.batch, trials=args.trials)
            panels[kind, optimizer] = found
            slopes[f"{kind}, {optimizer}"] = {
                name: round(slope(args.widths, moved), 2) for name, moved in found.items()
            }
    draw(panels, args.widths, args.out)
    print(json.dumps({"arch": args.arch, "widths": args.widths, "exponents": slopes}))


def option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, json.loads(value)


if __name__ == "__main__":
    main()
