"""Make ImageNet-DogBird, the paper's second dataset, from a copy of ImageNet.

    import dogbird

    print(dogbird.classes())                               # 63 hunting dogs, 59 birds
    print(dogbird.build("/data/imagenet", "out/dogbird"))

Names are imported when they are first used, so that `import dogbird` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dogbird.run import build as build
    from dogbird.tasks import classes as classes

_MODULES = {"build": "dogbird.run", "classes": "dogbird.tasks"}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'dogbird' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
