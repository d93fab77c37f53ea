"""Measure the bundled recipes and write their model card, cifar5m/tiny/README.md.

    python tools/card_tiny.py --data DIR
    python tools/card_tiny.py --data DIR --sweep tiny-conditional

Makes 10,000 images with each recipe as it is (in --work, resumed by the same command), labels the
test images, and compares in the labeler's features, and in those of every further --labeler. About
15 minutes a recipe on two CPU cores. With --sweep it measures samplers, starts, steps and guidances
of one recipe instead, prints the best and writes nothing but its log.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from tiny_common import load_cifar10
from tiny_sweep import MOST_CALLS, sweep

from cifar5m.auditing.frechet import Moments, frechet_distance, moments
from cifar5m.commands.generate import main as generate
from cifar5m.labels.labeler import Labeler, load_classifier
from cifar5m.sampling.job import Options, find_sources, load_job, plan_of
from cifar5m.sampling.recipes import RECIPES
from cifar5m.weights.sources import find_labeler
from worlds.formats.layout import CIFAR10_CLASSES
from worlds.formats.plan import load_plan
from worlds.formats.shards import decode_image, read_arrays, read_samples

TINY = Path(__file__).resolve().parent.parent / "cifar5m" / "tiny"
GENERATORS = {"tiny": "generator", "tiny-conditional": "conditional"}  # recipe: directory
CHUNK = 1_000

CARD = """\
# The networks of the recipes {{ recipes | map("tick") | join(" and ") }}

Small networks, so that `cifar5m-generate --recipe {{ recipes | last }}` makes a labeled set on any
machine, without a network and without a GPU. They are for trying things out. **They are not the
networks of CIFAR-5m**: they are far smaller and far less trained than Ho et al.'s U-Net and
BiT-M-R152x2, their images are of another distribution, and no figure measured on them says anything
about CIFAR-5m. {{ remark }}

| | {{ networks | map(attribute="title") | join(" | ") }} |
|---|{% for network in networks %}---|{% endfor %}

{% for name in ("network", "parameters", "bytes, fp16", "data", "images seen", "hours of training", "begun from", "options", "torch") %}
| {{ name }} | {{ networks | map(attribute=name) | join(" | ") }} |
{% endfor %}

Trained by `tools/train_tiny.py`, where losses, augmentation and averages can be read; the same
commands with a GPU's time give better weights, which drop in without a code change.

## Measured

| float32, on the {{ device }} | {{ recipes | map("tick") | join(" | ") }} |
|---|{% for recipe in recipes %}---|{% endfor %}

{% for name, values in measured.items() %}
| {{ name }} | {{ values | join(" | ") }} |
{% endfor %}

Of the labelers, on the {{ test_images }} test images:

| labeler | accuracy | mean confidence | Frechet distance, test against train |
|---|---|---|---|
{% for row in labelers %}
| {{ row.name }} | {{ row.accuracy }} % | {{ row.confidence }} % | {{ row.reference }} |
{% endfor %}

A distance is in the features of the labeler that is named: it compares with the last column and
with other weights measured by `tools/card_tiny.py` on the same labeler, and with no published FID.

License: Apache-2.0, as the project. CIFAR-10 itself carries no license.
"""


@dataclass(frozen=True)
class Reference:
    """A labeler, and how it sees CIFAR-10."""

    name: str
    labeler: Labeler
    train: Moments
    test: Moments
    accuracy: float
    confidence: float


@dataclass(frozen=True)
class Samples:
    """The images of a recipe and what its own labeler says of them."""

    images: np.ndarray  # uint8 (N, 32, 32, 3)
    labels: np.ndarray  # int64 (N,)
    probabilities: np.ndarray  # float64 (N, 10)
    requested: np.ndarray | None  # int64 (N,)


def look(labeler: Labeler, images: np.ndarray) -> tuple[Moments, np.ndarray]:
    """Return the moments of a labeler's features, and its probabilities float32 (N, 10)."""
    probabilities: list[np.ndarray] = []

    def features() -> Iterator[np.ndarray]:
        for start in range(0, len(images), CHUNK):
            chunk = torch.from_numpy(images[start : start + CHUNK]).to(labeler.device)
            found = labeler.features_and_probabilities(chunk)
            probabilities.append(found[1].cpu().numpy())
            print(f"labeled {start + len(chunk):,} of {len(images):,} images", file=sys.stderr)
            yield found[0].cpu().numpy()

    found = moments(features())
    return found, np.concatenate(probabilities)


def measure_labeler(source: str, data: Path, work: Path, device: str = "cpu") -> Reference:
    """Label CIFAR-10, or read from `work` what these weights gave before."""
    weights = find_labeler(source)
    classifier, preprocessing = load_classifier(weights)
    labeler = Labeler(classifier, preprocessing, torch.device(device), "fp32", batch=100)
    name = Path(source).name
    kept = work / f"reference-{weights.sha256[:16]}.npz"
    if not kept.exists():
        (train, _), (test, targets) = (load_cifar10(data, split) for split in ("train", "test"))
        seen, (near, probabilities) = look(labeler, train)[0], look(labeler, test)
        accuracy = (probabilities.argmax(1) == targets).mean()
        facts = (accuracy, probabilities.max(1).mean(), len(train), len(test))
        arrays = [seen.mean, seen.covariance, near.mean, near.covariance]
        np.savez(kept, facts=facts, **{f"array{i}": array for i, array in enumerate(arrays)})
    with np.load(kept) as found:
        accuracy, confidence, train_images, test_images = found["facts"].tolist()
        mean, covariance, test_mean, test_covariance = (found[f"array{i}"] for i in range(4))
    return Reference(
        name,
        labeler,
        Moments(mean, covariance, int(train_images)),
        Moments(test_mean, test_covariance, int(test_images)),
        accuracy,
        confidence,
    )


def make_samples(recipe: str, folder: Path, count: int, device: str) -> Samples:
    """Make the images of a recipe as it is, or go on with them."""
    options = ["--recipe", recipe, "--n", str(count), "--split", f"train={count}"]
    options += ["--shard-size", "640", "--device", device, "--out", str(folder)]
    if generate(options):
        raise SystemExit(f"the recipe {recipe} did not run")
    images, sides = [], []
    for shard in load_plan(folder).shards:
        images += [decode_image(data) for _, data, _ in read_samples(folder / shard.tar)]
        sides.append(read_arrays(folder, shard))
    requested = [side.requested for side in sides if side.requested is not None]
    return Samples(
        np.stack(images),
        np.concatenate([side.label for side in sides]),
        np.concatenate([side.probabilities for side in sides]).astype(np.float64),
        np.concatenate(requested) if requested else None,
    )


def measure_recipe(recipe: str, samples: Samples, references: list[Reference]) -> dict[str, str]:
    """Return the card's rows of one recipe."""
    row = RECIPES[recipe]
    chosen = samples.probabilities.argmax(1)
    rows = {
        "sampler": row.distribution,
        "label": "the requested class" if row.labels == "requested" else "the labeler's",
        "images": f"{len(chosen):,}",
        "labeler's mean confidence": f"{100 * samples.probabilities.max(1).mean():.1f} %",
        "classes, by the labeler": histogram(chosen),
    }
    for reference in references:
        found, probabilities = look(reference.labeler, samples.images)
        distance = frechet_distance(found, reference.train)
        rows[f"Frechet distance to train, labeler {reference.name}"] = f"{distance:.2f}"
        agreed = "-"
        if samples.requested is not None:
            share = (probabilities.argmax(1) == samples.requested).mean()
            agreed = f"{100 * share:.1f} %"
        rows[f"requested class found by labeler {reference.name}"] = agreed
    return rows


def histogram(labels: np.ndarray) -> str:
    counts = np.bincount(labels, minlength=len(CIFAR10_CLASSES))
    return ", ".join(f"{n} {c:,}" for n, c in zip(CIFAR10_CLASSES, counts, strict=True))


def network_facts(title: str, kind: str, network: str) -> dict[str, str]:
    """Return the card's column of one network, from its training.json."""
    training = json.loads((TINY / kind / "training.json").read_text())
    weights = next((TINY / kind).glob("*.safetensors"))
    options = ", ".join(f"{name} {value}" for name, value in training["options"].items())
    return {
        "title": title,
        "network": network,
        "parameters": f"{training['parameters']:,}",
        "bytes, fp16": f"{weights.stat().st_size:,}",
        "data": training["data"],
        "images seen": f"{training['images_seen']:,}",
        "hours of training": f"{training['minutes'] / 60:.2f}",
        "begun from": training.get("initial", "random weights"),
        "options": options,
        "torch": training["torch"],
    }


def write_card(
    recipes: list[str],
    measured: list[dict[str, str]],
    references: list[Reference],
    remark: str,
    device: str,
) -> str:
    """Return the text of the card."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["tick"] = lambda text: f"`{text}`"
    unet = "diffusers `UNet2DModel`, predicts noise, linear betas as Ho et al."
    resnet = "timm `resnetv2_18` of width 32, input resized to 128 px"
    networks = [network_facts(f"generator of `{r}`", GENERATORS[r], unet) for r in recipes]
    networks.append(network_facts("labeler", "labeler", resnet))
    rows = [
        {
            "name": reference.name,
            "accuracy": f"{100 * reference.accuracy:.2f}",
            "confidence": f"{100 * reference.confidence:.1f}",
            "reference": f"{frechet_distance(reference.test, reference.train):.2f}",
        }
        for reference in references
    ]
    return environment.from_string(CARD).render(
        recipes=recipes,
        remark=remark,
        device="GPU" if device == "cuda" else "CPU",
        networks=networks,
        measured={name: [each[name] for each in measured] for name in measured[0]},
        labelers=rows,
        test_images=f"{references[0].test.count:,}",
    )


def run_sweep(args: argparse.Namespace, reference: Reference) -> None:
    """Measure the settings of one recipe and print the best."""
    batch = min(RECIPES[args.sweep].micro_batch, args.sweep_images)
    options = Options(
        n=args.sweep_images, recipe=args.sweep, generator=args.generator, micro_batch=batch
    )
    sources = find_sources(options)
    job = load_job(options, sources, plan_of(options, sources), args.device)
    best = sweep(job, reference.train, args.sweep_images, args.work / "sweep.jsonl")
    print(f"best within {MOST_CALLS} network calls an image: {best.candidate.words}")
    print(f"Frechet distance {best.distance:.3f} of {args.sweep_images:,} images")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    there = [name for name, kind in GENERATORS.items() if (TINY / kind / "config.json").exists()]
    option = parser.add_argument
    option("--data", type=Path, required=True, help="CIFAR-10, or a folder with cifar10_jpeg.py")
    option("--recipes", nargs="+", default=there, choices=list(GENERATORS), metavar="RECIPE")
    option("--labeler", action="append", default=[], help="a further labeler to measure with")
    option("--images", type=int, default=10_000, help="of each recipe, >= 2 (default 10000)")
    option("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")
    option("--remark", default="", help="what a look at the images showed")
    option("--sweep", choices=list(GENERATORS), help="choose the settings of this recipe")
    option("--sweep-images", type=int, default=1_024, help="of a candidate (default 1024)")
    option("--generator", help="with --sweep: directory of weights, instead of the recipe's")
    option("--out", type=Path, default=TINY / "README.md", help="the card")
    option("--work", type=Path, default=TINY.parents[1] / "runs" / "tiny" / "card")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    sources = ["tiny", *args.labeler]
    references = [measure_labeler(source, args.data, args.work, args.device) for source in sources]
    if args.sweep:
        run_sweep(args, references[0])
        return 0
    measured = [
        measure_recipe(r, make_samples(r, args.work / r, args.images, args.device), references)
        for r in args.recipes
    ]
    card = write_card(args.recipes, measured, references, args.remark, args.device)
    (args.work / "card.json").write_text(json.dumps(dict(zip(args.recipes, measured, strict=True))))
    args.out.write_text(card)
    print(card)
    return 0


if __name__ == "__main__":
    sys.exit(main())
