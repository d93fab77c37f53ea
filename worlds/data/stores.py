"""Stores: one door to every form in which a dataset of small images may lie.

    open_store("out/cifar5m")               a folder of shards (plan.json, data/, meta/)
    open_store("dogbird")                   photographs in such shards
    open_store("pack")                      a pack (pack.json): memory-mapped, the fast path
    open_store("cifar5m-released")          the released part{0..5}.npz, mapped in place
    open_store("1m.npz")                    arrays of an .npz (worlds/formats/pools.py has the keys)
    open_store("~/data")                    CIFAR-10, CIFAR-100, SVHN, MNIST as torchvision has them
    open_store("cifar10")                   Parquet files as the Hub has them
    open_store("hf://datasets/owner/name")  a dataset of the Hub in one of these forms
    open_store("subset.json")               a store's subset, by its manifest
    open_store("teacher:0")                 a pool without limit (worlds/data/teacher.py)
    open_store("generate:tiny")             one that is generated (worlds/data/endless.py)
    ArrayStore(images, labels)              arrays

A store has splits, most often `train` and `test`; a loader draws from a split.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from worlds.data.endless import find_opener, parse_address
from worlds.data.hub import HUB, ask_hub, parse_hub_address
from worlds.data.images import ArrayImages, TarImages
from worlds.data.pack import MANIFEST, open_pack
from worlds.data.photographs import PhotographImages
from worlds.data.splits import Split, are_targets, integer_labels
from worlds.data.subsets import Indices, Subset, subset
from worlds.data.teacher import TEACHER_PREFIX, open_teacher
from worlds.formats.cifar import Form, find_cifar, read_cifar
from worlds.formats.dataset import DatasetFolder
from worlds.formats.hub_parquet import open_parquet, parquet_files
from worlds.formats.idx import idx_files, open_idx
from worlds.formats.layout import CROP, PLAN
from worlds.formats.pools import (
    Arrays,
    class_files,
    npz_files,
    numbered_classes,
    open_class_files,
    open_npz,
    open_pickles,
    open_svhn,
    pickle_files,
    svhn_files,
)
from worlds.runtime.files import write_json
from worlds.runtime.json_files import load_json

_SAMPLED: Final = 1024  # images that go into the fingerprint of arrays


class Store:
    """Splits by name; `train` and `test` are those of that name."""

    def __init__(
        self, splits: Sequence[Split], source: str, rules: Sequence[dict[str, Any]] = ()
    ) -> None:
        self.splits = {split.name: split for split in splits}
        self.source, self._rules = source, list(rules)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {len(split):,}" for name, split in self.splits.items())
        return f"Store({self.source!r}, {sizes})"

    def __len__(self) -> int:
        return sum(len(split) for split in self.splits.values())

    def __getitem__(self, name: str) -> Split:
        if name not in self.splits:
            cure = "; give test= or --test, another dataset" if name == "test" else ""
            raise ValueError(
                f"{self.source} has no {name} split; it has {', '.join(self.splits)}{cure}"
            )
        return self.splits[name]

    @property
    def train(self) -> Split:
        return self["train"]

    @property
    def test(self) -> Split:
        """Return the split of that name; of ImageNet, the validation split."""
        return self["val" if "val" in self.splits and "test" not in self.splits else "test"]

    @property
    def for_testing(self) -> Split:
        """The test split, or the only one there is: what `test=` and `--test` measure on."""
        return next(iter(self.splits.values())) if len(self.splits) == 1 else self.test

    @property
    def class_names(self) -> tuple[str, ...]:
        return next(iter(self.splits.values())).class_names

    def subset(self, *, test: int | Indices | None = None, **rule: Any) -> "Store":
        """Return a store whose train split is a subset by the arguments of `worlds.subset`; the
        other splits keep its classes. `test`, indices of the train split or a number of samples
        drawn from it, becomes the test split. Raises ValueError if train holds one of them, too.
        """
        # The other splits keep the classes of train, and all their samples.
        classes = {key: rule[key] for key in ("classes", "renumber") if key in rule}
        others = {k: subset(s, **classes) for k, s in self.splits.items() if k != "train"}
        # A number of test samples is drawn from train, which then does without them.
        given, held = {**rule}, test
        if isinstance(test, int):  # the others are left for train, unless it has its own
            drawn = {key: rule[key] for key in ("seed", "trial") if key in rule}
            held = subset(self.train, n=test, **drawn).indices
            given.setdefault("indices", np.delete(np.arange(len(self.train)), held))
        train = subset(self.train, **given)
        if held is not None:
            split = subset(self.train, indices=held, **classes)  # type: ignore[arg-type]
            if both := len(np.intersect1d(split.indices, train.indices)):
                raise ValueError(f"test shares {both:,} samples with train: give others")
            others = {"test": replace(split, name="test")}
        # The rule as a manifest keeps it: drawn indices follow from the number.
        known = msgspec.to_builtins(train.rule)
        if isinstance(test, int):
            known = {k: v for k, v in known.items() if k != "indices" or k in rule} | {"test": test}
        elif test is not None:
            known["test"] = others["test"].rule.indices
        return Store([train, *others.values()], self.source, [*self._rules, known])

    def write_manifest(self, path: str | PathLike[str]) -> None:
        """Write what a subset is, for a paper and for `open_store`."""
        if not self._rules:
            raise ValueError(f"{self.source} is not a subset: make one by store.subset(...)")
        splits = {k: s.manifest for k, s in self.splits.items() if isinstance(s, Subset)}
        source = str(Path(self.source).absolute()) if Path(self.source).exists() else self.source
        write_json(
            Path(path), {"format": 1, "source": source, "rules": self._rules, "splits": splits}
        )


class ArrayStore(Store):
    """A store of arrays.

    Args:
        images: uint8 images (N, H, W) or (N, H, W, 1 or 3), float features (N, ...), or integer
            sequences (N, T) such as tokens. Only images can be augmented and normalized.
        labels: Classes, integers (N,); or targets, floats (N,) or arrays (N, ...).
        test_images: Images of the test split, or None.
        test_labels: Their labels, if there are any.
        layout: "hwc" (default), or "chw" for images (N, channels, H, W), which are copied.
        class_names: Default: the numbers up to the highest label.
        probabilities: A labeler's class probabilities (N, C).
        test_probabilities: The same of the test split.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | Sequence[float],
        test_images: np.ndarray | None = None,
        test_labels: np.ndarray | Sequence[float] | None = None,
        *,
        layout: str = "hwc",
        class_names: Sequence[str] | None = None,
        probabilities: np.ndarray | None = None,
        test_probabilities: np.ndarray | None = None,
    ) -> None:
        # What goes together, and in which layout.
        if (test_images is None) != (test_labels is None):
            raise ValueError("test_images and test_labels go together: give both or neither")
        if layout not in ("hwc", "chw"):
            raise ValueError(f'layout must be "hwc" or "chw", got {layout!r}')
        if layout == "chw":
            images = _channels_last(images)
            test_images = None if test_images is None else _channels_last(test_images)
        # Classes without names are called by their numbers.
        if class_names is None and are_targets(labels):
            class_names = ()
        if class_names is None:
            known = [integer_labels(a) for a in (labels, test_labels) if a is not None]
            highest = max((int(a.max()) for a in known if a.size), default=0)
            class_names = numbered_classes(highest)
        names = tuple(class_names)
        splits = [_array_split("train", [images], labels, names, probabilities)]
        if test_images is not None and test_labels is not None:
            splits.append(
                _array_split("test", [test_images], test_labels, names, test_probabilities)
            )
        super().__init__(splits, "arrays")


def _channels_last(images: np.ndarray) -> np.ndarray:
    """Return images (N, C, H, W) as (N, H, W, C)."""
    array = np.asarray(images)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1] not in (1, 3):
        raise ValueError(
            f'layout="chw" is for uint8 images (N, 1 or 3, height, width), got {array.dtype} '
            f"{array.shape}"
        )
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def _array_split(
    name: str,
    parts: Sequence[np.ndarray],
    labels: np.ndarray | Sequence[float],
    class_names: tuple[str, ...],
    probabilities: np.ndarray | None = None,
) -> Split:
    images = ArrayImages([np.asarray(part) for part in parts])
    labels = np.asarray(labels) if not class_names else integer_labels(labels)
    return Split(
        name=name,
        images=images,
        clean_labels=labels,
        class_names=class_names,
        fingerprint=_fingerprint(images, labels),
        probabilities=None if probabilities is None else np.asarray(probabilities),
    )


def _fingerprint(images: ArrayImages, labels: np.ndarray) -> str:
    """Hash of the shape, all labels, and up to 1,024 images spread evenly: a name of the content
    that costs milliseconds, not proof against a change of single pixels.
    """
    # Shape, labels and some images: a change of the data would show in them.
    count = images.shape[0]
    kind = "" if images.dtype == np.uint8 else str(images.dtype)
    digest = hashlib.sha256(f"{images.shape}{kind}".encode())
    classes = labels.dtype.kind in "iu"
    digest.update(np.ascontiguousarray(labels, dtype=np.int64 if classes else None).data)
    sampled = np.unique(np.linspace(0, count - 1, min(count, _SAMPLED)).astype(np.int64))
    out = np.empty((len(sampled), *images.shape[1:]), dtype=images.dtype)
    images.gather(sampled, out)
    digest.update(out.data)
    return digest.hexdigest()


def open_store(
    path: str | PathLike[str], *, keys: tuple[str, str] | None = None, **options: Any
) -> Store:
    """Open the dataset at `path`, whichever of the module's forms it has.

    Args:
        path: A directory or file, or `hf://datasets/OWNER/NAME[@REVISION]`.
        keys: Names of the images and labels in .npz files, if they are unusual.
        options: Of a pool that is generated, such as n, seed, cache and cache_bytes.

    Raises:
        ValueError: If `path` is missing, in no known form, or corrupt.
    """
    if not isinstance(path, str | PathLike):
        given = type(path).__name__
        raise ValueError(f"expected a path, got {given}; of arrays, ArrayStore makes a store")
    # Addresses first, then what lies on the disk.
    if str(path).startswith(HUB):
        return open_store(_fetch(str(path)), keys=keys)
    if str(path).startswith(TEACHER_PREFIX):
        return Store(open_teacher(str(path)), str(path))
    if (opened := find_opener(str(path))) is not None:
        what, options = parse_address(str(path), options)
        return Store(opened(what, **options), str(path))
    if options:
        raise ValueError(f"{path} takes no option {min(options)!r}: only generated pools have some")
    if "://" in str(path):
        raise ValueError(f"expected a path or hf://datasets/OWNER/NAME, got {path}")
    folder = Path(path).expanduser()
    if not folder.exists():
        made = folder.with_suffix("")
        can_pack = folder.suffix == ".pack" and (made / PLAN).is_file()
        hint = f"cifar5m-pack {made} makes it" if can_pack else "give a dataset's directory or file"
        raise ValueError(f"{folder} does not exist: {hint}")
    # Keys are for .npz files alone.
    if keys is not None:
        if not (files := npz_files(folder)):
            raise ValueError(f"keys={keys} is for .npz files, and {folder} has none")
        return Store(_splits(open_npz(files, keys)), str(folder))
    if folder.suffix == ".json" and folder.is_file():
        return _open_subset(folder)
    # The first form that recognizes the folder opens it.
    for find, opened in _FORMS:
        if found := find(folder):
            return Store(opened(found), str(folder))
    raise ValueError(
        f"{folder} is not a recognized dataset: expected plan.json (shards), pack.json (a pack), "
        f".npz, .parquet or class0.npy files, or CIFAR's own{_advise(folder)}"
    )


class _Manifest(msgspec.Struct):
    format: int
    source: str
    rules: list[dict[str, Any]]  # one after the other
    splits: dict[str, dict[str, Any]]


def _open_subset(path: Path) -> Store:
    """Draw a subset again. Raises ValueError if it is not the one that the manifest describes."""
    manifest = load_json(path, _Manifest)
    # Apply the rules to the source again, one after the other.
    store = open_store(manifest.source)
    try:
        for rule in manifest.rules:
            lists = {k: rule[k] for k in ("indices", "test") if isinstance(rule.get(k), list)}
            store = store.subset(**(rule | {k: slice(*v) for k, v in lists.items()}))
    except TypeError as error:
        raise ValueError(f"{path} has a rule that is not known: {error}") from error
    # The result must be what the manifest was written of.
    for name, known in manifest.splits.items():
        found = store[name]
        if not isinstance(found, Subset) or found.fingerprint != known.get("fingerprint"):
            raise ValueError(f"{path}: {name} of {manifest.source} is not what it was")
    return Store(list(store.splits.values()), str(path))


def _advise(path: Path) -> str:
    """Name the command that imports a directory of images."""
    if (path.is_dir() and any(path.rglob("*.png"))) or any(path.rglob("*.jp*g")):
        return f"; a directory of images is imported by: cifar5m-import {path} --out DIR"
    return ""


def _fetch(address: str) -> Path:
    """Return a dataset of the Hub in the Hub's own cache, without the forms that no store is."""
    from huggingface_hub import snapshot_download

    name, revision = parse_hub_address(address)
    options = {"repo_type": "dataset", "ignore_patterns": ["parquet/*", "audit/*"]}
    call = partial(snapshot_download, name, revision=revision, **options)
    return Path(ask_hub(address, call))


def _open_shards(folder: Path) -> list[Split]:
    # A shard's record says that it is finished, and how long its files are.
    dataset, splits = DatasetFolder.open(folder), []
    plan = dataset.plan
    # Photographs have no common size: the plan leaves height and width open.
    photographs = partial(PhotographImages, crop=plan.crop or CROP)
    images = photographs if plan.image_shape[:2] == (None, None) else TarImages
    for name in plan.splits:
        shards = plan.layout.shards(name)
        # All shards must be there, whole.
        missing = [shard for shard in shards if not (folder / shard.record).exists()]
        if missing:
            raise ValueError(
                f"{folder}: {len(missing)} of the {len(shards)} shards of {name} are not made yet, "
                f"the first is {missing[0].name}; finish generating"
            )
        for shard in shards:
            record, path = dataset.record(shard), folder / shard.tar
            size = path.stat().st_size if path.is_file() else 0
            if size != record.bytes:
                raise ValueError(
                    f"{path} has {size:,} bytes, its record says {record.bytes:,}: "
                    "the shard is cut short or damaged, make it again"
                )
            if not (folder / shard.arrays).is_file():
                raise ValueError(f"{folder / shard.arrays} is missing: make the shard again")
        # Labels of all shards in a row; images stay in the tars.
        arrays = [dataset.arrays(shard) for shard in shards]
        split = Split(
            name=name,
            images=images([folder / s.tar for s in shards], [len(s) for s in shards]),
            clean_labels=np.concatenate([a.label for a in arrays]),
            class_names=plan.class_names,
            fingerprint=hashlib.sha256(f"{plan.fingerprint} {name}".encode()).hexdigest(),
            probabilities=np.concatenate([a.probabilities for a in arrays]),
        )
        splits.append(split)
    return splits


def _splits(found: Iterable[Arrays]) -> list[Split]:
    return [_array_split(a.split, a.images, a.labels, a.class_names) for a in found]


def _open_cifar(found: tuple[Form, Path]) -> list[Split]:
    splits, names = read_cifar(*found)
    return [_array_split(split, [x], y, names) for split, (x, y) in splits.items()]


# How a form is recognized (what it returns is true), and how what was recognized is opened.
_FORMS: Final[tuple[tuple[Callable[[Path], Any], Callable[[Any], list[Split]]], ...]] = (
    (lambda path: path if (path / PLAN).is_file() else None, _open_shards),
    (lambda path: path if (path / MANIFEST).is_file() else None, open_pack),
    (find_cifar, _open_cifar),
    (svhn_files, lambda files: _splits(open_svhn(files))),
    (idx_files, lambda files: _splits(open_idx(files))),
    (class_files, lambda files: _splits(open_class_files(files))),
    (npz_files, lambda files: _splits(open_npz(files))),
    (parquet_files, lambda files: _splits(open_parquet(files))),
    (pickle_files, lambda files: _splits(open_pickles(files))),
)
