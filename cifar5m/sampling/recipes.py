"""Recipes: what a dataset is made with, one row each.

`cifar5m` is the published set's way and the default. Every other row makes another distribution
and says so.
"""

from dataclasses import dataclass, replace
from typing import Final

from cifar5m.sampling.classes import UNGUIDED
from cifar5m.sampling.diffusion import SamplerConfig
from worlds.formats.plan import Plan
from worlds.runtime.checks import check_positive
from worlds.runtime.precision import check_precision


@dataclass(frozen=True)
class Recipe:
    """Sources are names known to cifar5m/weights/sources.py; sizes are images."""

    generator: str
    labeler: str
    sampler: SamplerConfig
    precision: str
    micro_batch: int  # images a network call; decides bytes, so it belongs to the recipe
    label_batch: int
    licence: str
    guidance: float = UNGUIDED  # of a generator with class embeddings
    labels: str = "argmax"  # or "requested": the class that the generator was asked for

    @property
    def distribution(self) -> str:
        """The sampler in words, as plans and cards state it."""
        words = f"{self.sampler.name}, {self.sampler.network_calls} network calls an image"
        if self.sampler.start is not None:
            words += f", started at timestep {self.sampler.start}"
        if self.guidance != UNGUIDED:
            words += f", each with and without the class, guidance {self.guidance:g}"
        return words


DEFAULT: Final = "cifar5m"

# Ho et al.'s EMA weights; FID 3.17 to 3.25, published for these weights and this sampler.
_CIFAR5M = Recipe(
    generator="ema",
    labeler="auto",
    sampler=SamplerConfig("ancestral", steps=1000, variance="fixed_large"),
    precision="tf32",
    micro_batch=1000,
    label_batch=250,
    licence="weights: published without a licence file, mirrors say apache-2.0 or MIT",
)

# Bundled small networks, for trying everything out without a network or a GPU. Frechet distance in
# the features of the labeler of then 9.77, of test against train 0.02.
_TINY = Recipe(
    generator="tiny",
    labeler="tiny",
    sampler=SamplerConfig("ddim", steps=15, spacing="quadratic"),
    precision="fp32",
    micro_batch=64,
    label_batch=64,
    licence="Apache-2.0",
)

RECIPES: Final = {
    "cifar5m": _CIFAR5M,
    # A preview, another distribution; FID 4.16 to 4.19 (published).
    "cifar5m-ddim100": replace(
        _CIFAR5M,
        sampler=SamplerConfig("ddim", steps=100, spacing="quadratic", clip=False),
    ),
    "tiny": _TINY,
    # Asked for classes: every ten images hold all. The best within 20 network calls of those that
    # were tried on 512 images; measured in cifar5m/tiny/README.md.
    "tiny-conditional": replace(
        _TINY,
        generator="tiny-conditional",
        sampler=SamplerConfig("dpm_solver_pp_2m", steps=10, spacing="uniform"),
        guidance=2.5,
        labels="requested",
    ),
}


def find_recipe(name: str) -> Recipe:
    """Return the recipe of a name; ValueError lists what there is."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; choose from {', '.join(RECIPES)}")
    return RECIPES[name]


def labeling_settings(plan: Plan, precision: str | None, batch_size: int | None) -> tuple[str, int]:
    """Return precision and batch size: as chosen, else as in a dataset's plan, else the recipe's.

    Raises ValueError if one is out of range.
    """
    # An imported dataset has no settings of its own.
    recipe = RECIPES[DEFAULT]
    if batch_size is None:
        batch_size = plan.label_batch or recipe.label_batch
    check_positive("batch_size", batch_size)
    return check_precision(precision or plan.precision or recipe.precision), batch_size
