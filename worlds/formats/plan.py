"""The plan of a directory: everything that decides its content, and the fingerprint of that.

    plan = load_plan(folder)                      # what every dataset says
    plan = load_plan(folder, GeneratedPlan)       # and all that decides a generated one

A directory belongs to one plan. The same plan may be run again, by any number of processes on any
number of devices, and goes on where it stopped; another plan is refused, with the difference.
"""

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, overload

import msgspec

from worlds.formats.layout import PLAN, Layout, Shard
from worlds.runtime.files import atomic_write
from worlds.runtime.json_files import load_json

Count = Annotated[int, msgspec.Meta(ge=1, le=10**10)]
Side = Annotated[int, msgspec.Meta(ge=1, le=10**5)] | None  # None: of many sizes
Text = Annotated[str, msgspec.Meta(min_length=1)]

# Said for people, not part of the content: where weights lay on this machine, and the recipe's
# name.
NOT_CONTENT = ("about", "fingerprint")
PACKAGES = ("torch", "diffusers", "timm", "numpy", "pillow")


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError if a class name, which is printed to terminals, is not printable."""
    if wrong := [name for name in names if not str(name).isprintable()]:
        raise ValueError(f"class name {wrong[0]!a} is not printable text: rename it")


class SourceFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file that was imported, or for a directory of images their common hash."""

    path: str
    sha256: str
    bytes: int | None = None
    mtime_ns: int | None = None
    split: str | None = None  # that an .npz file became
    keys: tuple[str, str] | None = None  # of its images and labels


class Evaluation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """evaluation.json beside a labeler's weights: how good they are on labeled images."""

    data: str
    weights_sha256: str
    precision: str
    images: int
    accuracy: float
    mean_confidence: float
    calibration_error: float
    log_loss: float
    class_accuracy: tuple[float | None, ...]


class About(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Said for people and for repair: names, and where things lay on the machine that made them."""

    recipe: str | None = None
    distribution: str | None = None
    generator: str | None = None
    labeler: str | None = None
    licence: str | None = None
    labeler_evaluation: Evaluation | None = None
    files: tuple[SourceFile, ...] = ()  # imported
    model: str | None = None  # of a fine-tuning: what it began from, and the data
    weights: str | None = None
    data: str | None = None
    source: str | None = None  # of DogBird: the copy of ImageNet
    forms: dict[str, str] = {}
    broken: int = 0
    request: str | None = None


class SealedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all plans. A field that is None by default is written only if it is set."""

    format: Literal[1]
    fingerprint: Text
    about: About = About()

    def content(self) -> dict[str, Any]:
        """Return everything that decides content, as in the file."""
        silent = {f.name for f in msgspec.structs.fields(self) if f.default is None}
        return {
            name: value
            for name, value in _plain(self).items()
            if name not in NOT_CONTENT and not (value is None and name in silent)
        }

    def to_json(self) -> dict[str, Any]:
        """Return what the file holds: the content, the fingerprint, and what is said about it."""
        fields = _plain(self)
        return self.content() | {key: fields[key] for key in ("fingerprint", "about")}


class Plan(SealedPlan, frozen=True, kw_only=True):
    """Fields that the plan of every dataset has, whatever made it. A producer adds fields of its
    own in a subclass, which refuses unknown ones; read as a `Plan`, those are left out.
    """

    splits: dict[str, Count]
    shard_size: Count
    image_shape: tuple[Side, Side, Literal[3]] = (32, 32, 3)
    extension: Text = "png"
    class_names: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    dataset: str | None = None  # who made it
    seed: int | None = None  # of all that was drawn
    labels: str | None = None  # "argmax" of the probabilities, "requested" or "given"
    conditioning: dict[str, Any] | None = None  # of a generator that is asked for classes
    probabilities: str | None = None  # "one-hot" or "given"
    labeler_sha256: str | None = None
    label_batch: Count | None = None
    precision: str | None = None
    duplicates: str | None = None  # "kept": equal images are no fault
    beside: tuple[str, ...] | None = None  # other files of the dataset
    crop: Count | None = None  # side of the crops of photographs, where it is not 224

    def __post_init__(self) -> None:
        _ = self.layout  # checks itself
        check_names(self.class_names)

    @property
    def layout(self) -> Layout:
        """The splits and the shards they are cut into."""
        return Layout(tuple(self.splits.items()), self.shard_size)

    @property
    def shards(self) -> list[Shard]:
        """All shards in global order."""
        return self.layout.shards()


def _plain(plan: SealedPlan) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(msgspec.json.encode(plan))
    return fields


P = TypeVar("P", bound=SealedPlan)


def seal(plan: P) -> P:
    """Return a plan with the fingerprint of its content."""
    return msgspec.structs.replace(plan, fingerprint=fingerprint_of(plan.content()))


@overload
def load_plan(folder: Path) -> Plan: ...
@overload
def load_plan(folder: Path, kind: type[P]) -> P: ...
def load_plan(folder: Path, kind: Any = Plan) -> Any:
    """Return the plan of a directory; ValueError if there is none, or names what is wrong in it."""
    if (folder / PLAN).is_file():
        return load_json(folder / PLAN, kind)
    if (folder / "pack.json").is_file():
        raise ValueError(
            f"{folder} is a pack: give the directory of shards that it was made from, or make "
            f"shards of it with cifar5m-pack --to-shards {folder} --out DIR"
        )
    raise ValueError(f"{folder} is not a dataset directory: it holds no {PLAN}")


def fingerprint_of(plan: dict[str, Any]) -> str:
    """Hex sha256 of the plan's content in canonical JSON."""
    content = {key: value for key, value in plan.items() if key not in NOT_CONTENT}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def package_versions() -> dict[str, str]:
    """Return the versions that touch pixels or labels: of packages, and of CUDA if torch has it."""
    from worlds.runtime.device import cuda_versions

    found = cuda_versions()
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def claim_folder(folder: Path, plan: SealedPlan, parameter: str = "out") -> None:
    """Make `folder` the plan's, or check that it already is.

    Raises ValueError where the folder holds another plan (naming what differs) or other files, or
    is not a directory; the message names the `parameter` that chose it.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose a directory as `{parameter}`")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PLAN).exists():
        # Another process of this run may be writing the plan at this moment: those are not foreign.
        foreign = [path.name for path in folder.iterdir() if not path.name.startswith(f".{PLAN}.")]
        if foreign and not (folder / PLAN).exists():
            raise ValueError(
                f"{folder} holds other files ({', '.join(sorted(foreign)[:3])}) and no {PLAN}; "
                f"choose an empty directory as `{parameter}`"
            )
        with atomic_write(folder / PLAN) as stream:
            stream.write((json.dumps(plan.to_json(), indent=2) + "\n").encode())
    present = load_json(folder / PLAN, dict[str, Any])
    if present.get("fingerprint") != plan.fingerprint:
        found = "; ".join(differences(present, plan.content()))
        raise ValueError(
            f"{folder} holds another plan; differing: {found}. "
            f"Repeat its own command, or choose another directory as `{parameter}`"
        )


def differences(present: Any, wanted: Any, path: str = "") -> list[str]:
    """Each place where two plans differ, as `path: present value, wanted value`."""
    if isinstance(present, dict) and isinstance(wanted, dict):
        found = []
        for key in [*present, *(k for k in wanted if k not in present)]:
            if path or key not in NOT_CONTENT:
                inner = f"{path}.{key}" if path else key
                found += differences(present.get(key), wanted.get(key), inner)
        return found
    if present == wanted:
        return []
    return [f"{path} is {_shown(present)} there, {_shown(wanted)} here"]


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:18] + "..." + text[-18:]
