"""The registry of architectures: names to builders, with what the paper used each for.

    model = worlds.models.create("preresnet18", num_classes=10, image_size=32, width=16)

A name may exist in a 32 px and in a 224 px form, which are different networks; the image size picks
the form, the nearest one where it is another size. Options are the keyword arguments of the builder
that the name leaves open, and those of worlds/models/parametrization.py. Families describe
themselves in a table named ARCHITECTURES.

Networks from outside are functions whose first argument is the number of classes, and which may
take image_size, channels and options of their own:

    @worlds.models.register                     # by its name, in this process
    def tiny_net(num_classes, image_size, channels=3, width=32): ...

    "package.module:tiny_net"                   # wherever the package can be imported
    "timm:resnet18"                             # a network of timm
    [project.entry-points."deep_bootstrap.models"]      in the pyproject.toml of a package:
    tiny_net = "package.module:tiny_net"        # by its name, everywhere
"""

import difflib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import nn

from worlds.models.parametrization import OPTIONS, check_options, parametrize

TABLE_CLASSES = {32: 10, 224: 2}  # the class counts of the paper's two data sets, by image size


@dataclass(frozen=True)
class Architecture:
    """One named network, made by `build(num_classes, **fixed, **options)`."""

    name: str
    family: str
    image_size: int
    build: Callable[..., nn.Module]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    # Where the paper uses it: figure numbers, T a table. Figure 10 names families only; it is given
    # to the members of them that are in the paper's published sweep.
    figure: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9_]+|.+:.+", self.name):
            raise ValueError(
                f"an architecture's name is lower case, digits and _, got {self.name!r}"
            )
        unknown = set(self.fixed) - set(inspect.signature(self.build).parameters)
        if unknown:
            raise ValueError(f"{self.name}: its builder takes no {', '.join(sorted(unknown))}")

    @property
    def options(self) -> dict[str, Any]:
        """Return the options of `create` beside the class count, with defaults."""
        # Without the class count, and what the name or `create` gives.
        parameters = list(inspect.signature(self.build).parameters.values())[1:]
        given = {*self.fixed, *_GIVEN}
        return {
            p.name: p.default for p in parameters if p.name not in given and p.kind != p.VAR_KEYWORD
        }

    @property
    def takes_any_option(self) -> bool:
        kinds = (p.kind for p in inspect.signature(self.build).parameters.values())
        return inspect.Parameter.VAR_KEYWORD in kinds


@dataclass(frozen=True)
class Pattern:
    """Names with numbers in them: `match(name, image_size)` gives the architecture or None."""

    spelling: str
    match: Callable[[str, int], Architecture | None]


Builder = Callable[..., nn.Module]
_GIVEN = ("image_size", "channels")  # what a builder may take, and is given where it does
_OWN: dict[str, Builder] = {}  # from outside, by name
_ENTRY_POINTS = "deep_bootstrap.models"
_ARCHITECTURES: dict[tuple[str, int], Architecture] = {}
_PATTERNS: dict[str, Pattern] = {}


def register(entry: Any) -> Any:
    """Add a network. As a decorator of its builder, `@register` or `@register("name")`, it gives
    the builder back. A second network of a name is refused.
    """
    # @register("name"), @register, or an entry of the suite.
    if isinstance(entry, str):
        return lambda build: _register_own(entry, build)
    if not isinstance(entry, Architecture | Pattern):
        return _register_own(getattr(entry, "__name__", type(entry).__name__), entry)
    if isinstance(entry, Pattern):
        if entry.spelling in _PATTERNS:
            raise ValueError(f"the pattern {entry.spelling} is registered already")
        _PATTERNS[entry.spelling] = entry
        return entry
    # One name may have a form for each image size.
    key = (entry.name, entry.image_size)
    if key in _ARCHITECTURES:
        raise ValueError(f"{entry.name} at {entry.image_size} px is registered already")
    _ARCHITECTURES[key] = entry
    return entry


def _register_own(name: str, build: Builder) -> Builder:
    if not callable(build):
        raise ValueError(f"{name}: register takes a function that builds a network, got {build!r}")
    if name in _OWN or any(known == name for known, _ in _ARCHITECTURES):
        raise ValueError(f"{name} is registered already")
    Architecture(name, "own", 32, build)  # checks the name
    _OWN[name] = build
    return build


def architectures(image_size: int | None = None) -> list[Architecture]:
    """Return the suite in the order of registration: by image size, then by family."""
    rows = [a for a in _ARCHITECTURES.values() if image_size in (None, a.image_size)]
    return sorted(rows, key=lambda a: a.image_size)


def list_models(image_size: int | None = None) -> list[str]:
    """Return the names, sorted, each once; patterns (mlp_{depth}x{width}) are left out."""
    return sorted({a.name for a in architectures(image_size)})


def find(name: str, image_size: int = 32) -> Architecture:
    """Return the architecture of a name, or a ValueError that says what there is instead."""
    # The suite's own: exactly, then by a pattern such as mlp_3x128.
    if (name, image_size) in _ARCHITECTURES:
        return _ARCHITECTURES[name, image_size]
    for pattern in _PATTERNS.values():
        found = pattern.match(name, image_size)
        if found is not None:
            return found
    # Networks of the user's.
    outside = _outside(name)
    if outside is not None:
        return Architecture(name, "own", image_size, outside)
    # The name exists at another image size: many networks take any.
    forms = [form for (known, _), form in _ARCHITECTURES.items() if known == name]
    if forms:
        nearest = min(forms, key=lambda form: abs(form.image_size - image_size))
        if _runs_at(name, nearest.image_size, image_size):
            return replace(nearest, image_size=image_size)
        takes = " or ".join(str(size) for size in sorted(form.image_size for form in forms))
        raise ValueError(f"{name} takes images of {takes} px, got image_size={image_size}")
    # Unknown: say what is near.
    known = list_models()
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    spellings = ", ".join([*known, *sorted(_OWN), *_PATTERNS])
    raise ValueError(f"unknown architecture {name!r}; {hint}known: {spellings}")


def _outside(name: str) -> Builder | None:
    """Return the builder of a network from outside: registered, an entry point, or MODULE:NAME."""
    # Registered in this process, an entry point of a package, or a path to import.
    if name in _OWN:
        return _OWN[name]
    module, colon, function = name.partition(":")
    if not colon:
        points = entry_points(group=_ENTRY_POINTS, name=name)
        return load_function(next(iter(points)).value) if points else None
    return partial(_timm_network, function) if module == "timm" else load_function(name)


def load_function(name: str) -> Callable[..., Any]:
    """Return the function or class MODULE:NAME. Raises ValueError if it cannot be imported."""
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:  # a command finds modules beside it, as `python -m` does
        sys.path.append(os.getcwd())
    # Import the module, then walk down to the name in it.
    try:
        found: Any = import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{name} cannot be imported ({error}): expected package.module:function"
        ) from error
    if not callable(found):
        raise ValueError(f"{name} is not a function or a class, got {found!r}")
    return found


def _timm_network(
    name: str, num_classes: int, image_size: int, channels: int = 3, **options: Any
) -> nn.Module:
    import worlds.runtime.torchvision_ops  # noqa: F401, I001  (must come before timm)
    import timm

    # timm's own error lists nothing.
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise ValueError(f"timm has no {name!r}; near it: {', '.join(close) or 'nothing'}")
    common = {"num_classes": num_classes, "in_chans": channels, **options}
    try:  # transformers are built for a size, convolutional networks take any
        return timm.create_model(name, img_size=image_size, **common)
    except TypeError:
        return timm.create_model(name, **common)


@cache
def _runs_at(name: str, own_size: int, image_size: int) -> bool:
    """Return whether a network of the suite takes images of another size than its own."""
    form = _ARCHITECTURES[name, own_size]
    with torch.device("meta"):
        return _mismatch(form.build(10, **form.fixed), 10, image_size, 3) is None


def _mismatch(model: nn.Module, num_classes: int, image_size: int, channels: int) -> str | None:
    """Return why a network on the meta device maps no such images to logits, or None."""
    try:
        with torch.no_grad():
            out = model.eval()(torch.empty(2, channels, image_size, image_size, device="meta"))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        return str(error).strip().splitlines()[0]
    shape = tuple(getattr(out, "shape", ()))
    return None if shape == (2, num_classes) else f"outputs {shape} for 2 images"


def _take_channels(model: nn.Module, channels: int, image_size: int) -> None:
    """Give the first layer over RGB another number of channels: its filters of the three in turn,
    scaled to keep the variance of what they yield.
    """
    for layer in model.modules():
        flat = isinstance(layer, nn.Linear) and layer.in_features == 3 * image_size**2
        if flat or (isinstance(layer, nn.Conv2d) and layer.in_channels == 3):
            weight: torch.Tensor = layer.weight.detach()  # type: ignore[operator]
            planes = weight.unflatten(1, (3, -1))[:, torch.arange(channels) % 3]  # R, G, B, R, ...
            shape = (len(weight), -1) if flat else (len(weight), channels, *weight.shape[2:])
            layer.weight = nn.Parameter(planes.reshape(shape) * (3 / channels) ** 0.5)
            setattr(layer, "in_features" if flat else "in_channels", layer.weight.shape[1])
            return


def create(
    name: str, num_classes: int = 10, image_size: int = 32, channels: int = 3, **options: Any
) -> nn.Module:
    """Return a new network that maps float (B, channels, image_size, image_size) to logits (B,
    num_classes).

    Weights are drawn from torch's generator, on torch's default device (`with torch.device("meta")`
    allocates nothing). Raises ValueError if it takes no such images, or no such option.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes must be an integer of at least 1, got {num_classes!r}")
    # Split the options: those of the parametrization, and those of the builder.
    architecture = find(name, image_size)
    scaling = {key: options.pop(key) for key in OPTIONS if key in options}
    check_options(**scaling)
    # Refuse an option that nobody reads, or of a type that means something else.
    unknown = sorted(set(options) - set(architecture.options))
    if unknown and not architecture.takes_any_option:
        takes = ", ".join(architecture.options) or "none"
        raise ValueError(
            f"{name} at {image_size} px has no option {', '.join(unknown)}; its options: {takes}"
        )
    for option, value in options.items():
        default = architecture.options.get(option)
        # The text "False" would be taken for true, and the other network trained.
        if isinstance(default, bool) and not isinstance(value, bool):
            raise ValueError(f"{name}: {option} must be true or false, got {value!r}")
        if isinstance(default, float) and not isinstance(value, int | float):
            raise ValueError(f"{name}: {option} must be a number, got {value!r}")
    shape = num_classes, image_size, channels
    if scaling.get("parametrization", "standard") == "standard":
        return _built(architecture, *shape, options)
    # Other parametrizations compare the network with itself at two more widths.
    width = scaling.get("base_width") or architecture.options.get("width")
    if width is None:
        raise ValueError(f"{name} needs base_width, the width at which it is the standard network")
    if "width" not in (*architecture.fixed, *architecture.options):
        raise ValueError(
            f"{architecture.name} has no width: only the standard parametrization is known"
        )

    def of_width(own: int) -> nn.Module:
        # The width is fixed by the name, or an option.
        if "width" in architecture.fixed:
            form = replace(architecture, fixed={**architecture.fixed, "width": own})
            return _built(form, *shape, options)
        return _built(architecture, *shape, {**options, "width": own})

    model = _built(architecture, *shape, options)
    with torch.device("meta"):
        base, double = of_width(width), of_width(2 * width)
    return parametrize(
        model, base, double, scaling.get("gamma", 1.0), scaling.get("centered", False)
    )


def _built(
    form: Architecture, num_classes: int, image_size: int, channels: int, options: dict[str, Any]
) -> nn.Module:
    # A builder is given the image size and the channels only if it asks for them.
    taken = inspect.signature(form.build).parameters
    given = {"image_size": image_size, "channels": channels}
    own = {key: value for key, value in given.items() if key in taken and key not in form.fixed}
    arguments = (num_classes,) if taken else ()
    model = form.build(*arguments, **form.fixed, **own, **options)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{form.name} must build a torch.nn.Module, got {type(model).__name__}")
    # Built for RGB: the first layer is changed.
    if channels != 3 and "channels" not in own:
        _take_channels(model, channels, image_size)
    # Try what we did not build ourselves, where it costs nothing.
    if form.family == "own" or channels != 3:
        reason = _mismatch(deepcopy(model).to("meta"), num_classes, image_size, channels)
        if reason is not None:
            images = f"images (B, {channels}, {image_size}, {image_size})"
            raise ValueError(f"{form.name} does not map {images} to {num_classes} logits: {reason}")
    return model
