"""Command lines: help and errors before heavy imports, suggestions, parameters as options."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from worlds.cli.parser import Parser

REPO = Path(__file__).resolve().parents[3]
SCRIPTS = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["scripts"]
BUDGET = 0.3  # CPU seconds of a process that only parses

# Prints the CPU seconds of a process that only parses each of several command lines, the exit code
# and the output of each, and whether torch was imported.
PARSE = """
import contextlib, io, json, sys, time
from {module} import main
found = []
for arguments in {lines}:
    out, code = io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    found.append((code, out.getvalue()))
print(json.dumps([time.process_time(), found, "torch" in sys.modules]))
"""


def parse(command: str, *lines: list[str]) -> tuple[float, list[tuple[int, str]], bool]:
    code = PARSE.format(module=SCRIPTS[command].removesuffix(":main"), lines=lines)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout))


@pytest.mark.parametrize("command", SCRIPTS)
def test_help_version_and_a_wrong_option_cost_no_heavy_import(command):
    lines = ["--help"], ["--version"], ["--helpp"]
    seconds, found, has_torch = parse(command, *lines)
    if seconds >= BUDGET:  # once more, for what else the machine did
        seconds, found, has_torch = parse(command, *lines)
    assert [code for code, _ in found] == [0, 0, 2], found
    assert all(command in output for _, output in found)
    assert not has_torch
    assert seconds < BUDGET


@pytest.fixture
def parser():
    parser = Parser("do-it", "Do it.")
    parser.add_argument("--batch", dest="batch_size", type=int)
    parser.add_argument("--out")
    parser.add_argument("--precision")
    parser.add_argument("--allow-non-ema", action="store_true")
    return parser


@pytest.mark.parametrize(
    "message, expected",
    [
        ("batch_size must be at least 1, got 0", "--batch must be at least 1, got 0"),
        ("out: no such thing", "--out: no such thing"),
        ("try precision=fp32", "try --precision fp32"),
        ("got precision='tf 32'; no", "got --precision tf 32; no"),
        ("set allow_non_ema=True, or not", "set --allow-non-ema, or not"),
        ("choose another `out`", "choose another --out"),
        ("run `ray start` first", "run `ray start` first"),
        ("/data/out=3/set is a file", "/data/out=3/set is a file"),
        ("out of memory", "out of memory"),
        ("steps=3 is nothing here", "steps=3 is nothing here"),
    ],
)
def test_parameters_of_a_message_become_options(message, expected, parser):
    assert parser.as_options(message) == expected


def test_a_misspelled_option_is_one_line_with_a_suggestion(parser, capsys):
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--precisoin=fp32"])
    assert end.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("do-it: unknown option --precisoin=fp32; did you mean --precision?")


def test_the_options_of_a_verb_are_suggested_too(capsys):
    parser = Parser("do-it")
    parser.add_subparsers(required=True).add_parser("run").add_argument("--workers", type=int)
    with pytest.raises(SystemExit):
        parser.parse_args(["run", "--wokers", "3"])
    assert "did you mean --workers?" in capsys.readouterr().err
    assert parser.as_options("workers must be at least 1") == "--workers must be at least 1"
