"""A few mutated inputs of every reader; `make fuzz` tries thousands, within limits of memory."""

import shutil

import numpy as np
import pytest

from tests.fuzz.mutations import mutate
from tests.fuzz.readers import READERS

QUICK = [name for name, reader in READERS.items() if reader.share == 1.0]
INPUTS = 8


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", QUICK)
def test_a_mutated_input_is_read_or_refused_in_one_line(name, tmp_path):
    reader, template, work = READERS[name], tmp_path / "made", tmp_path / "work"
    reader.make(template)
    assert reader.read(template) == reader.read(template)
    refused = []
    for case in range(INPUTS):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(template, work)
        done = mutate(np.random.default_rng(case), work)
        try:
            reader.read(work)
        except (ValueError, OSError) as error:
            refused.append((str(error), done))
    assert refused, "no input was refused: does the reader look at its files?"
    assert not [pair for pair in refused if not pair[0] or "\n" in pair[0]]
