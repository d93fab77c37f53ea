"""The inputs of an audit, checked: a dataset, CIFAR-10, and the labeler that looks at both.

    audit = open_audit("out/tiny", cifar10="~/data")
    found = predict_reference(audit)["test"]       # features and probabilities

The labeler's pass over 60,000 reference images takes minutes on a CPU, so it is kept in parts, and
a rerun goes on.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cifar5m.auditing.neighbors import K
from cifar5m.labels.labeler import Labeler, load_classifier
from cifar5m.sampling.recipes import labeling_settings
from cifar5m.weights.sources import WeightsError, find_labeler
from worlds.data.images import TarImages
from worlds.data.splits import Split
from worlds.data.stores import open_store
from worlds.formats.layout import AUDIT, CIFAR10_CLASSES, Shard
from worlds.formats.npz import load_npz
from worlds.formats.plan import Plan, load_plan
from worlds.formats.shards import find_record
from worlds.runtime.device import pick_device
from worlds.runtime.files import atomic_write
from worlds.runtime.progress import OnProgress, Phase

SPLITS = ("train", "test")
WORK = "work"  # in the audit's directory: files that only save a rerun time
MOST_BYTES = 1 << 30  # of an array: features of a shard
_FORMAT = 1
_PART = 2_000  # reference images a file: what a stopped audit may lose
_ARRAYS = ("features", "probabilities")  # of a file of predictions
_INCEPTION = ("auto", "download", "none")

OnImages = Callable[[int], None]  # images done since the last call


@dataclass(frozen=True)
class AuditLabeler:
    """The labeler of an audit, and what distinguishes it from every other."""

    labeler: Labeler
    source: str
    sha256: str

    @property
    def key(self) -> str:
        return f"{self.sha256} {self.labeler.precision} {self.labeler.batch}"


@dataclass(frozen=True)
class Predictions:
    """A labeler's output for images."""

    features: np.ndarray  # float32 (N, F)
    probabilities: np.ndarray  # float32 (N, 10)


@dataclass(frozen=True)
class Audit:
    """Checked inputs of an audit, with the labeler on its device."""

    folder: Path
    out: Path  # of report, page and intermediate files
    plan: Plan
    shards: list[Shard]  # finished; once they are examined, the intact ones
    cifar10: dict[str, Split]  # train and test
    labeler: AuditLabeler | None
    no_labeler: str  # why there is none
    device: torch.device
    on_progress: OnProgress | None

    @property
    def key(self) -> str:
        """Hash of everything that decides what is found about given pixels."""
        facts = {
            "format": _FORMAT,
            "k": K,
            "cifar10": {name: split.fingerprint for name, split in self.cifar10.items()},
            "labeler": self.labeler.key if self.labeler else None,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def images(self) -> int:
        """Images in the audited shards."""
        return sum(map(len, self.shards))

    def tar_images(self) -> TarImages:
        """Open the pixels of the audited shards, by row."""
        return TarImages([self.folder / s.tar for s in self.shards], [len(s) for s in self.shards])


def open_audit(
    directory: str | Path,
    *,
    cifar10: str | Path,
    out: str | Path | None = None,
    labeler: str | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    inception: str = "auto",
    device: str = "auto",
    on_progress: OnProgress | None = None,
    **_: object,
) -> Audit:
    """Check the parameters of `cifar5m.audit`, and load CIFAR-10 and the labeler."""
    # The dataset and CIFAR-10, which must have the same kind of images.
    folder = Path(directory)
    plan = load_plan(folder)
    if plan.class_names != CIFAR10_CLASSES:
        raise ValueError(f"{folder} has other classes than CIFAR-10, which it is held against")
    shards = _finished_shards(folder, plan)
    reference = open_reference(cifar10, plan.image_shape)
    if inception not in _INCEPTION and not Path(inception).is_file():
        raise ValueError(f"inception: there is no file {inception}")

    # The labeler, on its device.
    target = pick_device(device)
    settings = labeling_settings(plan, precision, batch_size)
    network, no_labeler = _load_labeler(plan, labeler, settings, target)
    place = folder / Path(AUDIT).parent if out is None else Path(out)
    return Audit(folder, place, plan, shards, reference, network, no_labeler, target, on_progress)


def _finished_shards(folder: Path, plan: Plan) -> list[Shard]:
    """Return the shards with a record; damaged ones are among them, and named later.

    Raises ValueError if there is none.
    """
    shards = []
    for shard in plan.shards:
        record = find_record(folder, shard)
        own = record is None or record.fingerprint == plan.fingerprint
        if own and (folder / shard.record).exists():
            shards.append(shard)
    if not shards:
        raise ValueError(f"{folder}: none of its {len(plan.shards)} shards is finished yet")
    return shards


def open_reference(
    path: str | Path, image_shape: tuple[int | None, ...] = (32, 32, 3)
) -> dict[str, Split]:
    """Open the train and test split of CIFAR-10 at `path`, in any form that `open_store` takes.

    Raises ValueError, with what to do, if it is missing or something else.
    """
    try:
        store = open_store(path)
        splits = {name: store[name] for name in SPLITS}
    except (ValueError, OSError) as error:
        raise ValueError(
            f"cifar10: {error}. torchvision.datasets.CIFAR10(DIR, download=True) makes a folder "
            "that is taken"
        ) from error
    # Images of another size or number of classes have no distance to the dataset's.
    expected = tuple(image_shape), len(CIFAR10_CLASSES)
    for name, split in splits.items():
        if (split.image_shape, len(split.class_names)) != expected:
            raise ValueError(
                f"cifar10: {path} holds images {split.image_shape} of {len(split.class_names)} "
                f"classes in its {name} split, the dataset's are {expected[0]} of {expected[1]}: "
                "they cannot be compared"
            )
    return splits


def _load_labeler(
    plan: Plan, labeler: str | None, settings: tuple[str, int], device: torch.device
) -> tuple[AuditLabeler | None, str]:
    """Return the labeler on its device, or None and why there is none.

    Raises WeightsError if one that was asked for by name cannot be loaded.
    """
    source = labeler or plan.about.labeler or "auto"
    if source == "none":
        return None, "left out by --labeler none"
    try:
        weights = find_labeler(source)
    except WeightsError as error:
        if labeler:
            raise
        return None, f"the labeler could not be loaded: {error}"
    network = Labeler(*load_classifier(weights), device, *settings)
    return AuditLabeler(network, source, weights.sha256), ""


def pixels_of(split: Split) -> np.ndarray:
    """Load all images of a split, uint8 (N, height, width, 3)."""
    return split.gather(np.arange(len(split)))


def predict(
    by: AuditLabeler, images: np.ndarray, on_images: OnImages = lambda images: None
) -> Predictions:
    """Return features and probabilities of uint8 (N, H, W, 3) images, a batch at a time."""
    labeler, found = by.labeler, []
    for part in np.array_split(images, -(-len(images) // labeler.batch)):
        pixels = torch.from_numpy(np.require(part, requirements=["C", "W"]))
        both = labeler.features_and_probabilities(pixels.to(labeler.device))
        found.append([rows.cpu().numpy() for rows in both])
        on_images(len(part))
    features, probabilities = map(np.concatenate, zip(*found, strict=True))
    return Predictions(features, probabilities)


def predict_reference(audit: Audit) -> dict[str, Predictions]:
    """Return the labeler's output for CIFAR-10 by split; nothing without a labeler.

    Parts that an earlier audit saved are loaded.
    """
    if audit.labeler is None:
        return {}
    total = sum(map(len, audit.cifar10.values()))
    phase = Phase("reference", total, audit.on_progress, total - unlabeled(audit))
    found = {}
    for name, split in audit.cifar10.items():
        parts = []
        for path, rows in _parts(audit, split, audit.labeler):
            # A part that is missing or damaged is computed again.
            kept = read_npz(path)
            if [len(kept.get(array, ())) for array in _ARRAYS] != [len(rows)] * len(_ARRAYS):
                kept = vars(predict(audit.labeler, split.gather(rows), phase))
                save_npz(path, kept)
            parts.append(kept)
        found[name] = Predictions(*(np.concatenate([p[array] for p in parts]) for array in _ARRAYS))
    return found


def unlabeled(audit: Audit) -> int:
    """Count the reference images that `predict_reference` would still have to label."""
    if audit.labeler is None:
        return 0
    parts = [p for split in audit.cifar10.values() for p in _parts(audit, split, audit.labeler)]
    return sum(len(rows) for path, rows in parts if not path.is_file())


def _parts(audit: Audit, split: Split, by: AuditLabeler) -> Iterator[tuple[Path, np.ndarray]]:
    """Yield the file and the rows of each part of a split's predictions."""
    key = hashlib.sha256(f"{split.fingerprint} {by.key}".encode()).hexdigest()[:16]
    for number, start in enumerate(range(0, len(split), _PART)):
        path = audit.out / WORK / f"cifar10-{split.name}-{key}-{number:02d}.npz"
        yield path, np.arange(start, min(start + _PART, len(split)))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Load the arrays of a file by name; none if it is missing or damaged."""
    try:
        return load_npz(path, most_bytes=MOST_BYTES)
    except ValueError:
        return {}


def save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to a file atomically."""
    with atomic_write(path) as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
