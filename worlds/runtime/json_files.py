"""JSON files, read into types: whatever is wrong with one is a line that names file and field.

manifest = load_json(folder / "pack.json", Manifest)
# ValueError: out/pack.json: files.bytes: expected `int`, got `str`
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from worlds.runtime.errors import reading

T = TypeVar("T")


def load_json(path: Path, kind: type[T]) -> T:
    """Return the content of a JSON file as a `kind`.

    Raises ValueError in one line, naming the file and the field, if the file cannot be read, is not
    JSON or has unknown, missing or ill-typed fields. NaN and infinities read as null.
    """
    with reading(path, "a JSON file"):
        data = path.read_bytes()
    return parse_json(data, kind, str(path))


def parse_json(data: bytes, kind: type[T], source: str) -> T:
    """Return JSON text as a `kind`; `source` names it in the ValueError, as in `load_json`."""
    # Duplicate keys, NaN and deep nesting are what the json module lets through.
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_constant=_finite,
        )
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()  # refuses half a surrogate pair
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else _line(error)
        raise ValueError(f"{source} is not valid JSON: {reason}") from error
    return convert_json(value, kind, source)


def convert_json(value: Any, kind: type[T], source: str) -> T:
    """Return parsed JSON as a `kind`; ValueError as in `load_json`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        # msgspec says where as `$.files[...].bytes`: name the field as a user would.
        what, _, place = _line(error).partition(" - at `")
        field = place.rstrip("`").removeprefix("key` in `").lstrip("$.").replace("[...]", "")
        where = f"{source}: {field}" if field else source
        raise ValueError(f"{where}: {what[:1].lower()}{what[1:]}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} is there twice")
    return found


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
