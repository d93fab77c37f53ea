"""Learning without labels: objectives for the representation, and the linear probe that reads it.

    TrainConfig("preresnet18", objective="simclr", augment=None)      # stage one, in either world
    TrainConfig("preresnet18", initial="runs/simclr-0", frozen=True,  # stage two alone, on other
                optimizer="logistic", steps=1, batch_size=50_000)     # labels for example

At each log point of stage one a probe is fitted on the n labeled samples (in the Ideal World on
those that the Real World would have), and its errors are the row's. SimCLR is that of Chen et al.,
2020, with their settings for CIFAR-10: crops of 8 to 100 % of the area, flips, color jitter of
strength 0.5 on 80 %, gray on 20 %, no blur, temperature 0.5. Rotation is that of Gidaris et al.,
2018: which of four quarter turns an image was given.
"""

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

Network = Callable[[torch.Tensor], torch.Tensor]
TEMPERATURE: Final = 0.5
PROJECTION: Final = 128  # outputs of SimCLR's head
TURNS: Final = 4
PROBE_DECAY: Final = 1e-3  # of the probe's weights on features of unit variance

NEIGHBORS: Final = 20  # that vote in a k-NN classifier


class Headed(nn.Module):
    """A network without its classifier, `body`, under another head."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.head(self.body(x))
        return outputs


def head_of(model: nn.Module) -> tuple[str, nn.Linear]:
    """Return the last linear layer and its name: the classifier, in every architecture."""
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not layers:
        raise ValueError("the network has no linear classifier to put on other weights")
    return layers[-1]


def without_head(model: nn.Module) -> tuple[nn.Module, nn.Linear]:
    """Take the classifier off a network; both."""
    # Put a layer that does nothing in the classifier's place.
    name, head = head_of(model)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, nn.Identity())
    return model, head


def headed_for(objective: str, model: nn.Module) -> Headed:
    """Return the network under the head that an objective trains in the classifier's place."""
    body, head = without_head(model)
    width = head.in_features
    if objective == "rotation":
        return Headed(body, nn.Linear(width, TURNS))
    projection = (nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTION))
    return Headed(body, nn.Sequential(*projection))


def rotation(network: Network, x: torch.Tensor) -> torch.Tensor:
    """Return cross-entropy of the turn, over all four turns of each image."""
    turned = torch.cat([x.rot90(turns, (2, 3)) for turns in range(TURNS)])  # (4 B, 3, H, W)
    turns = torch.arange(TURNS, device=x.device).repeat_interleave(len(x))  # (4 B,)
    return F.cross_entropy(network(turned), turns)


def simclr(network: Network, x: torch.Tensor) -> torch.Tensor:
    """Return the contrastive loss of two views of each image; `x` has pixels in [-1, 1]."""
    view = _view(x.shape[-1])
    images = (x.float() + 1).repeat(2, 1, 1, 1) / 2  # (2 B, 3, H, W) in [0, 1]
    views = torch.stack([view(image) for image in images]) * 2 - 1
    return nt_xent(network(views.to(x.dtype)))


def nt_xent(outputs: torch.Tensor, temperature: float = TEMPERATURE) -> torch.Tensor:
    """Normalized temperature-scaled cross-entropy: row i of the (2 B, d) outputs is to find row
    i + B, the other view of its image, among all others by cosine similarity.
    """
    unit = F.normalize(outputs.float(), dim=1)  # (2 B, d)
    alike = unit @ unit.T / temperature  # (2 B, 2 B)
    alike.fill_diagonal_(-math.inf)  # no view finds itself
    return F.cross_entropy(alike, torch.arange(len(unit), device=unit.device).roll(len(unit) // 2))


@cache
def _view(size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what draws a random view, as SimCLR's, of an image, float (3, H, W) in [0, 1]."""
    import worlds.runtime.torchvision_ops  # noqa: F401, I001  (must come before torchvision)
    from torchvision.transforms import v2

    view: Callable[[torch.Tensor], torch.Tensor] = v2.Compose(
        [
            v2.RandomResizedCrop(size),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
        ]
    )
    return view


OBJECTIVES: Final[Mapping[str, Callable[[Network, torch.Tensor], torch.Tensor]]] = {
    "simclr": simclr,
    "rotation": rotation,
}


def fit_logistic(
    features: torch.Tensor, labels: torch.Tensor, classes: int, decay: float = PROBE_DECAY
) -> nn.Linear:
    """Return the linear classifier of least mean cross-entropy, plus `decay` / 2 times its squared
    weights on standardized features (scikit-learn's C is 1 / (n * decay)); found by L-BFGS.
    """
    x = features.double()  # (N, d)
    mean, scale = x.mean(0), x.std(0, correction=0)  # (d,)
    scale = torch.where(scale > 0, scale, 1.0)
    x = (x - mean) / scale
    # The search begins at 0, where all classes are as likely.
    weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, device=x.device, requires_grad=True)  # (K,)
    search: dict[str, Any] = {"max_iter": 500, "tolerance_grad": 1e-6, "tolerance_change": 1e-10}
    solver = torch.optim.LBFGS([weight, bias], line_search_fn="strong_wolfe", **search)

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = (
            F.cross_entropy(F.linear(x, weight, bias), labels) + decay / 2 * weight.square().sum()
        )
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    # The classifier of the features as they are, not standardized.
    head: nn.Linear = nn.utils.skip_init(nn.Linear, x.shape[1], classes, device=x.device)
    with torch.no_grad():  # above, nothing is drawn: the generator is the training's
        head.weight.copy_(weight / scale)
        head.bias.copy_(bias - (weight / scale) @ mean)
    return head


class Neighbors(nn.Module):
    """The k-NN classifier: the NEIGHBORS of the n features nearest by cosine have a vote each, and
    the logits are logarithms of their shares. A training sample votes for itself, too.
    """

    def __init__(self, n: int, width: int, classes: int) -> None:
        super().__init__()
        self.out_features = classes
        self.weight = nn.Parameter(torch.zeros(n, width), requires_grad=True)
        self.register_buffer("labels", torch.zeros(n, dtype=torch.int64))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        alike = F.normalize(features.float(), dim=1) @ F.normalize(self.weight, dim=1).T  # (B, n)
        nearest = alike.topk(min(NEIGHBORS, len(self.weight)), dim=1).indices
        votes = F.one_hot(self.labels[nearest], self.out_features).float()  # type: ignore[index]
        return votes.mean(1).clamp_min(1e-6).log()


def fit_neighbors(features: torch.Tensor, labels: torch.Tensor, classes: int) -> Neighbors:
    """Return the k-NN classifier of labeled features (n, d)."""
    fitted = Neighbors(len(features), features.shape[1], classes)
    fitted.load_state_dict({"weight": features, "labels": labels})
    return fitted


@contextmanager
def features_of(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect what the classifier takes, (B, d) of each batch that passes; nothing of networks
    without a linear classifier.
    """
    seen: list[torch.Tensor] = []

    def keep(x: torch.Tensor) -> None:
        if x.ndim == 2:
            seen.append(x.detach().cpu())

    if isinstance(model, Headed):
        handle = model.body.register_forward_hook(lambda module, given, out: keep(out))
    else:
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        last = linear[-1] if linear else nn.Identity()
        handle = last.register_forward_pre_hook(lambda module, given: keep(given[0]))
    try:
        yield seen
    finally:
        handle.remove()


def represented(
    body: Network, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features (N, d) and labels (N,) of batches seen through `body`."""
    with torch.no_grad():
        seen = [(body(x).float(), y) for x, y in batches]
    features, labels = (torch.cat(part) for part in zip(*seen, strict=True))  # (N, d), (N,)
    return features, labels


def description_bits(head: nn.Linear, features: torch.Tensor, agreement: float = 0.99) -> float:
    """Return bits of a linear classifier: its weights and biases rounded to the fewest levels, a
    power of two, at which it calls that share of `features` (N, d) as before, then deflated; with
    the 64 bits that say the range.
    """
    with torch.no_grad():
        # Round to 2, 4, 8 ... levels, until the answers are almost all the same.
        called = head(features).argmax(1)
        values = torch.cat([head.weight, head.bias[:, None]], 1).double()  # (K, d + 1)
        low, span = values.min(), (values.max() - values.min()).clamp_min(1e-12)
        for bits in range(1, 17):
            codes = ((values - low) / span * (2**bits - 1)).round()
            rounded = (codes / (2**bits - 1) * span + low).float()
            again = F.linear(features, rounded[:, :-1], rounded[:, -1]).argmax(1)
            if (again == called).float().mean() >= agreement:
                break
    # 64 bits say the range, the others what deflate leaves of the levels.
    stored = codes.cpu().numpy().astype(np.uint8 if bits <= 8 else np.uint16)
    return 64 + 8.0 * len(zlib.compress(stored.tobytes(), 9))
