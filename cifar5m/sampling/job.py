"""From options to a plan and a job: what `cifar5m-generate` does before the first image."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch

from cifar5m.labels.labeler import Labeler, load_classifier
from cifar5m.sampling.classes import Conditioning, conditioning_of
from cifar5m.sampling.diffusion import SAMPLERS, SamplerConfig, linear_schedule
from cifar5m.sampling.generate import LABELS, Job, make_images, predictor
from cifar5m.sampling.recipes import DEFAULT, Recipe, find_recipe
from cifar5m.sampling.unet import Generator, load_unet
from cifar5m.weights.sources import Weights, evaluation_beside, find_generator, find_labeler
from worlds.formats.layout import CIFAR10_CLASSES, FORMAT, Layout
from worlds.formats.plan import About, Count, Plan, load_plan, package_versions, seal
from worlds.formats.shards import encode_png
from worlds.rng.streams import key_of
from worlds.runtime.checks import check_positive
from worlds.runtime.precision import check_precision
from worlds.runtime.progress import OnProgress

_LARGEST_SHARD: Final = 10_000
_SMALLEST_SHARD: Final = 50
_SHARDS: Final = 20  # at least, from 1,000 images on
TEST_SHARE = 6  # as released: one of six parts is the test split
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
        """A start is said only if there is one: plans from before it keep their fingerprints."""
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
        recipe = find_recipe(self.recipe)
        names = ("generator", "labeler", "precision", "micro_batch", "guidance", "labels")
        chosen: dict[str, Any] = {name: getattr(self, name) for name in names}
        recipe = replace(recipe, **{k: v for k, v in chosen.items() if v is not None})
        if self.shard_size is None and self.micro_batch is None:  # padding a batch is wasted work
            longest = max(min(n, self.layout.shard_size) for _, n in self.layout.splits)
            recipe = replace(recipe, micro_batch=min(recipe.micro_batch, longest))
        return replace(recipe, sampler=self._sampler(recipe.sampler))

    def _sampler(self, default: SamplerConfig) -> SamplerConfig:
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        if self.sampler is not None and self.sampler != default.name:
            default = SamplerConfig(self.sampler, default.steps, start=default.start)
        names = ("steps", "variance", "eta", "spacing", "start")
        chosen: dict[str, Any] = {name: getattr(self, name) for name in names}
        return replace(default, **{k: v for k, v in chosen.items() if v is not None})


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
    try:
        plan = load_plan(folder, GeneratedPlan)
    except (ValueError, OSError):
        return options
    if plan.about.recipe != options.recipe or options.shard_size not in (None, plan.shard_size):
        return options
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
    """Raises WeightsError, with what to do, where a source cannot be reached."""
    recipe = options.resolved
    labeler = find_labeler(recipe.labeler)  # first: if it is missing, nothing is downloaded
    generator = find_generator(recipe.generator, options.allow_non_ema, on_progress)
    return Sources(generator, labeler)


def plan_of(options: Options, sources: Sources) -> GeneratedPlan:
    """Return the plan the options amount to."""
    recipe, layout = options.resolved, options.layout
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
    """The options that amount to a plan, the inverse of `plan_of`.

    `generator` and `labeler` say where the networks lie now, by default where the plan says that
    they lay. What a plan holds beyond the options (label batch, clipping, versions ...) comes from
    the recipe and this installation: the plan of these options has to be compared with `plan`.
    """
    about, sampler = plan.about, plan.sampler
    return Options(
        n=len(plan.layout),
        recipe=about.recipe or "",
        seed=plan.seed,
        split=plan.splits,
        shard_size=plan.shard_size,
        micro_batch=plan.micro_batch,
        precision=plan.precision,
        sampler=sampler.name,
        steps=sampler.steps,
        variance=sampler.variance,
        eta=sampler.eta,
        spacing=sampler.spacing,
        start=sampler.start,
        guidance=plan.conditioning.guidance if plan.conditioning else None,
        labels=plan.labels,
        generator=generator or about.generator,
        labeler=labeler or about.labeler,
        allow_non_ema=allow_non_ema,
    )


def load_job(options: Options, sources: Sources, plan: GeneratedPlan, device: str) -> Job:
    """Load both networks onto the device, and make a GPU the current one."""
    recipe, place = options.resolved, torch.device(device)
    if place.type == "cuda":  # else kernels and streams would also take memory of the first GPU
        torch.cuda.set_device(place)
    classifier, preprocessing = load_classifier(sources.labeler)
    return Job(
        generator=Generator(load_unet(sources.generator), place, recipe.precision),
        labeler=Labeler(classifier, preprocessing, place, recipe.precision, recipe.label_batch),
        sampler=recipe.sampler,
        schedule=linear_schedule(),
        seed=options.seed,
        micro_batch=recipe.micro_batch,
        fingerprint=plan.fingerprint,
        conditioning=plan.conditioning,
        labels=recipe.labels,
        streams=options.streams if place.type == "cuda" else 1,
    )


@dataclass(frozen=True)
class Estimate:
    """Cost of a run, from one measured micro-batch on this device."""

    network_calls: int  # of one image each, padding included
    flop_per_call: float
    seconds_per_call: float
    label_seconds: float  # an image
    write_seconds: float  # an image, on one core
    png_bytes: float  # an image

    @property
    def device_seconds(self) -> float:
        return self.network_calls * self.seconds_per_call

    def bytes(self, images: int) -> int:
        """Return the bytes of the shards: two tar headers, the PNG and the label, each filled up to
        512 bytes.
        """
        blocks = 3 + -(-self.png_bytes // 512)
        return int(images * blocks * 512)


def estimate(job: Job, layout: Layout) -> Estimate:
    """Measure two network calls, one labeled micro-batch and 256 PNGs."""
    batches = sum(-(-len(shard) // job.micro_batch) for shard in layout.shards())
    device = job.generator.device
    x = torch.randn(job.micro_batch, 3, 32, 32, device=device)
    predict = predictor(job, _first(job))
    step = _seconds(lambda: predict(x, 500), device)
    calls = job.conditioning.calls_per_step if job.conditioning else 1
    pixels = make_images(replace(job, sampler=SamplerConfig("dpm_solver_pp_2m", 2)), _first(job))
    label = _seconds(lambda: job.labeler(pixels), device)
    pictures = pixels[:256].cpu().numpy()
    start = time.perf_counter()
    sizes = [len(encode_png(picture)) for picture in pictures]
    write = (time.perf_counter() - start) / len(pictures)
    return Estimate(
        network_calls=batches * job.micro_batch * job.sampler.network_calls * calls,
        flop_per_call=flop_per_call(job.generator.network),
        seconds_per_call=step / job.micro_batch / calls,
        label_seconds=label / job.micro_batch,
        write_seconds=write,
        png_bytes=float(np.mean(sizes)),
    )


def flop_per_call(network: torch.nn.Module) -> float:
    """Floating-point operations of one image's forward pass (two a multiply-add)."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(network.parameters()).device
    x, t = torch.zeros(1, 3, 32, 32, device=device), torch.zeros(1, device=device)
    takes_classes = getattr(network, "class_embedding", None) is not None
    classes = torch.zeros(1, dtype=torch.int64, device=device) if takes_classes else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x, t, classes)
    return float(counter.get_total_flops())


def _first(job: Job) -> torch.Tensor:
    return torch.arange(job.micro_batch, device=job.generator.device)


def _seconds(call: Any, device: torch.device) -> float:
    """Wall time of a call, the second of two."""
    for _ in range(2):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - start
