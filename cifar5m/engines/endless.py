"""An endless CIFAR-5m: the images of a recipe and seed as a store, generated when asked for.

store = worlds.open_store("generate:tiny", n=10**9, cache="shards", cache_bytes=10**9)

Image i is the one that `cifar5m-generate` makes of the same recipe, seed and index, to the byte if
the borders of its micro-batches are the same: shards of a multiple of the micro-batch.
"""

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from cifar5m.sampling.generate import Job, make_shard
from cifar5m.sampling.job import Options, find_sources, load_job, plan_of
from cifar5m.sampling.recipes import find_recipe
from cifar5m.weights.download import cache_folder
from worlds.data.endless import Make, Maker, ShardCache, endless_splits
from worlds.data.splits import Split
from worlds.formats.layout import Shard
from worlds.runtime.checks import count
from worlds.runtime.device import pick_device

_NOT_OPTIONS: Final = ("n", "split")  # of Options; a store has its own


@dataclass(frozen=True)
class GeneratedShards(Maker):
    """Makes shards of generated images."""

    options: Options
    device: str

    def load(self) -> Make:
        """Load both networks onto the device."""
        sources = find_sources(self.options)
        plan, device = plan_of(self.options, sources), str(pick_device(self.device))
        return partial(_make, load_job(self.options, sources, plan, device))


def _make(job: Job, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    made = make_shard(job, Shard("endless", 0, 1, start, stop))
    return np.stack([*made.images]), made.labels


def open_generated(
    recipe: str,
    *,
    n: int = 10**9,
    test: int = 10_000,
    cache: str | Path | None = None,
    cache_bytes: int = 10**9,
    window: int = 4,
    shard_size: int | None = None,
    device: str = "auto",
    **options: Any,
) -> list[Split]:
    """Open a recipe's images, generated when they are asked for.

    Args:
        recipe: Name of a recipe, such as "cifar5m" or "tiny".
        n: Images of the training split, the indices below n.
        test: Images of the test split, indices from 2^32 on.
        cache: Directory of the shards; by default one in the user's cache.
        cache_bytes: Most bytes of the shards in it, 3,073 an image.
        window: Shards among which a pass is shuffled, and that are made ahead.
        shard_size: Images a shard, by default a micro-batch.
        device: That generates, "auto", "cpu", "cuda" or "cuda:K".
        **options: What else decides the bytes, as for cifar5m.generate: seed, steps, ...

    Raises:
        ValueError: If an option is unknown or out of range, or weights are missing.
    """
    known = {field.name for field in fields(Options)} - {*_NOT_OPTIONS}
    if unknown := set(options) - known:
        raise ValueError(f"generate has no option {min(unknown)!r}; it has {sorted(known)}")
    size = count("shard_size", shard_size or options.get("micro_batch") or _batch(recipe))
    chosen = Options(n=size, recipe=recipe, split={"train": size}, shard_size=size, **options)
    pick_device(device)
    # Of one shard, so that the fingerprint is that of every pool of these settings.
    plan = plan_of(chosen, find_sources(chosen))
    what = (plan.fingerprint, plan.class_names, (32, 32, 3), size)
    maker = GeneratedShards(*what, chosen, device)
    folder = cache_folder() / "generated" if cache is None else Path(str(cache)).expanduser()
    shards = ShardCache(maker, folder, count("cache_bytes", cache_bytes), count("window", window))
    return endless_splits(shards, count("n", n), count("test", test))


def _batch(recipe: str) -> int:
    return find_recipe(recipe).micro_batch
