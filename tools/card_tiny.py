"""Measure the bundled recipe and write its model card, cifar5m/tiny/README.md.

    python tools/card_tiny.py --data ../shared/data

Makes 10,000 images with the recipe as it is (in --work, resumed by the same command), labels the
test photographs, and compares in the labeler's features. About 15 minutes on two CPU cores.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Template

import numpy as np
import torch
from train_tiny import load_cifar10

from cifar5m.auditing.frechet import Moments, frechet_distance, moments
from cifar5m.commands.generate import main as generate
from cifar5m.labels.labeler import Labeler, load_classifier
from cifar5m.sampling.recipes import RECIPES
from cifar5m.weights.sources import find_labeler
from worlds.formats.plan import load_plan
from worlds.formats.shards import decode_image, read_arrays, read_samples

TINY = Path(__file__).resolve().parent.parent / "cifar5m" / "tiny"
SAMPLES = 10_000
CHUNK = 1_000

CARD = Template("""\
# The networks of the recipe `tiny`

Two small networks, so that `cifar5m-generate --recipe tiny` makes a labeled set on any machine,
without a network and without a GPU. They are for trying things out. **They are not the networks of
CIFAR-5m**: both are far smaller and far less trained than Ho et al.'s U-Net and BiT-M-R152x2, their
images are of another distribution, and no figure measured on them says anything about CIFAR-5m.
$remark

| | generator | labeler |
|---|---|---|
| network | diffusers `UNet2DModel`, predicts noise, linear betas as Ho et al. | timm `resnetv2_18` of width 32, input resized to 128 px |
| parameters | $generator_parameters | $labeler_parameters |
| file | $generator_bytes bytes, fp16 | $labeler_bytes bytes, fp16 |
| data | $generator_data | $labeler_data |
| images seen | $generator_seen | $labeler_seen |
| training | $generator_minutes minutes | $labeler_minutes minutes |
| options | $generator_options | $labeler_options |

Trained on the CPU by `tools/train_tiny.py` with torch $torch, where losses, augmentation and averages
can be read; the same commands with a GPU's time give better weights, which drop in without a code
change. The training data is the JPEG copy of CIFAR-10 (quality 75), so every figure is of that copy.

## Measured

$recipe, float32, on the CPU.

| | |
|---|---|
| labeler, accuracy on the 10,000 test photographs | $accuracy % |
| labeler, mean confidence there | $confidence % |
| Frechet distance in the labeler's features, $samples images against train | $distance |
| the same, test photographs against train | $reference |
| labeler's mean confidence on the images | $image_confidence % |
| classes of the images | $classes |

The distance is in the features of this labeler: it compares with the line below it and with other
weights measured by `tools/card_tiny.py` on the same labeler, and with no published FID.

Licence: Apache-2.0, as the project. CIFAR-10 itself carries no licence.
""")


def labeler() -> Labeler:
    classifier, preprocessing = load_classifier(find_labeler("tiny"))
    return Labeler(classifier, preprocessing, torch.device("cpu"), "fp32", batch=100)


def chunks(images: np.ndarray) -> Iterator[torch.Tensor]:
    for start in range(0, len(images), CHUNK):
        yield torch.from_numpy(images[start : start + CHUNK])
        print(f"{start + CHUNK:,} of {len(images):,} images", file=sys.stderr)


def feature_moments(network: Labeler, images: np.ndarray) -> Moments:
    return moments(network.features(chunk).numpy() for chunk in chunks(images))


def make_samples(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, 32, 32, 3) images and float (N, 10) probabilities of the recipe as it is."""
    options = ["--recipe", "tiny", "--n", str(SAMPLES), "--split", f"train={SAMPLES}"]
    options += ["--shard-size", "640", "--device", "cpu", "--out", str(folder)]
    if generate(options):
        raise SystemExit("the recipe did not run")
    images, probabilities = [], []
    for shard in load_plan(folder).shards:
        images += [decode_image(data) for _, data, _ in read_samples(folder / shard.tar)]
        probabilities.append(read_arrays(folder, shard).probabilities.astype(float))
    return np.stack(images), np.concatenate(probabilities)


def facts(kind: str) -> dict[str, str]:
    """What the card says of one network's training."""
    training = json.loads((TINY / kind / "training.json").read_text())
    weights = next((TINY / kind).glob("*.safetensors"))
    options = ", ".join(f"{name} {value}" for name, value in training["options"].items())
    return {
        f"{kind}_parameters": f"{training['parameters']:,}",
        f"{kind}_bytes": f"{weights.stat().st_size:,}",
        f"{kind}_data": training["data"],
        f"{kind}_seen": f"{training['images_seen']:,}",
        f"{kind}_minutes": str(training["minutes"]),
        f"{kind}_options": options,
        "torch": training["torch"],
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_jpeg.py")
    parser.add_argument("--remark", default="", help="what a look at the images showed")
    parser.add_argument("--work", type=Path, default=TINY.parents[1] / "runs" / "tiny" / "card")
    args = parser.parse_args(argv)

    images, probabilities = make_samples(args.work)
    network = labeler()
    (train, _), (test, targets) = (load_cifar10(args.data, split) for split in ("train", "test"))
    found = torch.cat([network(chunk) for chunk in chunks(test)]).numpy()
    reference = feature_moments(network, train)
    classes = np.bincount(probabilities.argmax(1), minlength=10)
    names = json.loads((args.work / "plan.json").read_text())["class_names"]
    card = CARD.substitute(
        facts("generator") | facts("labeler"),
        remark=args.remark,
        recipe=RECIPES["tiny"].distribution,
        accuracy=f"{100 * (found.argmax(1) == targets).mean():.2f}",
        confidence=f"{100 * found.max(1).mean():.1f}",
        samples=f"{SAMPLES:,}",
        distance=f"{frechet_distance(feature_moments(network, images), reference):.2f}",
        reference=f"{frechet_distance(feature_moments(network, test), reference):.2f}",
        image_confidence=f"{100 * probabilities.max(1).mean():.1f}",
        classes=", ".join(f"{name} {count:,}" for name, count in zip(names, classes, strict=True)),
    )
    (TINY / "README.md").write_text(card)
    print(card)
    return 0


if __name__ == "__main__":
    sys.exit(main())
