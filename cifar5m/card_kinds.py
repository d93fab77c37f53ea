"""What a card says of each kind of set beyond its own plan: one row a kind."""

from dataclasses import dataclass, replace
from typing import Any, Final

_NAKKIRAN = (
    "P. Nakkiran, B. Neyshabur, H. Sedghi. The Deep Bootstrap Framework: Good Online Learners are "
    "Good Offline Generalizers. ICLR 2021. arXiv:2010.08127"
)
_HO = (
    "J. Ho, A. Jain, P. Abbeel. Denoising Diffusion Probabilistic Models. NeurIPS 2020. "
    "arXiv:2006.11239"
)
_SONG = (
    "J. Song, C. Meng, S. Ermon. Denoising Diffusion Implicit Models. ICLR 2021. arXiv:2010.02502"
)
_BIT = (
    "A. Kolesnikov et al. Big Transfer (BiT): General Visual Representation Learning. ECCV 2020. "
    "arXiv:1912.11370"
)
_CIFAR = "A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. 2009"
_IMAGENET = (
    "O. Russakovsky et al. ImageNet Large Scale Visual Recognition Challenge. IJCV 2015. "
    "arXiv:1409.0575"
)
_WORDNET = "G. A. Miller. WordNet: A Lexical Database for English. CACM 1995"

_MACHINE_LABELS = (
    "Labels are a classifier's opinion, no person has looked at them. Every image has one, also "
    "where the picture shows nothing; the probabilities in `meta/` say how sure the classifier was."
)
_MEMORY = (
    "The generator was trained on CIFAR-10, and such models can reproduce training images; a model "
    "trained here has indirectly seen CIFAR-10."
)
_BALANCE = "An unconditional generator balances classes only roughly: see the counts."


@dataclass(frozen=True)
class Kind:
    """`about` is the first paragraph; `seeds` says what decides the randomness of an image."""

    title: str
    about: str
    seeds: str
    annotations: str  # the Hub's annotations_creators
    sources: tuple[str, ...]  # the Hub's source_datasets
    tags: tuple[str, ...]
    limits: tuple[str, ...]
    citations: tuple[str, ...]


# By what the plan calls "dataset".
KINDS: Final = {
    "cifar5m": Kind(
        title="CIFAR-5m",
        about=(
            "CIFAR-10-like images sampled from a diffusion model and labelled by a classifier, in "
            "the manner of CIFAR-5m (Nakkiran et al.), made anew: these are not its images."
        ),
        seeds=(
            "The noise of image i at step t is Philox 4x32-10 of (seed, i, t): it depends on no "
            "batch, shard, device or restart. On one kind of device and one set of package "
            "versions the plan gives these bytes again."
        ),
        annotations="machine-generated",
        sources=("extended|cifar10",),
        tags=("synthetic", "cifar-10", "diffusion", "deep-bootstrap"),
        limits=(_MACHINE_LABELS, _MEMORY, _BALANCE),
        citations=(_NAKKIRAN, _HO, _SONG, _BIT, _CIFAR),
    ),
    "import": Kind(
        title="CIFAR-5m, imported",
        about=(
            "Images and labels that existed before, rewritten without loss as shards. Their files "
            "are named by hash below."
        ),
        seeds="Nothing was drawn at random here, and how the images were made is not known.",
        annotations="machine-generated",
        sources=("extended|cifar10",),
        tags=("cifar-10", "deep-bootstrap"),
        limits=("Labels are those of the source; where it had none beside them, the probabilities "
                "in `meta/` are one-hot.",),
        citations=(_NAKKIRAN, _CIFAR),
    ),
    "dogbird": Kind(
        title="ImageNet-DogBird",
        about="Photographs of ImageNet in two classes, dogs and birds, by the tree of WordNet.",
        seeds="The plan names what was drawn with its seed.",
        annotations="expert-generated",
        sources=("extended|imagenet-1k",),
        tags=("imagenet", "deep-bootstrap"),
        limits=("The photographs are ImageNet's, under its terms of access.",),
        citations=(_NAKKIRAN, _IMAGENET, _WORDNET),
    ),
}  # fmt: skip


def kind_of(plan: dict[str, Any]) -> Kind:
    """The row of a plan's "dataset"; of an import that is not of the released parts, and of any
    other, a row that claims nothing of where the images are from.
    """
    dataset = plan.get("dataset")
    if dataset == "import" and plan.get("source", {}).get("form") != "parts":
        return replace(
            KINDS["import"],
            title="Imported images",
            annotations="other",
            sources=(),
            tags=("deep-bootstrap",),
            citations=(_NAKKIRAN,),
        )
    if dataset in KINDS:
        return KINDS[dataset]
    return Kind(
        title=dataset or "Images",
        about="Labelled images in WebDataset shards.",
        seeds="As the plan says.",
        annotations="other",
        sources=(),
        tags=("deep-bootstrap",),
        limits=(),
        citations=(_NAKKIRAN,),
    )
