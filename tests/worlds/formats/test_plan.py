import json
import subprocess
import sys

import pytest

from worlds.formats.layout import Layout, read_plan
from worlds.formats.plan import claim_folder, differences, fingerprint_of, make_plan


def plan(**content):
    base = {"seed": 0, "sampler": {"steps": 3}, "versions": {"torch": "2"}}
    return make_plan(Layout((("train", 20),), 6), base | content, {"recipe": "tiny"})


def test_fingerprint_changes_with_any_content_and_with_nothing_else():
    base = plan()
    assert plan()["fingerprint"] == base["fingerprint"]
    assert plan(seed=1)["fingerprint"] != base["fingerprint"]
    assert plan(sampler={"steps": 4})["fingerprint"] != base["fingerprint"]
    moved = base | {"about": {"generator": "/another/place"}}
    assert fingerprint_of(moved) == base["fingerprint"]
    assert fingerprint_of(dict(reversed(base.items()))) == base["fingerprint"]


def test_a_claimed_folder_holds_the_plan_and_may_be_claimed_again(tmp_path):
    claim_folder(tmp_path / "set", plan())
    claim_folder(tmp_path / "set", plan())
    assert read_plan(tmp_path / "set") == plan()


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
    assert read_plan(tmp_path / "set") == plan()


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
    with pytest.raises(ValueError, match="not a plan of format 1"):
        claim_folder(tmp_path, plan())


def test_importing_the_package_or_the_command_loads_nothing_heavy():
    code = (
        "import sys, cifar5m, cifar5m.commands.generate;"
        "print([m for m in ('torch', 'diffusers', 'timm', 'matplotlib') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    assert run.stderr == ""


def test_torchvision_and_timm_import_beside_any_torch():
    code = (
        "from worlds.runtime.torchvision_ops import declare_missing_operators as declare;"
        "declare(); declare();"
        "import timm, torchvision.transforms.v2, diffusers.models; print(timm.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "timm", run.stderr
