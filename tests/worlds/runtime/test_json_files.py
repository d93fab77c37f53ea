"""JSON read into types: what is right, and the one line for everything that is not."""

import math
from typing import Annotated

import msgspec
import pytest

from worlds.runtime.json_files import load_json


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    size: Annotated[int, msgspec.Meta(ge=1, le=10**10)]
    rate: float | None = None


class Whole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    parts: dict[str, Part]


GOOD = '{"parts": {"a": {"name": "x", "size": 3, "rate": 0.5}}}'


def test_a_valid_file_becomes_its_type(tmp_path):
    (tmp_path / "file.json").write_text(GOOD)
    assert load_json(tmp_path / "file.json", Whole) == Whole({"a": Part("x", 3, 0.5)})


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "null"])
def test_numbers_that_are_none_read_as_null(number, tmp_path):
    (tmp_path / "file.json").write_text(GOOD.replace("0.5", number))
    assert load_json(tmp_path / "file.json", Whole).parts["a"].rate is None


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("3", "NaN", "parts.size: expected `int`, got `null`"),
        ("3", '"3"', "parts.size: expected `int`, got `str`"),
        ("3", "true", "parts.size: expected `int`, got `bool`"),
        ("3", "0", "parts.size: expected `int` >= 1"),
        ("3", "1" + 30 * "0", "parts.size: expected `int` <= 10000000000"),
        ("3", "9" * 5000, "not valid JSON: Exceeds the limit"),
        ('"size": 3,', "", "parts: object missing required field `size`"),
        ('"name"', '"na\\nme"', "parts: object contains unknown field `na me`"),
        ('"name"', '"size": 4, "name"', "not valid JSON: the key 'size' is there twice"),
        ('"x"', '"\\ud800"', "not valid JSON: "),
        (GOOD, "[]", "expected `object`, got `array`"),
        (GOOD, "{", "not valid JSON: "),
        (GOOD, "", "not valid JSON: "),
        (GOOD, "[" * 10_000 + "]" * 10_000, "not valid JSON: nested too deeply"),
    ],
)
def test_whatever_is_wrong_is_a_line_that_names_file_and_field(old, new, message, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ValueError, match=r"file\.json") as refusal:
        load_json(path, Whole)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_bytes_that_are_no_text_and_paths_that_are_no_files_are_refused(tmp_path):
    (tmp_path / "file.json").write_bytes(b'{"parts": "\xff"}')
    for path in (tmp_path / "file.json", tmp_path, tmp_path / "none", tmp_path / "file.json" / "x"):
        with pytest.raises(ValueError, match=str(path)):
            load_json(path, Whole)


def test_a_finite_number_stays_what_it_was(tmp_path):
    (tmp_path / "file.json").write_text("[0.1, 1e-05, 1e22]")
    assert load_json(tmp_path / "file.json", list[float]) == [0.1, math.pow(10, -5), 1e22]
