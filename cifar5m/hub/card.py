"""The card of a published dataset, and the listing that timm's reader asks for.

    README.md    YAML that `datasets` and the Hub's viewer read: licence, configs, features with
                 class names, counts; then text: how it was made, by what, with which hashes
    _info.json   splits, shards and their lengths, for timm's `wds/` datasets

Both are functions of the folder: what its plan, records, second labellings and audit say, and
nothing that was not measured.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from cifar5m.labels.labeling import LABELS_FOLDER, SUMMARY, labelling_names
from worlds.formats.layout import AUDIT, CARD, PARQUET_FOLDER, PLAN, TIMM_INFO, Shard, read_plan
from worlds.formats.shards import read_record
from worlds.runtime.files import atomic_write

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


_MARK: Final = "<!-- Written by cifar5m-publish: run it again rather than edit this file. -->"
# What the card says elsewhere, or at a length that nobody reads.
_TOLD: Final = {
    *("format", "splits", "shard_size", "class_names", "extension", "image_shape", "fingerprint"),
    *("about", "generator_config", "labeler_config"),
}
# The Hub's names of licences that a recipe may state; everything else is "other", with its words.
_LICENSES: Final = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-sa-4.0")
_LISTED: Final = 12  # of a plan's list that are written out
_SIZES: Final = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


@dataclass(frozen=True)
class Facts:
    """What a card is written from. `shards` are those published; `duplicates` is verify's count."""

    folder: Path
    repo: str
    shards: Sequence[Shard]
    duplicates: int
    license: str | None = None  # default: what the plan says
    parquet: bool = False

    @cached_property
    def plan(self) -> dict[str, Any]:
        defaults = {"extension": "png", "image_shape": [32, 32, 3]}
        return defaults | read_plan(self.folder)

    @cached_property
    def records(self) -> dict[Shard, dict[str, Any]]:
        return {shard: read_record(self.folder, shard) or {} for shard in self.shards}


def write_card(facts: Facts) -> None:
    """Write the card and the timm listing into the folder. ValueError as `made_files`."""
    for name, content in made_files(facts).items():
        with atomic_write(facts.folder / name) as stream:
            stream.write(content)


def made_files(facts: Facts) -> dict[str, bytes]:
    """The content of the files that `write_card` writes.

    ValueError where a README.md lies there that is somebody's own, or an audit that is none, or is
    another set's.
    """
    path = facts.folder / CARD
    if path.is_file() and _MARK.encode() not in path.read_bytes():
        raise ValueError(f"{path} was not written by cifar5m-publish: move it away first")
    info = json.dumps(timm_info(facts.shards), indent=2) + "\n"
    return {TIMM_INFO: info.encode(), CARD: card_text(facts).encode()}


def timm_info(shards: Sequence[Shard]) -> dict[str, Any]:
    """What timm's ReaderWds reads of `_info.json`."""
    splits: dict[str, Any] = {}
    for shard in shards:
        empty = {"name": shard.split, "num_samples": 0, "filenames": [], "shard_lengths": []}
        split = splits.setdefault(shard.split, empty)
        split["num_samples"] += len(shard)
        split["filenames"].append(str(shard.tar))
        split["shard_lengths"].append(len(shard))
    return {"splits": splits}


def card_text(facts: Facts) -> str:
    """The whole README.md."""
    plan = facts.plan
    kind = kind_of(plan)
    sections = [
        f"---\n{_metadata(facts, plan, kind)}\n---\n{_MARK}",
        f"# {kind.title}\n\n{kind.about}",
        "\n".join(_sizes(facts, plan)),
        _loading(facts, plan),
        "## How it was made\n\n" + "\n".join(_making(facts, plan, kind)),
        "## Labels\n\n" + "\n".join(_labels(facts, plan)),
        "## Classes\n\n" + "\n".join(_classes(facts, plan)),
        "## Checks\n\n" + "\n".join(_checks(facts, plan)),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in (*kind.limits, _licence_line(plan))),
        "## To cite\n\n" + "\n".join(f"- {line}" for line in kind.citations),
    ]
    return "\n\n".join(sections) + "\n"


def _metadata(facts: Facts, plan: dict[str, Any], kind: Kind) -> str:
    from huggingface_hub import DatasetCardData

    images = sum(map(len, facts.shards))
    size = next((name for limit, name in _SIZES if images < limit), "10M<n<100M")
    data = DatasetCardData(
        pretty_name=kind.title,
        task_categories=["image-classification"],
        annotations_creators=[kind.annotations],
        size_categories=[size],
        source_datasets=list(kind.sources) or None,
        tags=[*kind.tags, "webdataset"],
        configs=[_config(facts)],
        dataset_info=[_info(facts, plan)],
        **_license(facts, plan),
    )
    return data.to_yaml(line_break="\n")


def _license(facts: Facts, plan: dict[str, Any]) -> dict[str, str]:
    said = str(plan.get("about", {}).get("licence", ""))
    chosen = facts.license or said.lower()
    if facts.license or chosen in _LICENSES:
        return {"license": chosen}
    return {"license": "other", "license_name": "see-limits"}


def _licence_line(plan: dict[str, Any]) -> str:
    said = plan.get("about", {}).get("licence")
    stated = f"Licence, as the recipe states it: {said}" if said else "The plan names no licence"
    return f"{stated}. CIFAR-10 and ImageNet carry terms of their own."


def _split_names(facts: Facts) -> list[str]:
    return list(dict.fromkeys(shard.split for shard in facts.shards))


def _config(facts: Facts) -> dict[str, Any]:
    """Parquet where it is published, else the tars: `datasets` reads one format a repository."""
    place = f"{PARQUET_FOLDER}/{{}}-*.parquet" if facts.parquet else "data/{}-*.tar"
    files = [{"split": split, "path": place.format(split)} for split in _split_names(facts)]
    return {"config_name": "default", "data_files": files}


def _info(facts: Facts, plan: dict[str, Any]) -> dict[str, Any]:
    """Features as `datasets` writes them, so that labels come with their names."""
    names = {str(number): title for number, title in enumerate(plan["class_names"])}
    label = {"class_label": {"names": names}}
    features: list[dict[str, Any]]
    if facts.parquet:
        features = [
            {"name": "image", "dtype": "image"},
            {"name": "label", "dtype": label},
            {"name": "index", "dtype": "int64"},
            {"name": "probabilities", "list": "float32"},
        ]
    else:
        features = [
            {"name": plan["extension"], "dtype": "image"},
            {"name": "cls", "dtype": label},
            {"name": "__key__", "dtype": "string"},
            {"name": "__url__", "dtype": "string"},
        ]
    splits = [
        {"name": name, "num_bytes": size, "num_examples": count}
        for name, (_, count, size) in _totals(facts).items()
    ]
    return {"config_name": "default", "features": features, "splits": splits}


def _totals(facts: Facts) -> dict[str, tuple[int, int, int]]:
    """Of each split: shards, images, bytes of the tars."""
    found: dict[str, tuple[int, int, int]] = {}
    for shard, record in facts.records.items():
        shards, images, size = found.get(shard.split, (0, 0, 0))
        found[shard.split] = (shards + 1, images + len(shard), size + record["bytes"])
    return found


def _sizes(facts: Facts, plan: dict[str, Any]) -> Iterator[str]:
    height, width, _ = plan["image_shape"]
    size = f"of {height}x{width} pixels" if height and width else "of differing sizes"
    yield "| split | images | of the plan's | shards | bytes |\n|---|---|---|---|---|"
    for split, (shards, images, total) in _totals(facts).items():
        planned = plan["splits"][split]
        yield f"| {split} | {images:,} | {planned:,} | {shards:,} | {total:,} |"
    yield (
        f"\nImages {size}, {plan['extension']}, in {len(plan['class_names'])} classes. "
        f"Plan `{plan['fingerprint']}`."
    )


def _loading(facts: Facts, plan: dict[str, Any]) -> str:
    split = facts.shards[0].split
    shards = [shard.tar.name for shard in facts.shards if shard.split == split]
    pattern = shards[0]
    if 1 < len(shards) == facts.shards[0].count:
        pattern = pattern.replace("-00000-", f"-{{00000..{len(shards) - 1:05d}}}-")
    columns = "image, label, index, probabilities" if facts.parquet else f"{plan['extension']}, cls"
    lines = [
        "```python",
        f'datasets.load_dataset("{facts.repo}")  # {columns}; labels with names',
        f'worlds.open_store("hf://datasets/{facts.repo}")  # Real and Ideal World loaders',
        "# in a local copy:",
        f'webdataset.WebDataset("data/{pattern}").decode("rgb8")',
        f'timm.data.create_dataset("wds/", root=".", split="{split}")',
        "```",
        f"\n`{PLAN}` holds all that decides the content. `meta/` holds, for each shard, the sha256 "
        "of its tar, and as numpy arrays the labels and the probabilities of all classes.",
    ]
    return "## To load it\n\n" + "\n".join(lines)


def _making(facts: Facts, plan: dict[str, Any], kind: Kind) -> Iterator[str]:
    about = plan.get("about", {})
    rows = {name: about[name] for name in ("recipe", "distribution", "generator") if name in about}
    rows |= {name: value for name, value in plan.items() if name not in _TOLD}
    records = facts.records.values()
    rows["devices"] = sorted({str(record.get("device", "unknown")) for record in records})
    rows["device hours"] = round(sum(record.get("seconds", 0) for record in records) / 3600, 2)
    yield "| | |\n|---|---|"
    yield from (f"| {name} | {_in_words(value)} |" for name, value in rows.items())
    yield f"\n{kind.seeds}"


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(inner)}" for name, inner in value.items())
    if isinstance(value, list) and len(value) > _LISTED:
        return f"{_in_words(value[:3])} ... ({len(value):,} in all, see `{PLAN}`)"
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    return str(value).replace("|", "\\|")


def _labels(facts: Facts, plan: dict[str, Any]) -> Iterator[str]:
    about = plan.get("about", {})
    if "labeler" in about:
        yield f"The label is the most probable class of the labeller `{about['labeler']}`."
    evaluation = about.get("labeler_evaluation")
    if evaluation:
        yield (
            f"Its accuracy on {evaluation['data']} ({evaluation['images']:,} images) is "
            f"{evaluation['accuracy']:.2%}, its mean confidence there "
            f"{evaluation['mean_confidence']:.2%}, its expected calibration error "
            f"{evaluation['calibration_error']:.4f}."
        )
    elif "labeler" in about:
        yield "Its accuracy was not measured by this project."
    if plan.get("labels") == "given":
        yield "Labels were given with the images."
    for name in labelling_names(facts.folder):
        path = facts.folder / LABELS_FOLDER / name / SUMMARY
        if path.is_file():
            summary = json.loads(path.read_text())
            yield (
                f"A second labeller, `{LABELS_FOLDER}/{name}`, gives the same label to "
                f"{summary['agreement']:.2%} of {summary['images']:,} images."
            )


def _classes(facts: Facts, plan: dict[str, Any]) -> Iterator[str]:
    splits = _split_names(facts)
    counts = [
        np.sum([r["classes"] for shard, r in facts.records.items() if shard.split == split], axis=0)
        for split in splits
    ]
    yield f"| class | {' | '.join(splits)} |\n|---|{'---|' * len(splits)}"
    for number, name in enumerate(plan["class_names"]):
        yield f"| {name} | {' | '.join(f'{int(count[number]):,}' for count in counts)} |"


def _checks(facts: Facts, plan: dict[str, Any]) -> Iterator[str]:
    yield (
        "Before it was sent every shard was hashed, every image decoded and every label compared "
        f"with its side file. {facts.duplicates:,} images have the same pixels as an earlier one."
    )
    path = facts.folder / AUDIT
    if not path.is_file():
        yield "\nNo audit (memorised images, label errors, distances to CIFAR-10) was made."
        return
    try:
        audit = json.loads(path.read_text())
        fingerprint, against = audit["dataset"]["fingerprint"], audit["cifar10"]["name"]
        images = audit["summary"]["images"]
        rows = [f"| {name} | {_number(value)} |" for name, value in audit["summary"].items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no audit: {error!r}; run the audit again") from error
    if fingerprint != plan["fingerprint"]:
        raise ValueError(f"{path} is of another set; run the audit again, or move it away")
    published = sum(map(len, facts.shards))
    of_all = "" if images == published else f" It saw {images:,} images, {published:,} are here."
    yield (
        f"\nThe audit (`{AUDIT}`) held the images against {against}, whose photographs `train` and "
        f"`test` mean in the figures' names; 'near' is a flag, no proof of a copy.{of_all}"
    )
    yield "\n| | |\n|---|---|"
    yield from rows


def _number(value: Any) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
