"""The paired test of two precisions, on the bundled network."""

import json

import pytest

from tools.compare_precisions import main

TINY = ["--recipe", "tiny", "--n", "64", "--steps", "2", "--device", "cpu"]


@pytest.mark.slow
def test_a_precision_is_compared_with_itself_and_with_a_lower_one(capsys):
    found = []
    for other in ("fp32", "bf16-weights"):
        assert main([*TINY, "--precisions", "fp32", other]) == 0
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    same, lower = found
    assert (same["equal_pixels"], same["equal_images"], same["mean_difference"]) == (1, 1, 0)
    assert same["frechet"] == pytest.approx(0, abs=1e-3)
    assert 0.2 < lower["equal_pixels"] < 1
    assert 0 < lower["frechet"] < lower["frechet_of_another_seed"]
    assert same["frechet_of_another_seed"] == lower["frechet_of_another_seed"]


def test_an_unknown_precision_is_one_line(capsys):
    assert main([*TINY, "--precisions", "fp32", "int8"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "'int8'" in line
