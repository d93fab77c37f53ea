"""Weights that a run begins from instead of fresh ones: fine-tuning (figures 5b, 13 and 14 of the
paper), and a simple classifier on a frozen representation, as in self-supervised learning.

    TrainConfig("preresnet18", initial="runs/ideal-0")                 # all weights move on
    TrainConfig("preresnet18", initial="ssl.safetensors", frozen=True)  # only the new head learns

The classifier is always new. An MLP may come from another image size, its first filters are
resized; a ViT's new last layer is zero and without bias, as in the paper.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from worlds.runtime.checkpoints import load_checkpoint
from worlds.runtime.errors import reading
from worlds.runtime.files import sha256_of
from worlds.runtime.json_files import load_json
from worlds.training.config import RUN, TrainConfig
from worlds.training.objectives import Headed, Neighbors, head_of, without_head
from worlds.training.run_folder import CHECKPOINT

State = dict[str, torch.Tensor]


class Frozen(Headed):
    """A linear head on a network that does not learn: without gradients, its batch norm at rest."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__(body.requires_grad_(False).eval(), head)

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            features = self.body(x)
        logits: torch.Tensor = self.head(features)
        return logits


def load_initial(model: nn.Module, config: TrainConfig, beside: Path | None = None) -> nn.Module:
    """Return `model` with the config's initial weights under a new classifier; ValueError names
    what does not fit. Of a run without labels, or of a frozen one, the body is taken.
    """
    assert config.initial is not None
    from worlds.models.igpt import ImageGPT
    from worlds.models.pretrained import load_weights, transfer_igpt, transfer_mlp, transfer_vit
    from worlds.models.vit import VisionTransformer

    # Of a network under another head the body, whose names begin with "body.".
    file = weights_file(config.initial, beside)
    state = read_weights(file)
    inside = {name[5:]: value for name, value in state.items() if name.startswith("body.")}
    state = inside or state
    name, _ = head_of(model)
    # Each family has its own way; others are loaded name by name.
    if isinstance(model, nn.Sequential) and config.arch.startswith("mlp"):
        transfer_mlp(model, state)
    elif isinstance(model, VisionTransformer):
        transfer_vit(model, state)
    elif isinstance(model, ImageGPT):
        # The color clusters, beside the weights of an Image GPT downloaded from the Hub.
        path = file.parent / "preprocessor_config.json"
        known = load_json(path, dict[str, Any]) if path.is_file() else {}
        transfer_igpt(model, state, known.get("clusters"))
    else:
        load_weights(model, state, fresh=(f"{name}.",))
    if not config.frozen:
        return model
    body, head = without_head(model)
    if config.optimizer == "knn":
        return Frozen(body, Neighbors(config.n, head.in_features, head.out_features))
    return Frozen(body, head)


def weights_file(initial: str, beside: Path | None = None) -> Path:
    """Return the file that `initial` names: a run directory's checkpoint, or a state dict.
    run:FINGERPRINT is the run of that config in the directory `beside`.
    """
    # run:FINGERPRINT is in the name of the run's directory.
    path = Path(initial).expanduser()
    if beside is not None and initial.startswith(RUN):
        found = sorted(beside.glob(f"*-{initial.removeprefix(RUN)[:12]}"))
        path = found[0] if found else path
    # A directory of a run, or one from the Hub.
    names = (CHECKPOINT, "model.safetensors", "pytorch_model.bin")  # the Hub's
    inside = [path / name for name in names if (path / name).is_file()]
    file = inside[0] if inside else path
    if not file.is_file():
        raise ValueError(
            f"initial={initial}: expected a run directory, *.pt, *.safetensors or a "
            "directory with pytorch_model.bin"
        )
    return file


def describe_initial(config: TrainConfig, beside: Path | None = None) -> str | None:
    """Return the sha256 of the file of initial weights."""
    return None if config.initial is None else sha256_of(weights_file(config.initial, beside))


def read_weights(file: Path) -> State:
    """Return the state dict in a run's checkpoint, a .safetensors file or a file of torch.save."""
    from safetensors.torch import load_file

    # A checkpoint of a run holds the network inside of its stepper.
    with reading(file, "a file of weights"):
        state: Any = (load_file if file.suffix == ".safetensors" else load_checkpoint)(file)
        if isinstance(state, dict) and "stepper" in state:
            state = state["stepper"]["model"]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        inside = f", but {', '.join(map(str, list(state)[:3]))}" if isinstance(state, dict) else ""
        raise ValueError(f"{file} holds no state dict, a mapping of names to tensors{inside}")
    return state
