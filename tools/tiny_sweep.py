"""Choose a recipe's sampler, start, steps and guidance by measurement, one after the other.

Every candidate makes the same images (equal noise, equal requested classes) and is judged by the
Frechet distance in the labeler's features. What was measured is kept in a JSON Lines file and not
measured again.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cifar5m.auditing.frechet import Moments, frechet_distance, moments
from cifar5m.sampling.classes import Conditioning, image_classes
from cifar5m.sampling.diffusion import SamplerConfig
from cifar5m.sampling.generate import Job, make_images

MOST_CALLS = 40  # network calls of one image
STARTS = (None, 900, 800, 700, 600, 500)
SAMPLERS = (("ddim", "quadratic"), ("dpm_solver_pp_2m", "uniform"), ("dpm_solver_pp_2m", "logsnr"))
GUIDANCES = (1.25, 1.5, 2.0, 3.0, 4.0)
STEPS = (10, 15, 20, 30, 40)


@dataclass(frozen=True)
class Candidate:
    """Settings to try."""

    sampler: SamplerConfig
    guidance: float = 1.0

    @property
    def calls(self) -> int:
        return self.sampler.network_calls * Conditioning(1, self.guidance, 0).calls_per_step

    @property
    def words(self) -> str:
        s = self.sampler
        start = "its own" if s.start is None else s.start
        return f"{s.name} {s.spacing}, {s.steps} steps from {start}, guidance {self.guidance:g}"


@dataclass(frozen=True)
class Result:
    """What a candidate's images are like."""

    candidate: Candidate
    distance: float
    agreement: float | None  # of requested class and labeler
    confidence: float

    @property
    def line(self) -> str:
        agreed = "" if self.agreement is None else f"{100 * self.agreement:10.1f}"
        return (
            f"{self.candidate.words:60}{self.candidate.calls:>6}{self.distance:10.3f}"
            f"{100 * self.confidence:10.1f}{agreed}"
        )


def sweep(job: Job, reference: Moments, images: int, log: Path) -> Result:
    """Measure candidates and return the best, with a line for each on stderr."""
    print(
        f"{'settings':60}{'calls':>6}{'distance':>10}{'conf. %':>10}{'agree %':>10}",
        file=sys.stderr,
    )
    known = dict(_read(log))

    def measure(candidate: Candidate) -> Result:
        key = json.dumps([job.fingerprint, images, asdict(candidate.sampler), candidate.guidance])
        if key not in known:
            known[key] = _measure(job, candidate, reference, images)
            with log.open("a") as stream:
                stream.write(json.dumps({"key": key} | known[key]) + "\n")
        result = Result(candidate, **known[key])
        print(result.line, file=sys.stderr)
        return result

    return choose(measure, job.conditioning is not None and job.conditioning.null_class is not None)


def choose(measure: Callable[[Candidate], Result], guided: bool) -> Result:
    """Return the best candidate, found one setting at a time: start, sampler, guidance, steps."""
    best = measure(Candidate(SamplerConfig("ddim", steps=20)))

    def settle(candidates: Iterator[Candidate]) -> None:
        nonlocal best
        allowed = [c for c in candidates if c.calls <= MOST_CALLS and c != best.candidate]
        best = min([best, *map(measure, allowed)], key=lambda result: result.distance)

    def changed(**changes: Any) -> Candidate:
        return replace(best.candidate, sampler=replace(best.candidate.sampler, **changes))

    settle(changed(start=start) for start in STARTS)
    settle(changed(name=name, spacing=spacing) for name, spacing in SAMPLERS)
    if guided:
        settle(replace(best.candidate, guidance=guidance) for guidance in GUIDANCES)
    settle(changed(steps=steps) for steps in STEPS)
    settle(changed(start=start) for start in _beside(best.candidate.sampler.start))
    return best


def _beside(start: int | None) -> list[int]:
    return [] if start is None else [s for s in (start - 50, start + 50) if 0 < s < 1000]


def _measure(job: Job, candidate: Candidate, reference: Moments, images: int) -> dict[str, Any]:
    conditioning = job.conditioning
    if conditioning is not None:
        conditioning = replace(conditioning, guidance=candidate.guidance)
    job = replace(job, sampler=candidate.sampler, conditioning=conditioning)
    features, probabilities = [], []
    for first in range(0, images, job.micro_batch):
        index = torch.arange(first, first + job.micro_batch, device=job.generator.device)
        pixels = make_images(job, index)[: images - first]
        found = job.labeler.features_and_probabilities(pixels)
        features.append(found[0].cpu().numpy())
        probabilities.append(found[1].cpu().numpy())
    chosen = np.concatenate(probabilities)
    agreement = None
    if conditioning is not None:
        requested = image_classes(job.seed, torch.arange(len(chosen)), conditioning.classes).numpy()
        agreement = float((chosen.argmax(1) == requested).mean())
    return {
        "distance": frechet_distance(moments(features), reference),
        "agreement": agreement,
        "confidence": float(chosen.max(1).mean()),
    }


def _read(log: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in log.read_text().splitlines() if log.exists() else ():
        row = json.loads(line)
        yield row.pop("key"), row
