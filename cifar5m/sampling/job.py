"""From options to a plan and a job: what `cifar5m-generate` does before the first image."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch

from cifar5m.labels.labeler import Labeler, load_classifier
from cifar5m.sampling.classes import Conditioning, conditioning_of
from cifar5m.sampling.diffusion import SAMPLERS, SamplerConfig, linear_schedule
from cifar5m.sampling.generate import LABELS, Job
from cifar5m.sampling.recipes import DEFAULT, Recipe, find_recipe
from cifar5m.sampling.unet import Generator, load_unet
from cifar5m.weights.sources import Weights, evaluation_beside, find_generator, find_labeler
from worlds.formats.layout import CIFAR10_CLASSES, FORMAT, Layout
from worlds.formats.plan import About, Count, Plan, load_plan, package_versions, seal
from worlds.rng.streams import key_of
from worlds.runtime.checks import check_positive
from worlds.runtime.precision import check_precision
from worlds.runtime.progress import OnProgress

_LARGEST_SHARD: Final = 10_000
_SMALLEST_SHARD: Final = 50
_SHARDS: Final = 20  # at least, from 1,000 images on
TEST_SHARE = 6  # as released: one of six parts is the test split
_OF_SAMPLERS: Final = ("steps", "variance", "eta", "spacing", "start")  # fields of SamplerConfig
DATASET: Final = "cifar5m"  # what plans of this module say that they make


class GeneratedPlan(Plan, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides a generated dataset."""

    dataset: Literal["cifar5m"]
    seed: int
    micro_batch: Count
    label_batch: Count
    precision: str
    sampler: SamplerConfig
    schedule: dict[str, Any]
    quantiser: str
    generator_sha256: str
    generator_config: dict[str, Any] | None
    labeler_sha256: str
    labeler_config: dict[str, Any] | None
    versions: dict[str, str]
    conditioning: Conditioning | None = None  # type: ignore[assignment]  # a dict to other readers

    def content(self) -> dict[str, Any]:
        """Return the content, with a start only if there is one: older plans keep fingerprints."""
        content = super().content()
        if self.sampler.start is None:
            content["sampler"].pop("start", None)
        return content


@dataclass(frozen=True)
class Options:
    """Options of a user; None takes the recipe's value."""

    n: int
    recipe: str = DEFAULT
    seed: int = 0
    split: dict[str, int] | None = None
    shard_size: int | None = None  # None: by `default_shard_size`, and no micro-batch above a shard
    micro_batch: int | None = None
    precision: str | None = None
    sampler: str | None = None
    steps: int | None = None
    variance: str | None = None
    eta: float | None = None
    spacing: str | None = None
    start: int | None = None
    guidance: float | None = None
    labels: str | None = None
    generator: str | None = None
    labeler: str | None = None
    allow_non_ema: bool = False
    streams: int = 1  # changes no byte

    def __post_init__(self) -> None:
        find_recipe(self.recipe)
        key_of(self.seed)
        for name in ("n", "shard_size", "micro_batch", "streams"):
            check_positive(name, getattr(self, name))
        if self.precision is not None:
            check_precision(self.precision)
        if self.labels is not None and self.labels not in LABELS:
            raise ValueError(f"labels must be one of {', '.join(LABELS)}, got {self.labels!r}")
        if self.split is not None and (total := sum(self.split.values())) != self.n:
            raise ValueError(f"split must add up to n={self.n}, got {total}")
        _ = self.layout, self.resolved  # refuse bad splits, and a bad sampler

    @property
    def layout(self) -> Layout:
        splits = self.split
        if splits is None:
            test = self.n // TEST_SHARE
            splits = {"train": self.n - test} | ({"test": test} if test else {})
        return Layout(tuple(splits.items()), self.shard_size or default_shard_size(self.n))

    @property
    def resolved(self) -> Recipe:
        """The recipe with the user's changes."""
        # The user's choices, then sizes that follow from n, then the sampler.
        recipe = find_recipe(self.recipe)
        names = ("generator", "labeler", "precision", "micro_batch", "guidance", "labels")
        recipe = replace(recipe, **self._chosen(names))
        if self.shard_size is None and self.micro_batch is None:  # padding a batch is wasted work
            longest = max(min(n, self.layout.shard_size) for _, n in self.layout.splits)
            recipe = replace(recipe, micro_batch=min(recipe.micro_batch, longest))
        return replace(recipe, sampler=self._sampler(recipe.sampler))

    def _sampler(self, default: SamplerConfig) -> SamplerConfig:
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        # Another sampler keeps the recipe's steps and start, and nothing else.
        if self.sampler is not None and self.sampler != default.name:
            default = SamplerConfig(self.sampler, default.steps, start=default.start)
        return replace(default, **self._chosen(_OF_SAMPLERS))

    def _chosen(self, names: Iterable[str]) -> dict[str, Any]:
        """Return those of the options that were not left open."""
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


def default_shard_size(n: int) -> int:
    """Return the images of a shard of n images in all: a stop loses at most a twentieth of them.

    From 50 to 10,000, so that there are at least 20 shards from 1,000 images on.
    """
    return min(_LARGEST_SHARD, max(_SMALLEST_SHARD, n // _SHARDS))


def keep_earlier_choices(options: Options, folder: Path) -> Options:
    """Return options in which what was left open is as the plan in `folder` has it.

    Shard size, micro-batch and the choice of a labeler may have been made under other defaults, or
    before a BiT was fine-tuned here. Without a readable plan of this recipe, nothing changes.
    """
    # Another recipe or shard size means another dataset, which is refused later.
    try:
        plan = load_plan(folder, GeneratedPlan)
    except (ValueError, OSError):
        return options
    if plan.about.recipe != options.recipe or options.shard_size not in (None, plan.shard_size):
        return options
    # What the user left open is as it was decided then.
    kept: dict[str, Any] = {"shard_size": plan.shard_size}
    if options.shard_size is None and options.micro_batch is None:
        kept["micro_batch"] = plan.micro_batch
    if options.resolved.labeler == "auto":
        kept["labeler"] = plan.about.labeler
    return replace(options, **kept)


@dataclass(frozen=True)
class Sources:
    """The two networks' weights, found but not loaded."""

    generator: Weights
    labeler: Weights


def find_sources(options: Options, on_progress: OnProgress | None = None) -> Sources:
    """Find both networks' weights; WeightsError, with what to do, if one cannot be reached."""
    recipe = options.resolved
    labeler = find_labeler(recipe.labeler)  # first: if it is missing, nothing is downloaded
    generator = find_generator(recipe.generator, options.allow_non_ema, on_progress)
    return Sources(generator, labeler)


def plan_of(options: Options, sources: Sources) -> GeneratedPlan:
    """Return the plan the options amount to."""
    recipe, layout = options.resolved, options.layout
    # For people and for repair; only the plan's own fields decide content.
    about = About(
        recipe=options.recipe,
        distribution=recipe.distribution,
        generator=sources.generator.source,
        labeler=sources.labeler.source,
        licence=recipe.licence,
        labeler_evaluation=evaluation_beside(sources.labeler),
    )
    plan = GeneratedPlan(
        format=FORMAT,
        splits=dict(layout.splits),
        shard_size=layout.shard_size,
        class_names=CIFAR10_CLASSES,
        dataset=DATASET,
        labels=recipe.labels,
        seed=options.seed,
        micro_batch=recipe.micro_batch,
        label_batch=recipe.label_batch,
        sampler=recipe.sampler,
        schedule={"betas": "linear", "first": 1e-4, "last": 0.02, "steps": 1000},
        precision=recipe.precision,
        quantiser="round((x + 1) * 127.5)",
        generator_sha256=sources.generator.sha256,
        generator_config=sources.generator.config,
        labeler_sha256=sources.labeler.sha256,
        labeler_config=sources.labeler.config,
        versions=package_versions(),
        conditioning=find_conditioning(recipe, sources),
        fingerprint="",
        about=about,
    )
    return seal(plan)


def find_conditioning(recipe: Recipe, sources: Sources) -> Conditioning | None:
    """Return how classes are requested of the recipe's generator, None if it takes none.

    Raises ValueError if the recipe wants classes and the generator takes none.
    """
    weights = sources.generator
    classes = len(CIFAR10_CLASSES)
    found = conditioning_of(weights.config, classes, recipe.guidance, weights.source)
    if found is None and recipe.labels == "requested":
        raise ValueError(
            f"labels='requested' needs a generator with class embeddings, {weights.source} has "
            f"none: choose labels='argmax'"
        )
    return found


def options_of(
    plan: GeneratedPlan,
    generator: str | None = None,
    labeler: str | None = None,
    allow_non_ema: bool = False,
) -> Options:
    """Return the options that amount to a plan, the inverse of `plan_of`.

    `generator` and `labeler` say where the networks are now, by default where the plan says. What a
    plan holds beyond the options (label batch, clipping, versions ...) comes from the recipe and
    this installation: the plan of these options has to be compared with `plan`.
    """
    about = plan.about
    return Options(
        n=len(plan.layout),
        recipe=about.recipe or "",
        seed=plan.seed,
        split=plan.splits,
        shard_size=plan.shard_size,
        micro_batch=plan.micro_batch,
        precision=plan.precision,
        sampler=plan.sampler.name,
        **{name: getattr(plan.sampler, name) for name in _OF_SAMPLERS},
        guidance=plan.conditioning.guidance if plan.conditioning else None,
        labels=plan.labels,
        generator=generator or about.generator,
        labeler=labeler or about.labeler,
        allow_non_ema=allow_non_ema,
    )


def load_job(options: Options, sources: Sources, plan: GeneratedPlan, device: str) -> Job:
    """Load both networks onto the device, and make a GPU the current one."""
    recipe, target = options.resolved, torch.device(device)
    if target.type == "cuda":  # else kernels and streams would also take memory of the first GPU
        torch.cuda.set_device(target)
    settings = target, recipe.precision
    return Job(
        generator=Generator(load_unet(sources.generator), *settings),
        labeler=Labeler(*load_classifier(sources.labeler), *settings, recipe.label_batch),
        sampler=recipe.sampler,
        schedule=linear_schedule(),
        seed=options.seed,
        micro_batch=recipe.micro_batch,
        fingerprint=plan.fingerprint,
        conditioning=plan.conditioning,
        labels=recipe.labels,
        streams=options.streams if target.type == "cuda" else 1,
    )
