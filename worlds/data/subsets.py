"""Subsets by rule: views of a split that loaders take, and that a paper can cite.

    odd = worlds.subset(store.train, classes=["cat", "dog"], n=10_000)   # labels 0 and 1
    rare = worlds.subset(store.train, ratios=[1 / (i + 1) for i in range(10)])
    member = worlds.subset(store.train, balanced=True, shard=(3, 15))    # of an ensemble
    held = store.subset(indices=slice(0, 5_000_000), test=slice(5_000_000, None))
    held.write_manifest("held.json")          # open_store("held.json") opens it, and checks it

A rule's parts apply in the order of `Rule`. What is drawn at random is named by (seed, trial), and
of `n` the smaller sets lie in the larger ones. Samples keep their order in the pool.
"""

import hashlib
import json
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from math import inf
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from worlds.data.images import Images, RowImages
from worlds.data.splits import Split
from worlds.formats.npz import map_file
from worlds.formats.tar_members import RowMembers
from worlds.rng.orders import key_words
from worlds.rng.streams import SUBSET
from worlds.runtime.checks import integers, plain
from worlds.runtime.errors import reading
from worlds.runtime.files import write_json
from worlds.runtime.json_files import convert_json

Indices = str | PathLike[str] | slice | Sequence[int] | np.ndarray
_ARRAY = "(array)"  # indices that only the program knew


class Rule(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The rule that draws a subset, as its manifest holds it."""

    indices: str | tuple[int | None, int | None, int | None] | None = None  # a file; a slice
    classes: list[int | str | list[int | str]] | None = None
    renumber: bool = True
    ratios: list[float] | None = None
    balanced: bool = False
    n: int | None = None
    shard: tuple[int, int] | None = None
    seed: int = 0
    trial: int = 0


@dataclass(frozen=True, eq=False, repr=False)
class Subset(Split):
    """A split that is part of another one, its pool; `indices` are those of the pool."""

    indices: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    rule: Rule = field(default_factory=Rule)
    pool: str = ""  # its fingerprint

    @property
    def manifest(self) -> dict[str, Any]:
        """Return rule, pool, size, samples per class, and the sha256 of the int64 indices."""
        counts = [int(np.sum(self.labels == kind)) for kind in range(len(self.class_names))]
        return {
            "rule": msgspec.to_builtins(self.rule),
            "pool": self.pool,
            "n": len(self),
            "classes": dict(zip(self.class_names, counts, strict=True)),
            "indices_sha256": hashlib.sha256(self.indices.astype("<i8").tobytes()).hexdigest(),
            "fingerprint": self.fingerprint,
        }

    def write_manifest(self, path: str | PathLike[str]) -> None:
        write_json(Path(path), self.manifest)


def subset(
    pool: Split,
    *,
    indices: Indices | None = None,
    classes: Sequence[int | str | Sequence[int | str]] | None = None,
    renumber: bool = True,
    ratios: Sequence[float] | None = None,
    balanced: bool = False,
    n: int | None = None,
    shard: tuple[int, int] | None = None,
    seed: int = 0,
    trial: int = 0,
) -> Subset:
    """Return part of a split as a split.

    Args:
        indices: of the pool: an array, a slice, or a file (.npy; else one number a line).
        classes: numbers or names; a list within the list is a group that becomes one class.
        renumber: labels count the classes kept, from 0 in the order given; else labels stay.
        ratios: relative sizes of the classes, above 0, in the order of the classes kept. Without n
            as many samples as the pool has.
        balanced: equal ratios.
        n: number of samples.
        shard: (k, K): part k of K disjoint parts, the classes spread evenly.
        seed: names with `trial` what is drawn by ratios, balanced, n and shard.

    Raises ValueError if the pool cannot give what the rule asks.
    """
    # What there is to draw from, and the rule in the form that a manifest keeps.
    if not isinstance(pool, Split):
        raise ValueError(f"subset takes a split, such as store.train, got {type(pool).__name__}")
    if pool.label_noise is not None:
        raise ValueError("the pool has label noise: draw the subset first, then add the noise")
    given: dict[str, Any] = {"classes": classes, "renumber": renumber, "ratios": ratios}
    given |= {"balanced": balanced, "n": n, "shard": shard, "seed": seed, "trial": trial}
    given["indices"] = _named(indices)
    rule = convert_json(plain(given), Rule, "subset")
    # Indices, then classes, then what is drawn: each step narrows `rows`, which are of the pool.
    rows = _rows(len(pool), indices)
    names, labels = pool.class_names, pool.labels[rows]
    kinds = list(range(len(names)))
    if rule.classes is not None:
        names, table, kinds = _classes(pool.class_names, rule)
        labels = table[labels]
        rows, labels = rows[labels >= 0], labels[labels >= 0]
    if rule.balanced or rule.n is not None or rule.shard is not None or rule.ratios is not None:
        drawn = _draw(rule, labels, [(kind, names[kind]) for kind in kinds])
        rows, labels = rows[drawn], labels[drawn]
    if not len(rows):
        raise ValueError(f"no sample of {pool.name} is in this subset")
    # The content names the subset, however it was drawn; a labeler's classes are the pool's.
    kept = pool.probabilities if names is pool.class_names else None
    content = json.dumps([pool.fingerprint, hashlib.sha256(rows.tobytes()).hexdigest(), names])
    digest = hashlib.sha256(content.encode() + labels.tobytes()).hexdigest()
    return Subset(
        name=pool.name,
        images=_view(pool.images, rows),
        clean_labels=labels,
        class_names=names,
        fingerprint=digest,
        probabilities=None if kept is None else kept[rows],
        indices=rows,
        rule=rule,
        pool=pool.fingerprint,
    )


def _named(indices: Indices | None) -> Any:
    """Return indices as the rule names them."""
    if isinstance(indices, slice):
        return [indices.start, indices.stop, indices.step]
    if indices is None:
        return None
    return str(indices) if isinstance(indices, str | PathLike) else _ARRAY


def _rows(pool: int, indices: Indices | None) -> np.ndarray:
    """Return indices of any form as int64 (N,). Raises ValueError if they repeat or leave the
    pool.
    """
    # All, or a slice, as numpy has it.
    if indices is None or isinstance(indices, slice):
        return np.arange(pool)[indices if indices is not None else slice(None)]
    # A file of indices, .npy or text with one number a line.
    where = "indices"
    if isinstance(indices, str | PathLike):
        where, path = str(indices), Path(indices)
        with reading(path, "indices"):
            text = not where.endswith(".npy")
            indices = np.loadtxt(path, np.int64, ndmin=1) if text else map_file(path)
    # Each index once, and within the pool.
    rows = integers(indices).astype(np.int64)
    if len(rows) and not 0 <= rows.min() <= rows.max() < pool:
        raise ValueError(
            f"{where} must be in [0, {pool:,}), the pool, got {rows.min()} to {rows.max()}"
        )
    if len(np.unique(rows)) < len(rows):
        raise ValueError(f"{where} has {len(rows) - len(np.unique(rows)):,} indices twice")
    return rows


def _classes(names: tuple[str, ...], rule: Rule) -> tuple[tuple[str, ...], np.ndarray, list[int]]:
    """Return the names, a table from old to new labels (-1: left out), and the labels kept."""
    # A class alone is a group of one.
    groups = [one if isinstance(one, list) else [one] for one in rule.classes or ()]
    unknown = [
        c for group in groups for c in group if c not in names and c not in range(len(names))
    ]
    if unknown or not groups:
        raise ValueError(f"classes must be of {', '.join(names)}, got {unknown or rule.classes}")
    # Names to numbers; none may come twice.
    numbers = [[names.index(c) if isinstance(c, str) else c for c in group] for group in groups]
    flat = [c for group in numbers for c in group]
    if len(set(flat)) < len(flat):
        raise ValueError(f"classes names one twice: {rule.classes}")
    # A table of labels: kept as they are, or counted anew by group.
    table = np.full(len(names), -1)
    if not rule.renumber:
        if len(flat) > len(numbers):
            raise ValueError("groups of classes are renumbered: leave renumber out")
        table[flat] = flat
        return names, table, flat
    for new, group in enumerate(numbers):
        table[group] = new
    merged = tuple("+".join(names[c] for c in group) for group in numbers)
    return merged, table, list(range(len(merged)))


def _draw(rule: Rule, labels: np.ndarray, kinds: list[tuple[int, str]]) -> np.ndarray:
    """Return the places among `labels` that are drawn, increasing."""
    from worlds.rng.kernels import shuffled_prefix

    # Check what is asked against what is there.
    ratios = [1.0] * len(kinds) if rule.balanced else rule.ratios
    if rule.balanced and rule.ratios is not None:
        raise ValueError("balanced=True is equal ratios: give either")
    if ratios is not None and (len(ratios) != len(kinds) or not all(0 < r < inf for r in ratios)):
        raise ValueError(f"ratios must be {len(kinds)} numbers above 0, one a class, got {ratios}")
    if rule.n is not None and not 1 <= rule.n <= len(labels):
        raise ValueError(f"n must be between 1 and the {len(labels):,} samples, got {rule.n:,}")
    if not 0 <= rule.trial < 1 << 32:
        raise ValueError(f"trial must be in [0, 2^32), got {rule.trial}")
    # One random order of all samples decides everything below.
    count = len(labels)
    order = shuffled_prefix(count, count, key_words(rule.seed), SUBSET, rule.trial, 0)
    # The first so many of each class in one random order, so that sets of more contain those of
    # fewer.
    if ratios is not None:
        quotas = _quotas(labels, kinds, np.array(ratios), rule.n)
        shuffled = labels[order]
        order = np.concatenate(
            [order[shuffled == kind][:q] for (kind, _), q in zip(kinds, quotas, strict=True)]
        )
    elif rule.n is not None:
        order = order[: rule.n]
    if rule.shard is not None:
        part, parts = rule.shard
        if not 0 <= part < parts:
            raise ValueError(f"shard is (k, K) with k in [0, K), got {rule.shard}")
        if kinds:  # class after class, so that every part has its share of each
            order = order[np.argsort(labels[order], kind="stable")]
        order = order[part::parts]
    return np.sort(order.astype(np.int64))


def _quotas(
    labels: np.ndarray, kinds: list[tuple[int, str]], ratios: np.ndarray, n: int | None
) -> list[int]:
    """Return how many samples each class gives: n in all, or as many as there are."""
    # As many of each class as its ratio says.
    counts = np.array([np.count_nonzero(labels == kind) for kind, _ in kinds])
    if n is None:  # the scarcest class decides
        quotas = np.floor((counts / ratios).min() * ratios + 1e-9).astype(int)
    else:  # the largest remainders take what rounding down has left
        exact = n * ratios / ratios.sum()
        quotas = np.floor(exact + 1e-9).astype(int)
        quotas[np.argsort(quotas - exact, kind="stable")[: n - quotas.sum()]] += 1
    # Every class must give one sample, and have those it gives.
    worst = (counts / ratios).argmin()
    if quotas.min() < 1 or (quotas > counts).any():
        raise ValueError(
            f"the ratios give {quotas.tolist()} samples of the classes, but {kinds[worst][1]} has "
            f"{counts[worst]:,}: each needs 1 to as many as it has"
        )
    return quotas.tolist()


def _view(images: Images, rows: np.ndarray) -> Images:
    if not hasattr(images, "members"):
        return RowImages(images, rows)
    view: Any = copy(images)  # images in tars: only where they lie changes
    view.members, view.shape = RowMembers(view.members, rows), (len(rows), *images.shape[1:])
    return view
