import json
import subprocess
import sys

import pytest
from msgspec.structs import replace

from tests.processes import Forked
from worlds.formats.plan import (
    About,
    Plan,
    claim_folder,
    differences,
    fingerprint_of,
    load_plan,
    seal,
)


class MadePlan(Plan, frozen=True, kw_only=True):
    """A producer's own plan."""

    seed: int
    sampler: dict[str, int]
    versions: dict[str, str]


def plan(**content):
    names = ("one", "two")
    header = {"format": 1, "splits": {"train": 20}, "shard_size": 6, "class_names": names}
    header |= {"seed": 0, "sampler": {"steps": 3}, "versions": {"torch": "2"}} | content
    return seal(MadePlan(**header, fingerprint="", about=About(recipe="tiny")))


def test_fingerprint_changes_with_any_content_and_with_nothing_else():
    base = plan()
    assert plan().fingerprint == base.fingerprint
    assert plan(seed=1).fingerprint != base.fingerprint
    assert plan(sampler={"steps": 4}).fingerprint != base.fingerprint
    moved = replace(base, about=About(generator="/another/place"))
    assert seal(moved) == moved
    assert fingerprint_of(dict(reversed(base.to_json().items()))) == base.fingerprint


def test_a_claimed_folder_holds_the_plan_and_may_be_claimed_again(tmp_path):
    claim_folder(tmp_path / "set", plan())
    claim_folder(tmp_path / "set", plan())
    assert load_plan(tmp_path / "set", MadePlan) == plan()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": 5}, "seed is 0 there, 5 here"),
        ({"sampler": {"steps": 9}}, "sampler.steps is 3 there, 9 here"),
        ({"versions": {"torch": "3"}}, 'versions.torch is "2" there, "3" here'),
    ],
)
def test_another_plan_is_refused_and_the_first_kept(change, message, tmp_path):
    claim_folder(tmp_path / "set", plan())
    with pytest.raises(ValueError, match="holds another plan") as refusal:
        claim_folder(tmp_path / "set", plan(**change))
    assert message in str(refusal.value)
    assert load_plan(tmp_path / "set", MadePlan) == plan()


def test_differences_name_every_place_in_nested_plans():
    present = {"a": {"b": 1, "c": [1, 2]}, "gone": 3}
    wanted = {"a": {"b": 2, "c": [1, 2]}, "new": "x" * 100}
    found = differences(present, wanted)
    assert found[0] == "a.b is 1 there, 2 here"
    assert found[1] == "gone is 3 there, null here"
    assert found[2].startswith("new is null there, ")
    assert len(found[2]) < 70


def test_a_broken_plan_is_one_clear_error(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        claim_folder(tmp_path, plan())
    (tmp_path / "plan.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="format is 99 there, 1 here"):
        claim_folder(tmp_path, plan())


def test_importing_the_package_or_the_command_loads_nothing_heavy():
    code = (
        "import sys, cifar5m, cifar5m.commands.generate;"
        "print([m for m in ('torch', 'diffusers', 'timm', 'matplotlib') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    assert run.stderr == ""


def import_vision():
    from worlds.runtime.torchvision_ops import declare_missing_operators as declare

    declare()
    declare()
    import diffusers.models  # noqa: F401
    import timm
    import torchvision.transforms.v2  # noqa: F401

    print(timm.__name__)


def test_torchvision_and_timm_import_beside_any_torch():
    process = Forked(import_vision)
    assert process.wait() == 0, process.error
    assert process.out == "timm\n"
