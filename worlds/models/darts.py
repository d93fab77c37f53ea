"""Random networks from the DARTS cell space: 500 of them are figures 2b and 9 of the paper.

    create("darts", seed=17, width=64, cells=5)

The paper's sampler was not released. This is the specification's reading of it (section 3.5): the
macro net of NAS-Bench-201 with the operations of DARTS, as in AutoDL-Projects. Its sizes fit the
paper's 70 thousand to 5.5 million parameters. All cells share one genotype, which is a pure
function of the architecture seed: give both worlds the same.
"""

from collections.abc import Callable, Sequence
from itertools import count as naturals
from itertools import islice

import torch
from torch import nn

from worlds.models.layers import check_positive, conv, global_average
from worlds.models.registry import Architecture
from worlds.rng.philox import words
from worlds.rng.streams import ARCHITECTURE

NODES = 4
EDGES = tuple((j, i) for i in range(1, NODES) for j in range(i))  # from node j to node i
SETTINGS = tuple(
    (width, cells) for width in (16, 64) for cells in (1, 5)
)  # of the paper's 500 nets


class Nothing(nn.Module):
    """The "none" edge: a product with zero, so that every parameter keeps a gradient (for DDP)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.0


def separable(channels: int, kernel: int, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    depthwise = nn.Conv2d(
        channels,
        channels,
        kernel,
        padding=padding,
        dilation=dilation,
        groups=channels,
        bias=False,
    )
    return [nn.ReLU(), depthwise, conv(channels, channels, 1), nn.BatchNorm2d(channels)]


def dual_separable(channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(*separable(channels, kernel), *separable(channels, kernel))


OPERATIONS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: Nothing(),
    "skip": lambda channels: nn.Identity(),
    "dual_separable_3x3": lambda channels: dual_separable(channels, 3),
    "dual_separable_5x5": lambda channels: dual_separable(channels, 5),
    "dilated_3x3": lambda channels: nn.Sequential(*separable(channels, 3, dilation=2)),
    "dilated_5x5": lambda channels: nn.Sequential(*separable(channels, 5, dilation=2)),
    "average_pool": lambda channels: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "max_pool": lambda channels: nn.MaxPool2d(3, 1, 1),
}


def _draws(seed: int, major: int, count: int) -> list[int]:
    address = torch.zeros(1, dtype=torch.int64, device="cpu")  # even while the net goes to meta
    drawn = words(seed, ARCHITECTURE, major, address, 2)
    return drawn[0, :count].tolist()  # words, 0 to 2^32 - 1


def draw_genotype(seed: int) -> tuple[str, ...]:
    """Draw the operations of the six edges (in the order of EDGES), uniform over the eight."""
    names = tuple(OPERATIONS)
    return tuple(names[word % len(names)] for word in _draws(seed, 0, len(EDGES)))


def is_connected(genotype: Sequence[str]) -> bool:
    """Return whether a path without "none" leads from the input of a cell to its output; without
    one the network's output is a constant.
    """
    reached = {0}  # nodes that the input reaches
    for (source, target), name in zip(EDGES, genotype, strict=True):
        if source in reached and name != "none":
            reached.add(target)
    return NODES - 1 in reached


def connected_seeds(count: int) -> list[int]:
    """Return the first `count` architecture seeds whose networks are connected: one that is not is
    drawn again, as the next seed.
    """
    return list(islice(filter(lambda seed: is_connected(draw_genotype(seed)), naturals()), count))


def draw_setting(seed: int) -> tuple[int, int]:
    """Return (width, cells), uniform over the paper's four settings."""
    return SETTINGS[_draws(seed, 1, 1)[0] % len(SETTINGS)]


class Cell(nn.Module):
    """Every node is the sum of its edges from all earlier nodes; the last one is the output."""

    def __init__(self, channels: int, genotype: Sequence[str]) -> None:
        super().__init__()
        self.edges = nn.ModuleList(OPERATIONS[name](channels) for name in genotype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Node i adds up what the edges from all nodes before it yield.
        nodes = [x]
        edges = iter(self.edges)
        for i in range(1, NODES):
            terms = [next(edges)(nodes[j]) for j in range(i)]
            nodes.append(sum(terms[1:], start=terms[0]))
        return nodes[-1]


class Reduction(nn.Module):
    """A residual block that halves the map and doubles the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.ReLU(),
            conv(channels, 2 * channels, 3, stride=2),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            conv(2 * channels, 2 * channels, 3),
            nn.BatchNorm2d(2 * channels),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), conv(channels, 2 * channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.residual(x) + self.shortcut(x)


class RandomNetwork(nn.Module):
    """Stem, then `cells` cells at each of three resolutions; `genotype` says what was drawn."""

    def __init__(self, num_classes: int, width: int, cells: int, genotype: Sequence[str]) -> None:
        super().__init__()
        self.genotype = tuple(genotype)
        layers: list[nn.Module] = [conv(3, width, 3), nn.BatchNorm2d(width)]
        for stage in range(3):
            # Between the resolutions the map halves and the channels double.
            if stage > 0:
                layers.append(Reduction(width))
                width *= 2
            layers += [Cell(width, genotype) for _ in range(cells)]
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(global_average(self.features(x)))


def darts(
    num_classes: int,
    seed: int = 0,
    width: int = 64,
    cells: int = 5,
    genotype: Sequence[str] | None = None,
) -> RandomNetwork:
    """Build the network of an architecture seed, or of a `genotype`: six names of OPERATIONS."""
    check_positive(width=width, cells=cells)
    chosen = draw_genotype(seed) if genotype is None else tuple(genotype)
    # Six operations, one for each edge.
    unknown = [name for name in chosen if name not in OPERATIONS]
    if unknown or len(chosen) != len(EDGES):
        raise ValueError(
            f"genotype must be {len(EDGES)} of {', '.join(OPERATIONS)}, got {', '.join(chosen)}"
        )
    return RandomNetwork(num_classes, width, cells, chosen)


ARCHITECTURES = (Architecture("darts", "darts", 32, darts, figure="2b 9"),)
