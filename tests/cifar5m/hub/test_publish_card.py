"""The card says what the folder says, and the listing what timm reads."""

import json
from pathlib import Path

import pytest
import yaml

from cifar5m.commands.label import main as label
from cifar5m.hub.card import KINDS, Facts, card_text, timm_info, write_card
from tests.cifar5m.small_set import labels_of, make_set, shards_of
from worlds.formats.layout import CIFAR10_CLASSES, PLAN
from worlds.formats.plan import fingerprint_of, load_plan
from worlds.runtime.files import write_json
from worlds.runtime.json_files import load_json

MEASURED = {
    "data": "the test images of cifar",
    "images": 10_000,
    "accuracy": 0.985,
    "mean_confidence": 0.99,
    "calibration_error": 0.0123,
    "weights_sha256": "0" * 64,
    "precision": "fp32",
    "log_loss": 0.05,
    "class_accuracy": [0.985] * 10,
}


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_set(tmp_path / "set", dataset="cifar5m", seed=7, sampler={"name": "ddim"})


def facts(folder, **changes) -> Facts:
    return Facts(**{"folder": folder, "repo": "me/set", "shards": shards_of(folder)} | changes)


def card(folder, duplicates=0, **changes) -> tuple[dict, str]:
    """The card's YAML and its text."""
    _, head, text = card_text(facts(folder, duplicates=duplicates, **changes)).split("---\n", 2)
    return yaml.safe_load(head), text


def say_about(folder, **about) -> None:
    plan = load_json(folder / PLAN, dict)
    write_json(folder / PLAN, plan | {"about": plan.get("about", {}) | about})


def test_the_head_names_classes_and_counts(folder):
    head, _ = card(folder)
    (info,) = head["dataset_info"]
    assert {split["name"]: split["num_examples"] for split in info["splits"]} == {
        "train": 14,
        "test": 5,
    }
    names = info["features"][1]["dtype"]["class_label"]["names"]
    assert tuple(names[str(k)] for k in range(10)) == CIFAR10_CLASSES
    assert head["configs"][0]["data_files"][0] == {"split": "train", "path": "data/train-*.tar"}
    assert head["size_categories"] == ["n<1K"]
    assert head["task_categories"] == ["image-classification"]


def test_the_text_says_what_the_plan_says(folder):
    _, text = card(folder, duplicates=3)
    plan = load_plan(folder)
    assert plan.fingerprint in text
    assert "| seed | 7 |" in text
    assert "| sampler | name ddim |" in text
    assert "3 images have the same pixels" in text
    counts = [int((labels_of(shard) == 4).sum()) for shard in shards_of(folder)]
    assert f"| deer | {sum(counts[:3])} | {counts[3]} |" in text
    assert "Philox 4x32-10 of (seed, i, t)" in text


@pytest.mark.parametrize(
    "said, chosen, license",
    [
        ("Apache-2.0", None, "apache-2.0"),
        ("weights: nobody knows", None, "other"),
        (None, None, "other"),
        ("Apache-2.0", "cc-by-nc-sa-4.0", "cc-by-nc-sa-4.0"),
    ],
)
def test_a_licence_is_stated_and_not_guessed(said, chosen, license, folder):
    if said:
        say_about(folder, licence=said)
    head, text = card(folder, license=chosen)
    assert head["license"] == license
    assert (said or "names no license") in text


def test_the_labeler_is_told_with_what_was_measured_of_it(folder):
    say_about(folder, labeler="bit")
    assert "Its accuracy was not measured" in card(folder)[1]
    say_about(folder, labeler_evaluation=MEASURED)
    text = card(folder)[1]
    assert "accuracy on the test images of cifar (10,000 images) is 98.50%" in text
    assert "0.0123" in text


def test_a_second_labeling_is_told(folder, labeler_folder):
    command = [str(folder), "--labeler", str(labeler_folder), "--name", "second"]
    assert label([*command, "--device", "cpu", "--quiet"]) == 0
    summary = json.loads((folder / "labels" / "second" / "summary.json").read_text())
    line = f"`labels/second`, gives the same label to {summary['agreement']:.2%} of 19 images"
    assert line in card(folder)[1]


def test_an_audit_is_told_where_there_is_one(folder):
    assert "No audit" in card(folder)[1]
    audit = {
        "dataset": {"fingerprint": load_plan(folder).fingerprint},
        "cifar10": {"name": "a copy of CIFAR-10"},
        "summary": {"images": 19, "near copies": 12, "FID": 3.21, "KID": None},
    }
    write_json(folder / "audit" / "audit.json", audit)
    text = card(folder)[1]
    assert "held the images against a copy of CIFAR-10" in text
    assert "It saw" not in text
    assert "| near copies | 12 |" in text
    assert "| FID | 3.21 |" in text
    assert "| KID | not measured |" in text
    write_json(folder / "audit" / "audit.json", ["nothing"])
    with pytest.raises(ValueError, match=r"audit\.json is not an audit"):
        card(folder)


def test_an_audit_of_fewer_images_or_of_another_set_is_no_audit_of_this_one(folder):
    audit = {"dataset": {"fingerprint": load_plan(folder).fingerprint}}
    audit |= {"cifar10": {"name": "CIFAR-10"}, "summary": {"images": 9}}
    write_json(folder / "audit" / "audit.json", audit)
    assert "It saw 9 images, 19 are here." in card(folder)[1]
    write_json(folder / "audit" / "audit.json", audit | {"dataset": {"fingerprint": "another"}})
    with pytest.raises(ValueError, match=r"audit\.json is of another set"):
        card(folder)


@pytest.mark.parametrize("dataset", [*KINDS, "something else", None])
def test_every_kind_of_set_has_a_card(dataset, folder):
    plan = {key: value for key, value in load_json(folder / PLAN, dict).items() if key != "dataset"}
    plan |= {"dataset": dataset} if dataset else {}
    write_json(folder / PLAN, plan | {"fingerprint": fingerprint_of(plan)})
    head, text = card(folder)
    assert head["pretty_name"] in text
    assert "arXiv:2010.08127" in text


@pytest.mark.parametrize("form, claims", [("parts", True), ("folder", False), ("pairs", False)])
def test_only_the_released_parts_are_called_cifar_5m(form, claims, tmp_path):
    folder = make_set(tmp_path / "set", dataset="import", source={"form": form}, labels="given")
    head, text = card(folder)
    assert ("CIFAR-5m" in head["pretty_name"]) is claims
    assert ("extended|cifar10" in head.get("source_datasets", [])) is claims
    assert ("cifar-10" in head["tags"]) is claims
    assert "Nothing was drawn at random here" in text


def test_photographs_have_no_one_size_and_long_lists_are_cut(tmp_path):
    wnids = [f"n{number:08d}" for number in range(118)]
    folder = make_set(
        tmp_path / "set", dataset="dogbird", image_shape=[None, None, 3], classes={"dog": wnids}
    )
    text = card(folder)[1]
    assert "Images of differing sizes" in text
    assert "dog n00000000, n00000001, n00000002 ... (118 in all, see plan.json)" in text


def test_names_cannot_write_markdown(tmp_path):
    names = [
        "<script>alert(1)</script>",
        "a|b",
        "[x](javascript:y)",
        "`code`",
        *CIFAR10_CLASSES[4:],
    ]
    folder = make_set(tmp_path / "set", class_names=names, dataset="<img src=x>\n# Title")
    say_about(folder, labeler="`| x\n\n# Heading")
    head, text = card(folder)
    assert head["dataset_info"][0]["features"][1]["dtype"]["class_label"]["names"]["0"] == names[0]
    for hostile in ("<script", "<img", "\n# Title", "\n# Heading", "| a|b |", "[x](", "| `code`"):
        assert hostile not in text
    assert "| a\\|b |" in text


def test_writing_a_card_twice_gives_the_same_bytes(folder):
    write_card(facts(folder, duplicates=0))
    before = (folder / "README.md").read_bytes()
    write_card(facts(folder, duplicates=0))
    assert (folder / "README.md").read_bytes() == before


def test_the_card_leaves_what_is_somebodys_own(folder):
    (folder / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="was not written by cifar5m-publish"):
        write_card(facts(folder, duplicates=0))
    assert (folder / "README.md").read_text() == "mine"


def test_the_listing_counts_every_shard(folder):
    splits = timm_info(shards_of(folder))["splits"]
    assert splits["train"]["shard_lengths"] == [5, 5, 4]
    assert splits["train"]["num_samples"] == 14
    assert splits["test"]["filenames"] == ["data/test-00000-of-00001.tar"]
