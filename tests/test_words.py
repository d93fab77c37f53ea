"""The words of each command: its help, as a file of tests/golden. After a change of words,

    python -m tests.test_words

writes the files anew; the diff shows what users will read.
"""

import contextlib
import io
import os
import sys
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.test_docs import SCRIPTS

GOLDEN = Path(__file__).with_name("golden")


def help_of(program: str) -> str:
    printed = io.StringIO()
    wide, stopped = patch.dict(os.environ, COLUMNS="100"), contextlib.suppress(SystemExit)
    with wide, contextlib.redirect_stdout(printed), stopped:
        import_module(SCRIPTS[program]).main(["--help"])
    return printed.getvalue()


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse lays help out otherwise")
@pytest.mark.parametrize("program", SCRIPTS)
def test_the_help_of_a_command_is_the_one_that_was_read_and_agreed_to(program):
    assert help_of(program) == (GOLDEN / f"{program}.txt").read_text()


if __name__ == "__main__":
    for name in SCRIPTS:
        (GOLDEN / f"{name}.txt").write_text(help_of(name))
