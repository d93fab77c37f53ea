"""From pretrained weights to the nets that are fine-tuned: figures 5b, 13 and 14 of the paper.

    transfer_vit(create("vit_b4", 10), state)        # the state_dict of the 1000-class net
    transfer_mlp(create("mlp_3x2048", 10), state)    # the state_dict of the net for 224 px
    load_released_igpt(create("igpt_s", 10), arrays, centers)

A checkpoint must fit entirely: what is missing, what is left over and what has another shape is
refused by name.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from worlds.models.igpt import COLORS, ImageGPT, hub_state, released_state
from worlds.models.vit import VisionTransformer, zero_last_layer
from worlds.runtime.errors import printable


def _listed(problem: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    names = [printable(name) for name in names]
    return [f"{problem} {', '.join(names[:5])}{more}"] if names else []


def load_weights(
    model: nn.Module, state: Mapping[str, torch.Tensor], fresh: tuple[str, ...] = ()
) -> None:
    """Load all of `state`; only the tensors of `model` named in `fresh` keep their own values.

    `fresh` holds names or prefixes of names; a tensor of that name in `state` is ignored. Nothing
    is loaded if anything does not fit.
    """
    # Sort out what fits and what does not, and tell of all of it at once.
    own = model.state_dict()
    given = {name: value for name, value in state.items() if not name.startswith(fresh)}
    missing = [name for name in own if name not in given and not name.startswith(fresh)]
    unexpected = [name for name in given if name not in own]
    misshapen = [
        f"{name} {tuple(value.shape)} for {tuple(own[name].shape)}"
        for name, value in given.items()
        if name in own and value.shape != own[name].shape
    ]
    problems = (
        _listed("missing", missing)
        + _listed("unexpected", unexpected)
        + _listed("misshapen", misshapen)
    )
    if problems:
        raise ValueError(f"the checkpoint does not fit the network: {'; '.join(problems)}")
    model.load_state_dict(given, strict=False)


def resize_filters(weight: torch.Tensor, size: int, antialias: bool = False) -> torch.Tensor:
    """Resize the filters of a first layer (units, 3 * side^2) over CHW pixels bilinearly."""
    # Each unit's weights are a small image: resize it as one.
    units, features = weight.shape
    side = round((features / 3) ** 0.5)
    if 3 * side * side != features:
        raise ValueError(f"a first layer over RGB images has 3 * side^2 inputs, got {features}")
    filters = weight.view(units, 3, side, side)  # (units, 3, side, side)
    resized = F.interpolate(filters, size=(size, size), mode="bilinear", antialias=antialias)
    return resized.flatten(1)


def transfer_mlp(
    model: nn.Sequential, state: Mapping[str, torch.Tensor], antialias: bool = False
) -> None:
    """Give `model` an MLP's weights of another image size; its own classifier stays.

    `antialias` averages over all pixels when shrinking; the paper does not say, and plain bilinear
    interpolation reads four.
    """
    # Layer 0 only flattens; the last one is the classifier.
    first, head = "1.weight", f"{len(model) - 1}."
    if first not in state:
        raise ValueError(f"not of an MLP: it has no {first}, but {', '.join(list(state)[:5])!r}")
    features = model.get_parameter(first).shape[1]
    resized = resize_filters(state[first], round((features / 3) ** 0.5), antialias)
    load_weights(model, {**state, first: resized}, fresh=(head,))


def transfer_vit(model: VisionTransformer, state: Mapping[str, torch.Tensor]) -> None:
    """Give `model` pretrained weights, and a last layer of zeros without bias for its classes."""
    last = f"head.{len(model.head) - 1}."
    load_weights(model, state, fresh=(last,))
    zero_last_layer(model)


def transfer_igpt(
    model: ImageGPT, state: Mapping[str, torch.Tensor], centers: Any | None = None
) -> None:
    """Give `model` the weights of the Hub's openai/imagegpt-small, or of its own names, under a
    fresh classifier. `centers` are the (512, 3) color clusters, where the state has none.
    """
    # Colors: in the state, or beside it.
    given = hub_state(state)
    if centers is not None:
        given.setdefault("colors", torch.as_tensor(centers, dtype=torch.float32))
    if "colors" not in given:
        raise ValueError("the weights need their color clusters: keep preprocessor_config.json "
                         "beside them")  # fmt: skip
    if model.lm_head is None:
        given.pop("lm_head.weight", None)
    load_weights(model, given, fresh=("classifier.",))


def load_released_igpt(model: ImageGPT, arrays: Mapping[str, Any], centers: Any) -> None:
    """Give `model` a checkpoint of OpenAI's, {variable name: array}, and its (512, 3) colors.

    The classifier stays as it is and the biases, which the released model has not, are 0. The
    language-model head is loaded where `model` has one.
    """
    colors = torch.as_tensor(centers, dtype=torch.float32)
    if colors.shape != (COLORS, 3):
        raise ValueError(f"the color clusters must be ({COLORS}, 3), got {tuple(colors.shape)}")
    # The released model has no biases: zeros stand for them.
    state = released_state(arrays, model.wpe.embedding_dim)
    for name, value in model.named_parameters():
        if name.startswith("h.") and name.endswith(".bias") and ".ln_" not in name:
            state.setdefault(name, torch.zeros_like(value))
    if model.lm_head is None:
        state.pop("lm_head.weight", None)
    load_weights(model, {**state, "colors": colors}, fresh=("classifier.",))
