"""The plan of a dataset: everything that decides its content, and the fingerprint of that.

A folder belongs to one plan. The same plan may be run again, by any number of processes on any
number of devices, and goes on where it stopped; another plan is refused, with the difference.
"""

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from worlds.formats.layout import CIFAR10_CLASSES, FORMAT, PLAN, Layout, read_plan
from worlds.runtime.files import atomic_write

# Said for people, not part of the content: where weights lay on this machine, and the recipe's
# name.
NOT_CONTENT = ("about", "fingerprint")
PACKAGES = ("torch", "diffusers", "timm", "numpy", "pillow")


def make_plan(layout: Layout, content: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """A complete plan with its fingerprint. `content` says how the images and labels are made."""
    plan = {
        "format": FORMAT,
        "splits": dict(layout.splits),
        "shard_size": layout.shard_size,
        "image_shape": [32, 32, 3],
        "extension": "png",
        "class_names": list(CIFAR10_CLASSES),
    }
    plan |= content
    plan["fingerprint"] = fingerprint_of(plan)
    plan["about"] = about
    return json.loads(json.dumps(plan))  # what a reader of the file will see: lists, not tuples


def fingerprint_of(plan: dict[str, Any]) -> str:
    """Hex sha256 of the plan's content in canonical JSON."""
    content = {key: value for key, value in plan.items() if key not in NOT_CONTENT}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def package_versions() -> dict[str, str]:
    """Versions of the packages that touch pixels or labels."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def claim_folder(folder: Path, plan: dict[str, Any], option: str = "--out") -> None:
    """Make `folder` the plan's, or check that it already is.

    Raises ValueError where the folder holds another plan (naming what differs) or other files, or
    is no folder; the message names the `option` that chose it.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose a folder with {option}")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PLAN).exists():
        # Another process of this run may be writing the plan at this moment: those are not foreign.
        foreign = [path.name for path in folder.iterdir() if not path.name.startswith(f".{PLAN}.")]
        if foreign and not (folder / PLAN).exists():
            raise ValueError(
                f"{folder} holds other files ({', '.join(sorted(foreign)[:3])}) and no {PLAN}; "
                f"choose an empty folder with {option}"
            )
        with atomic_write(folder / PLAN) as stream:
            stream.write((json.dumps(plan, indent=2) + "\n").encode())
    present = read_plan(folder)
    if present.get("fingerprint") != plan["fingerprint"]:
        raise ValueError(
            f"{folder} holds another plan; differing: {'; '.join(differences(present, plan))}. "
            f"Repeat its own command, or choose another folder with {option}"
        )


def differences(present: Any, wanted: Any, path: str = "") -> list[str]:
    """Each place where two plans differ, as `path: present value, wanted value`."""
    if isinstance(present, dict) and isinstance(wanted, dict):
        found = []
        for key in [*present, *(k for k in wanted if k not in present)]:
            if path or key not in NOT_CONTENT:
                inner = f"{path}.{key}" if path else key
                found += differences(present.get(key), wanted.get(key), inner)
        return found
    if present == wanted:
        return []
    return [f"{path} is {_shown(present)} there, {_shown(wanted)} here"]


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:18] + "..." + text[-18:]
