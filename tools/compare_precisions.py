"""What a lower precision does to generated images: the same images in two precisions, paired.

    python tools/compare_precisions.py                                # tf32 and bf16-weights, a GPU
    python tools/compare_precisions.py --recipe tiny --n 200 --precisions fp32 bf16-weights

Both sets begin from the same noise, so equal arithmetic would give equal bytes. Said are the share
of equal pixels, the mean difference in gray levels, and the Frechet distance of the two sets in the
features of the recipe's labeler, run in float32. Beside it stands the distance of the first set to
one of another seed: what chance alone makes of n images. The last line is JSON.
"""

import json
import sys
from dataclasses import replace

import numpy as np
import torch

from cifar5m.auditing.frechet import frechet_distance, moments
from cifar5m.labels.labeler import Labeler, load_classifier
from cifar5m.sampling.generate import Job, make_images
from cifar5m.sampling.job import Options, find_sources, load_job, plan_of
from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser
from worlds.formats.plan import package_versions
from worlds.runtime.device import device_name, float32_products, pick_device


def generate(job: Job, n: int) -> torch.Tensor:
    """Return the first n images, uint8 (n, 32, 32, 3) on the CPU."""
    made = []
    with float32_products(job.generator.precision):
        for first in range(0, n, job.micro_batch):
            index = torch.arange(first, first + job.micro_batch, device=job.generator.device)
            made.append(make_images(job, index).cpu())
            print(f"{job.generator.precision}: {min(n, first + job.micro_batch):,} of {n:,} images")
    return torch.cat(made)[:n]


def compare(
    options: Options, precisions: tuple[str, str], device: torch.device
) -> dict[str, float]:
    """Return pixel agreement and Frechet distances of the options' images in two precisions."""
    sources, sets = find_sources(options), []
    for one in [replace(options, precision=name) for name in precisions]:  # both are checked first
        job = load_job(one, sources, plan_of(one, sources), str(device))
        sets.append(generate(job, options.n))
        if len(sets) == 1:
            other = generate(replace(job, seed=options.seed + 1), options.n)
        del job  # and its memory
    classifier, preprocessing = load_classifier(sources.labeler)
    batch = options.resolved.label_batch
    labeler = Labeler(classifier, preprocessing, device, "fp32", batch)

    def moments_of(images: torch.Tensor) -> object:
        parts = images.split(batch)
        return moments(labeler.features(part.to(device)).cpu().numpy() for part in parts)

    first, second, chance = (moments_of(images) for images in (*sets, other))
    difference = np.abs(np.subtract(*(images.numpy().astype(np.int16) for images in sets)))
    return {
        "equal_pixels": float((difference == 0).mean()),
        "equal_images": float((difference == 0).all((1, 2, 3)).mean()),
        "mean_difference": float(difference.mean()),
        "frechet": frechet_distance(first, second),  # type: ignore[arg-type]
        "frechet_of_another_seed": frechet_distance(first, chance),  # type: ignore[arg-type]
    }


def main(argv: list[str] | None = None) -> int:
    parse = Parser(prog="compare_precisions", description=__doc__)
    parse.add_argument("--n", type=int, default=10_000, help="images, >= 2 (default 10000)")
    parse.add_argument("--recipe", default="cifar5m", help="default cifar5m")
    parse.add_argument("--precisions", nargs=2, default=("tf32", "bf16-weights"))
    parse.add_argument("--steps", type=int, help="sampler steps (default: the recipe's)")
    parse.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:K (default auto)")
    args = parse.parse_args(argv)

    def run() -> int:
        if args.n < 2:
            raise ValueError(f"--n must be at least 2, got {args.n}")
        options = Options(args.n, args.recipe, steps=args.steps)
        device, pair = pick_device(args.device), tuple(args.precisions)
        found = compare(options, pair, device)
        where = {"device": device_name(device), "versions": package_versions()}
        names = {"benchmark": "precisions", "recipe": args.recipe, "precisions": pair}
        print(json.dumps({**names, "n": args.n, **found, **where}))
        return 0

    return exit_code(parse, run)


if __name__ == "__main__":
    sys.exit(main())
