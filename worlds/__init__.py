"""Use the data: stores, Real and Ideal World loaders, label noise, and what trains on them.

Names are imported when they are first used, so that `import worlds` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worlds.augment import Augment as Augment
    from worlds.config import TrainConfig as TrainConfig
    from worlds.labels import LabelNoise as LabelNoise
    from worlds.loaders import BootstrapLoader as BootstrapLoader
    from worlds.loaders import FixedReuseLoader as FixedReuseLoader
    from worlds.loaders import IdealLoader as IdealLoader
    from worlds.loaders import RealLoader as RealLoader
    from worlds.loaders import SequentialLoader as SequentialLoader
    from worlds.pack import verify_pack as verify_pack
    from worlds.pack import write_pack as write_pack
    from worlds.run_parts import Data as Data
    from worlds.runs import find_runs as find_runs
    from worlds.runs import read_run as read_run
    from worlds.splits import Split as Split
    from worlds.stores import ArrayStore as ArrayStore
    from worlds.stores import Store as Store
    from worlds.stores import open_store as open_store
    from worlds.training import train as train

_MODULES = {
    "ArrayStore": "worlds.stores",
    "Augment": "worlds.augment",
    "BootstrapLoader": "worlds.loaders",
    "Data": "worlds.run_parts",
    "FixedReuseLoader": "worlds.loaders",
    "IdealLoader": "worlds.loaders",
    "LabelNoise": "worlds.labels",
    "RealLoader": "worlds.loaders",
    "SequentialLoader": "worlds.loaders",
    "Split": "worlds.splits",
    "Store": "worlds.stores",
    "TrainConfig": "worlds.config",
    "find_runs": "worlds.runs",
    "open_store": "worlds.stores",
    "read_run": "worlds.runs",
    "train": "worlds.training",
    "verify_pack": "worlds.pack",
    "write_pack": "worlds.pack",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'worlds' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
