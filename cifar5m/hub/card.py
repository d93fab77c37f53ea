"""The card of a published dataset, and the listing that timm's reader asks for.

    README.md    YAML that `datasets` and the Hub's viewer read: license, configs, features with
                 class names, counts; then text: how it was made, by what, with which hashes
    _info.json   splits, shards and their lengths, for timm's `wds/` datasets

Both are functions of the directory: what its plan, records, second labelings and audit say, and
nothing that was not measured. The text of the card is templates/card.md.j2.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from cifar5m.labels.agreement import Summary
from cifar5m.labels.labeling import LABELS_FOLDER, SUMMARY, labeling_names
from cifar5m.sampling.recipes import DEFAULT
from worlds.cli.pages import render_markdown
from worlds.formats.layout import AUDIT, CARD, PARQUET_FOLDER, PLAN, TIMM_INFO, Shard
from worlds.formats.shards import Record, load_record
from worlds.runtime.files import atomic_write
from worlds.runtime.json_files import load_json


@dataclass(frozen=True)
class Kind:
    """Metadata of a kind of dataset; its text is in the template, by `name`."""

    name: str
    title: str
    annotations: str = "other"  # the Hub's annotations_creators
    sources: tuple[str, ...] = ()  # the Hub's source_datasets
    tags: tuple[str, ...] = ()


_CIFAR10: Final = ("extended|cifar10",)
_RELEASED: Final = Kind("parts", "CIFAR-5m, imported", "machine-generated", _CIFAR10, ("cifar-10",))
# By what the plan calls "dataset".
KINDS: Final = {
    "cifar5m": Kind(
        *("cifar5m", "CIFAR-5m", "machine-generated", _CIFAR10),
        ("synthetic", "cifar-10", "diffusion"),
    ),
    "import": Kind("import", "Imported images"),
    "dogbird": Kind(
        *("dogbird", "ImageNet-DogBird", "expert-generated", ("extended|imagenet-1k",)),
        ("imagenet",),
    ),
}


def kind_of(plan: dict[str, Any]) -> Kind:
    """Return the kind of a plan; only the released parts and the published recipe are called
    CIFAR-5m, and of an unknown dataset nothing is claimed.
    """
    dataset, recipe = plan.get("dataset"), plan.get("about", {}).get("recipe")
    if dataset == "import" and plan.get("source", {}).get("form") == "parts":
        return _RELEASED
    kind = KINDS.get(str(dataset), Kind("other", dataset or "Images"))
    if dataset == "cifar5m" and recipe != DEFAULT:
        return replace(kind, title=f"CIFAR-10-like images, recipe {recipe}")
    return kind


_MARK: Final = "<!-- Written by cifar5m-publish: run it again rather than edit this file. -->"
# Fields of a plan that the card says elsewhere, or that are too long to read.
_TOLD: Final = {
    *("format", "splits", "shard_size", "class_names", "extension", "image_shape", "fingerprint"),
    *("about", "generator_config", "labeler_config"),
}
# The Hub's names of licenses that a recipe may state; everything else is "other", with its words.
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
    """The facts that a card is written from."""

    folder: Path
    repo: str
    shards: Sequence[Shard]  # published
    duplicates: int  # by verify's count
    license: str | None = None  # default: what the plan says
    parquet: bool = False

    @cached_property
    def plan(self) -> dict[str, Any]:
        defaults = {"extension": "png", "image_shape": [32, 32, 3]}
        return defaults | load_json(self.folder / PLAN, dict[str, Any])

    @property
    def about(self) -> dict[str, Any]:
        """Return what the plan says for people."""
        about: dict[str, Any] = self.plan.get("about", {})
        return about

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(shard.split for shard in self.shards))

    @property
    def images(self) -> int:
        return sum(map(len, self.shards))

    @cached_property
    def records(self) -> dict[Shard, Record]:
        return {shard: load_record(self.folder, shard) for shard in self.shards}


def write_card(facts: Facts) -> None:
    """Write the card and the timm listing into the folder. ValueError as `made_files`."""
    for name, content in made_files(facts).items():
        with atomic_write(facts.folder / name) as stream:
            stream.write(content)


def made_files(facts: Facts) -> dict[str, bytes]:
    """Return the content of the files that `write_card` writes.

    Raises ValueError if the directory has a README.md of somebody's own, or an audit that is
    invalid or another dataset's.
    """
    # Only a card that this module wrote is replaced.
    path = facts.folder / CARD
    if path.is_file() and _MARK.encode() not in path.read_bytes():
        raise ValueError(f"{path} was not written by cifar5m-publish: move it away first")
    info = json.dumps(timm_info(facts.shards), indent=2) + "\n"
    return {TIMM_INFO: info.encode(), CARD: card_text(facts).encode()}


def timm_info(shards: Sequence[Shard]) -> dict[str, Any]:
    """Return the content of `_info.json` for timm's ReaderWds."""
    # In the order of the shards, as the reader lists them.
    splits: dict[str, Any] = {}
    for shard in shards:
        empty = {"name": shard.split, "num_samples": 0, "filenames": [], "shard_lengths": []}
        split = splits.setdefault(shard.split, empty)
        split["num_samples"] += len(shard)
        split["filenames"].append(str(shard.tar))
        split["shard_lengths"].append(len(shard))
    return {"splits": splits}


def card_text(facts: Facts) -> str:
    """Return the whole README.md."""
    from markupsafe import Markup

    kind = kind_of(facts.plan)
    # Second labelings that were compared with the first, by name.
    paths = {n: facts.folder / LABELS_FOLDER / n / SUMMARY for n in labeling_names(facts.folder)}
    labelings = {name: load_json(p, Summary) for name, p in paths.items() if p.is_file()}
    return render_markdown(
        "cifar5m.hub",
        "card.md.j2",
        metadata=Markup(_metadata(facts, kind)),
        mark=Markup(_MARK),
        kind=kind.name,
        title=kind.title,
        facts=facts,
        plan=facts.plan,
        about=facts.about,
        totals=_totals(facts),
        pattern=_pattern(facts),
        making=_making(facts),
        labelings=labelings,
        agreement=_agreement(facts),
        classes=_classes(facts),
        audit=_audit(facts),
        images=facts.images,
        paths={"plan": PLAN, "labels": LABELS_FOLDER, "audit": AUDIT},
    )


def _metadata(facts: Facts, kind: Kind) -> str:
    from huggingface_hub import DatasetCardData

    size = next((name for limit, name in _SIZES if facts.images < limit), "10M<n<100M")
    said = str(facts.about.get("licence", "")).lower()
    # A license that the Hub does not know by name is explained in the text.
    license = {"license": facts.license or said}
    if not facts.license and said not in _LICENSES:
        license = {"license": "other", "license_name": "see-limits"}
    data = DatasetCardData(
        pretty_name=kind.title,
        task_categories=["image-classification"],
        annotations_creators=[kind.annotations],
        size_categories=[size],
        source_datasets=list(kind.sources) or None,
        tags=[*kind.tags, "deep-bootstrap", "webdataset"],
        configs=[_config(facts)],
        dataset_info=[_info(facts)],
        **license,
    )
    return data.to_yaml(line_break="\n")


def _config(facts: Facts) -> dict[str, Any]:
    """Name the Parquet files if there are any, else the tars: `datasets` reads one format."""
    place = f"{PARQUET_FOLDER}/{{}}-*.parquet" if facts.parquet else "data/{}-*.tar"
    files = [{"split": split, "path": place.format(split)} for split in facts.splits]
    return {"config_name": "default", "data_files": files}


def _info(facts: Facts) -> dict[str, Any]:
    """Return features as `datasets` writes them, so that labels come with their names."""
    # Columns as `datasets` finds them in Parquet, or in a WebDataset.
    names = {str(number): title for number, title in enumerate(facts.plan["class_names"])}
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
            {"name": facts.plan["extension"], "dtype": "image"},
            {"name": "cls", "dtype": label},
            {"name": "__key__", "dtype": "string"},
            {"name": "__url__", "dtype": "string"},
        ]
    # Counts of what is published, not of what was planned.
    splits = [
        {"name": name, "num_bytes": size, "num_examples": count}
        for name, (_, count, size) in _totals(facts).items()
    ]
    return {"config_name": "default", "features": features, "splits": splits}


def _totals(facts: Facts) -> dict[str, tuple[int, int, int]]:
    """Return shards, images and bytes of the tars of each split."""
    found: dict[str, tuple[int, int, int]] = {}
    for shard, record in facts.records.items():
        shards, images, size = found.get(shard.split, (0, 0, 0))
        found[shard.split] = (shards + 1, images + len(shard), size + record.bytes)
    return found


def _pattern(facts: Facts) -> str:
    """Return the name of the first split's tars, with braces where there are several."""
    # Braces only if no shard between the first and the last is missing.
    split = facts.shards[0].split
    shards = [shard.tar.name for shard in facts.shards if shard.split == split]
    if 1 < len(shards) == facts.shards[0].count:
        return shards[0].replace("-00000-", f"-{{00000..{len(shards) - 1:05d}}}-")
    return shards[0]


def _making(facts: Facts) -> dict[str, str]:
    """Return everything that decides the content, by name."""
    told = ("recipe", "distribution", "generator")
    rows: dict[str, Any] = {name: facts.about[name] for name in told if name in facts.about}
    rows |= {name: value for name, value in facts.plan.items() if name not in _TOLD}
    records = facts.records.values()
    rows["devices"] = sorted({record.device for record in records})
    rows["device hours"] = round(sum(record.seconds or 0 for record in records) / 3600, 2)
    return {name: _in_words(value) for name, value in rows.items()}


def _in_words(value: Any) -> str:
    # Nested values on one line; long lists by their beginning.
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(inner)}" for name, inner in value.items())
    if isinstance(value, list) and len(value) > _LISTED:
        return f"{_in_words(value[:3])} ... ({len(value):,} in all, see {PLAN})"
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    return str(value)


def _agreement(facts: Facts) -> float | None:
    """Return the share of images whose requested class the labeler finds, None if no class was
    requested.
    """
    if "conditioning" not in facts.plan:
        return None
    return sum(record.agreed or 0 for record in facts.records.values()) / facts.images


def _classes(facts: Facts) -> dict[str, list[int]]:
    """Return the images of each class, by split."""
    found = {}
    for split in facts.splits:
        counts = [r.classes for shard, r in facts.records.items() if shard.split == split]
        found[split] = np.sum(counts, axis=0).tolist()
    return found


def _audit(facts: Facts) -> dict[str, Any] | None:
    """Return the figures of the audit, None without one. ValueError as `made_files`."""
    path = facts.folder / AUDIT
    if not path.is_file():
        return None
    # All figures or none: a damaged report is an error.
    try:
        audit = load_json(path, dict[str, Any])
        fingerprint = audit["dataset"]["fingerprint"]
        found = {"against": audit["cifar10"]["name"], "images": int(audit["summary"]["images"])}
        found["rows"] = {name: _number(value) for name, value in audit["summary"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not an audit report: {error!r}; run the audit again"
        ) from error
    if fingerprint != facts.plan["fingerprint"]:
        raise ValueError(f"{path} is of another set; run the audit again, or move it away")
    return found


def _number(value: Any) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
