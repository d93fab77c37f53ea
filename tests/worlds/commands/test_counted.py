"""The packaged tables say what counting would say; `python tools/make_tables.py` mends them."""

import json

import pytest

from tools.make_tables import count
from worlds.cli.counted import TABLES, counted
from worlds.commands.experiment import main as experiment
from worlds.commands.models import main as models
from worlds.experiments.listing import overview
from worlds.experiments.plan import expand
from worlds.experiments.registry import recipes
from worlds.models import architectures


def test_every_architecture_and_experiment_is_in_the_packaged_tables():
    packaged = [(row["name"], row["image_size"]) for row in counted("models")]
    assert packaged == [(a.name, a.image_size) for a in architectures()]
    found = overview([expand(recipe, "smoke", None) for recipe in recipes()])
    assert counted("experiments")["smoke"] == json.loads(json.dumps(found))


@pytest.mark.slow
def test_the_packaged_tables_are_what_counting_gives():
    assert json.loads(TABLES.read_text()) == count()


def test_a_counted_row_is_that_of_the_network(capsys):
    assert models(["mlp_3x128", "--json"]) == 0
    packaged = capsys.readouterr().out
    assert models(["mlp_3x128", "--json", "--classes", "10"]) == 0
    assert capsys.readouterr().out == packaged
    assert experiment(["list"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["scale"] == "paper"
