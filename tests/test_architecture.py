"""The architecture, as a table of layers, and the rules that hold it.

A directory imports only from directories on lower lines of its package, and no two directories on
one line import each other. `worlds` imports neither `cifar5m` nor `dogbird`; those two know nothing
of each other and use only the lower directories of `worlds`. Imports inside functions count.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]

# Low to high; what stands on one line does not import its neighbors.
LAYERS = {
    "worlds": [
        ["runtime"],
        ["rng", "formats"],
        ["cli", "data", "models"],
        ["loaders"],
        ["training"],
        ["experiments"],
        ["report"],
        ["bench"],
        ["commands"],
    ],
    "cifar5m": [
        ["weights", "preview"],
        ["labels"],
        ["sampling"],
        ["shards", "engines"],
        ["auditing", "hub"],
        ["commands"],
    ],
    "dogbird": [
        ["wordnet", "pieces", "convert"],
        ["tasks", "staging"],
        ["val_labels", "tables", "tars"],
        ["sources"],
        ["building"],
        ["run"],
        ["commands"],
    ],
}
SHARED = {"runtime", "rng", "formats", "cli", "data"}  # of worlds, open to cifar5m and dogbird
FILES_IN_A_DIRECTORY = 16

RANK = {
    (package, part): rank
    for package, layers in LAYERS.items()
    for rank, layer in enumerate(layers)
    for part in layer
}


def modules() -> dict[str, Path]:
    """Dotted name to file of every module of the three packages."""
    found = {}
    for package in LAYERS:
        for path in (REPO / package).rglob("*.py"):
            parts = path.relative_to(REPO).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(name: str, path: Path) -> Iterator[str]:
    """The project's modules that one module imports, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            known = target if target in MODULES else target.rpartition(".")[0]
            if known in MODULES and known != name:
                yield known


@cache
def imports() -> dict[str, list[str]]:
    return {name: sorted(set(imported(name, path))) for name, path in MODULES.items()}


def place(name: str) -> tuple[str, str]:
    """Package and top-level part of a module; the part is "" for the package itself."""
    parts = name.split(".")
    return parts[0], parts[1] if len(parts) > 1 else ""


def file_of(name: str) -> str:
    return str(MODULES[name].relative_to(REPO))


def broken(edge: tuple[str, str]) -> str | None:
    """The rule that an import breaks, in words that name both files."""
    (package, part), (other, target) = map(place, edge)
    arrow = f"{file_of(edge[0])} imports {file_of(edge[1])}"
    if part == "":  # a package's __init__ hands names on, lazily
        return None
    if target == "":
        return f"{arrow}: the package itself is for users, import the module"
    if package != other:
        allowed = package != "worlds" and other == "worlds" and target in SHARED
        return None if allowed else f"{arrow}: {package} may not use {other}.{target}"
    if part == target == "commands" and not edge[1].endswith((".common", "_options")):
        return f"{arrow}: a command may not import another"
    if part != target and RANK.get((package, part), 0) <= RANK.get((package, target), 0):
        return f"{arrow}: {target} is not below {part}"
    return None


def circles() -> list[str]:
    """Groups of modules that import each other, one line each."""
    reach: dict[str, set[str]] = {}

    def visit(name: str, path: tuple[str, ...]) -> str | None:
        if name in path:
            return " -> ".join(file_of(m) for m in (*path[path.index(name) :], name))
        if name in reach:
            return None
        for target in imports()[name]:
            if (found := visit(target, (*path, name))) is not None:
                return found
        reach[name] = set()
        return None

    return [found for name in imports() if (found := visit(name, ())) is not None][:1]


def test_every_directory_imports_only_from_those_below_it():
    edges = [(name, target) for name, targets in imports().items() for target in targets]
    assert [rule for edge in edges if (rule := broken(edge))] == []


def test_no_modules_import_each_other_in_a_circle():
    assert circles() == []


def test_every_module_has_a_layer():
    known = {*RANK, *((package, "") for package in LAYERS)}
    unplaced = sorted(name for name in MODULES if place(name) not in known)
    assert unplaced == []


@pytest.mark.parametrize("directory", sorted({path.parent for path in MODULES.values()}), ids=str)
def test_a_directory_can_be_seen_at_a_glance(directory):
    files = [path for path in directory.iterdir() if path.suffix == ".py"]
    assert len(files) <= FILES_IN_A_DIRECTORY + 1  # beside __init__.py
    assert (directory / "__init__.py").exists(), "setuptools drops a directory without __init__.py"
