"""Use the data: stores, Real and Ideal World loaders, label noise, and what trains on them.

Names are imported when they are first used, so that `import worlds` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worlds.data.labels import LabelNoise as LabelNoise
    from worlds.data.pack import verify_pack as verify_pack
    from worlds.data.pack import write_pack as write_pack
    from worlds.data.splits import Split as Split
    from worlds.data.stores import ArrayStore as ArrayStore
    from worlds.data.stores import Store as Store
    from worlds.data.stores import open_store as open_store
    from worlds.data.subsets import subset as subset
    from worlds.loaders.augment import Augment as Augment
    from worlds.loaders.batch_samplers import BootstrapSampler as BootstrapSampler
    from worlds.loaders.batch_samplers import FixedReuseSampler as FixedReuseSampler
    from worlds.loaders.batch_samplers import IdealSampler as IdealSampler
    from worlds.loaders.batch_samplers import RealSampler as RealSampler
    from worlds.loaders.loaders import BootstrapLoader as BootstrapLoader
    from worlds.loaders.loaders import FixedReuseLoader as FixedReuseLoader
    from worlds.loaders.loaders import IdealLoader as IdealLoader
    from worlds.loaders.loaders import RealLoader as RealLoader
    from worlds.loaders.loaders import SequentialLoader as SequentialLoader
    from worlds.loaders.mixed import MixedLoader as MixedLoader
    from worlds.loaders.streaming import StreamLoader as StreamLoader
    from worlds.report.compare import compare as compare
    from worlds.report.comparison import Comparison as Comparison
    from worlds.training.build import Data as Data
    from worlds.training.config import TrainConfig as TrainConfig
    from worlds.training.recorder import Recorder as Recorder
    from worlds.training.recorder import evaluate as evaluate
    from worlds.training.run_folder import find_runs as find_runs
    from worlds.training.run_folder import read_run as read_run
    from worlds.training.train import train as train

_MODULES = {
    "ArrayStore": "worlds.data.stores",
    "Augment": "worlds.loaders.augment",
    "BootstrapLoader": "worlds.loaders.loaders",
    "BootstrapSampler": "worlds.loaders.batch_samplers",
    "Comparison": "worlds.report.comparison",
    "Data": "worlds.training.build",
    "FixedReuseLoader": "worlds.loaders.loaders",
    "FixedReuseSampler": "worlds.loaders.batch_samplers",
    "IdealLoader": "worlds.loaders.loaders",
    "IdealSampler": "worlds.loaders.batch_samplers",
    "LabelNoise": "worlds.data.labels",
    "MixedLoader": "worlds.loaders.mixed",
    "RealLoader": "worlds.loaders.loaders",
    "RealSampler": "worlds.loaders.batch_samplers",
    "Recorder": "worlds.training.recorder",
    "SequentialLoader": "worlds.loaders.loaders",
    "Split": "worlds.data.splits",
    "Store": "worlds.data.stores",
    "StreamLoader": "worlds.loaders.streaming",
    "TrainConfig": "worlds.training.config",
    "compare": "worlds.report.compare",
    "evaluate": "worlds.training.recorder",
    "find_runs": "worlds.training.run_folder",
    "open_store": "worlds.data.stores",
    "read_run": "worlds.training.run_folder",
    "subset": "worlds.data.subsets",
    "train": "worlds.training.train",
    "verify_pack": "worlds.data.pack",
    "write_pack": "worlds.data.pack",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name == "models":  # a package, so that @worlds.models.register works
        return import_module("worlds.models")
    if name not in _MODULES:
        raise AttributeError(f"module 'worlds' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
