"""Make `import torchvision` work beside a torch build that lacks torchvision's compiled operators.

torchvision's wheel on PyPI is compiled for CUDA; beside a CPU-only torch its library does not load,
and the import fails because the schemas of two detection operators are missing. Declaring the
schemas is enough for everything written in Python (and for timm, which imports torchvision). Import
this module before torchvision or timm; where torchvision imports as it is, nothing happens.
"""

import importlib
import importlib.util

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # the declarations live as long as this object


def declare_missing_operators() -> None:
    """Import torchvision; where that fails for want of the two schemas, declare them first."""
    global _library
    if _library is not None or importlib.util.find_spec("torchvision") is None:
        return
    # Only this failure is mended; any other is torchvision's to tell.
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _library.define(schema)
        importlib.import_module("torchvision")


declare_missing_operators()
