"""The registry of architectures: names to builders, with what the paper used each for.

    model = worlds.models.create("preresnet18", num_classes=10, image_size=32, width=16)

A name may exist in a 32 px and in a 224 px form, which are different networks; the image size picks
the form. Options are the keyword arguments of the builder that the name leaves open. Families
describe themselves in a table named ARCHITECTURES.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

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
        if not re.fullmatch(r"[a-z0-9_]+", self.name):
            raise ValueError(
                f"an architecture's name is lower case, digits and _, got {self.name!r}"
            )
        unknown = set(self.fixed) - set(inspect.signature(self.build).parameters)
        if unknown:
            raise ValueError(f"{self.name}: its builder takes no {', '.join(sorted(unknown))}")

    @property
    def options(self) -> dict[str, Any]:
        """Options of `create` beside the class count, with defaults."""
        parameters = list(inspect.signature(self.build).parameters.values())[1:]
        return {p.name: p.default for p in parameters if p.name not in self.fixed}


@dataclass(frozen=True)
class Pattern:
    """Names with numbers in them: `match(name, image_size)` gives the architecture or None."""

    spelling: str
    match: Callable[[str, int], Architecture | None]


_ARCHITECTURES: dict[tuple[str, int], Architecture] = {}
_PATTERNS: dict[str, Pattern] = {}


def register(entry: Architecture | Pattern) -> None:
    """Add a network or a pattern; a second one of that name (and image size) is refused."""
    if isinstance(entry, Pattern):
        if entry.spelling in _PATTERNS:
            raise ValueError(f"the pattern {entry.spelling} is registered already")
        _PATTERNS[entry.spelling] = entry
        return
    key = (entry.name, entry.image_size)
    if key in _ARCHITECTURES:
        raise ValueError(f"{entry.name} at {entry.image_size} px is registered already")
    _ARCHITECTURES[key] = entry


def architectures(image_size: int | None = None) -> list[Architecture]:
    """The suite in the order of registration: by image size, then by family."""
    rows = [a for a in _ARCHITECTURES.values() if image_size in (None, a.image_size)]
    return sorted(rows, key=lambda a: a.image_size)


def list_models(image_size: int | None = None) -> list[str]:
    """The registered names, sorted, each once; patterns (mlp_{depth}x{width}) are left out."""
    return sorted({a.name for a in architectures(image_size)})


def find(name: str, image_size: int = 32) -> Architecture:
    """The architecture of a name, or a ValueError that says what there is instead."""
    if (name, image_size) in _ARCHITECTURES:
        return _ARCHITECTURES[name, image_size]
    for pattern in _PATTERNS.values():
        found = pattern.match(name, image_size)
        if found is not None:
            return found
    sizes = sorted(size for known, size in _ARCHITECTURES if known == name)
    if sizes:
        takes = " or ".join(map(str, sizes))
        raise ValueError(f"{name} takes images of {takes} px, got image_size={image_size}")
    known = list_models()
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    spellings = ", ".join([*known, *_PATTERNS])
    raise ValueError(f"unknown architecture {name!r}; {hint}known: {spellings}")


def create(name: str, num_classes: int = 10, image_size: int = 32, **options: Any) -> nn.Module:
    """A new network that maps float (B, 3, image_size, image_size) to logits (B, num_classes).

    Weights are drawn from torch's generator, on torch's default device (`with torch.device("meta")`
    allocates nothing).
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes must be an integer of at least 1, got {num_classes!r}")
    architecture = find(name, image_size)
    unknown = sorted(set(options) - set(architecture.options))
    if unknown:
        takes = ", ".join(architecture.options) or "none"
        raise ValueError(
            f"{name} at {image_size} px has no option {', '.join(unknown)}; its options: {takes}"
        )
    for option, value in options.items():
        default = architecture.options[option]
        # The text "False" would be taken for true, and the other network trained.
        if isinstance(default, bool) and not isinstance(value, bool):
            raise ValueError(f"{name}: {option} must be true or false, got {value!r}")
        if isinstance(default, float) and not isinstance(value, int | float):
            raise ValueError(f"{name}: {option} must be a number, got {value!r}")
    return architecture.build(num_classes, **architecture.fixed, **options)
