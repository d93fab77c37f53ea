"""Command-line parsers: one look of --help, --version, errors in one line, parameters as options.

parser = Parser("cifar5m-pack", __doc__)
parser.add_argument("--workers", type=int, help="processes, >= 1")
parser.as_options("workers must be at least 1, got 0")    # --workers must be at least 1, got 0
"""

import argparse
import re
import sys
from collections.abc import Iterator
from typing import Any, Literal, NoReturn, get_args, get_origin

# "workers must be ..." starts a message; "precision='fp32'" and "`out`" may be anywhere in it.
_SUBJECT = re.compile(r"(\w+)(?=:| (?:must|needs|takes|and|excludes)\b)")
_VALUE = re.compile(r"(?<![\w/.-])(\w+)=('[^']*'|\"[^\"]*\"|[\w/.:+-]*\w)")
_NAME = re.compile(r"`(\w+)`")


class Parser(argparse.ArgumentParser):
    """A parser with --version, whose errors are one line with a suggestion and exit code 2."""

    def __init__(self, prog: str, description: str | None = None, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(prog=prog, description=description, **options)
        self.register("type", int, _integer)  # what `type=int` stands for
        self.add_argument("--version", action=_Version, help="print the version, then exit")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does; refuse text that could not be printed or written later."""
        given = sys.argv[1:] if args is None else args
        for text in given:
            if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
                self.error(f"{text!a} is not UTF-8: rename the file or directory")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the message in one line and exit with code 2."""
        what, _, names = message.partition("unrecognized arguments: ")
        if names and not what:
            message = f"unknown option {names.split()[0]}{self._suggestion(names.split()[0])}"
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def as_options(self, message: str) -> str:
        """Return a library's message with its parameters written as options of this command.

        A parameter is the first word of the message ("n must be ..."), has a value ("n=20"), or
        stands in backquotes.
        """
        options = {
            action.dest: max(action.option_strings, key=len)
            for parser in self._parsers()
            for action in parser._actions
            if action.option_strings
        }
        subject = _SUBJECT.match(message)
        if subject is not None and subject[1] in options:
            message = options[subject[1]] + message[subject.end() :]

        def written(match: re.Match[str]) -> str:
            name, value = match[1], match[2].strip("'\"")
            if name not in options:
                return match[0]
            return options[name] if value == "True" else f"{options[name]} {value}"

        message = _VALUE.sub(written, message)
        return _NAME.sub(lambda match: options.get(match[1], match[0]), message)

    def _parsers(self) -> Iterator["Parser"]:
        """This parser and those of its verbs."""
        yield self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from action.choices.values()

    def _suggestion(self, name: str) -> str:
        from difflib import get_close_matches

        options = {o for parser in self._parsers() for o in parser._option_string_actions}
        known = {option.lstrip("-"): option for option in sorted(options)}
        close = get_close_matches(name.partition("=")[0].lstrip("-"), known, 1)
        return f"; did you mean {known[close[0]]}?" if close else ""


def _integer(text: str) -> int:
    """Return an integer of at most 64 bits: seeds are the largest numbers that an option takes."""
    value = int(text)
    if not -(2**63) <= value < 2**64:
        raise argparse.ArgumentTypeError(f"must be below 2^64, got {text[:40]}")
    return value


_integer.__name__ = "int"  # in messages


def name_and_value(option: str, form: str, text: str) -> tuple[str, str]:
    """Return `NAME=VALUE` as two texts. Raises ValueError if it is none."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"{option} is {form}, got {text!r}")
    return name, value


def add_field(
    group: Any, name: str, hint: Any, default: Any, text: str, choices: Any = None
) -> None:
    """Add the option of a config's field, by its annotation and its default; a switch that is on by
    default is one that turns it off.
    """
    flag = name.replace("_", "-")
    if isinstance(default, bool):
        prefix, action = ("--no-", "store_false") if default else ("--", "store_true")
        group.add_argument(prefix + flag, dest=name, action=action, help=text)
        return
    # The first alternative: int of `Size | None`, float of a pair of shares.
    while get_args(hint) and get_origin(hint) is not Literal:
        hint = get_args(hint)[0]
    names = get_args(hint)
    said = "none" if default is None else default
    group.add_argument(
        f"--{flag}",
        type=str if names else hint,
        default=default,
        choices=names or choices,
        nargs=len(default) if isinstance(default, tuple) else None,
        help=text if "default:" in text else f"{text} (default: {said})",
    )


class _Version(argparse.Action):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options, nargs=0, default=argparse.SUPPRESS)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import PackageNotFoundError, version

        try:
            parser.exit(0, f"{parser.prog} {version('deep-bootstrap')}\n")
        except PackageNotFoundError:
            parser.exit(0, f"{parser.prog}, not installed\n")
