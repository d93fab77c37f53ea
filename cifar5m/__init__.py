"""Make the data: generate, check, repair, label, import, pack, audit and publish CIFAR-5m datasets.

    import cifar5m

    print(cifar5m.generate("out/tiny", recipe="tiny-conditional", n=1000))
    assert cifar5m.verify("out/tiny").ok

Each function does what the command of its name does, and the same call again resumes. Names are
imported when they are first used, so that `import cifar5m` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cifar5m.auditing.run import audit as audit
    from cifar5m.engines.label import label as label
    from cifar5m.engines.run import generate as generate
    from cifar5m.hub.run import publish as publish
    from cifar5m.shards.importing import import_dataset as import_dataset
    from cifar5m.shards.packing import pack as pack
    from cifar5m.shards.repair import repair as repair
    from cifar5m.shards.verify import verify as verify
    from worlds.runtime.progress import Progress as Progress

_MODULES = {
    "Progress": "worlds.runtime.progress",
    "audit": "cifar5m.auditing.run",
    "generate": "cifar5m.engines.run",
    "import_dataset": "cifar5m.shards.importing",
    "label": "cifar5m.engines.label",
    "pack": "cifar5m.shards.packing",
    "publish": "cifar5m.hub.run",
    "repair": "cifar5m.shards.repair",
    "verify": "cifar5m.shards.verify",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'cifar5m' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
