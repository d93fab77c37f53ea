"""The card holds what was measured, and the sweep settles on the best settings that it may try."""

import pytest

from cifar5m.sampling.diffusion import SamplerConfig


def judged(candidate):
    """A made-up quality with one best place: start 650, logsnr, guidance 1.5, many calls."""
    from tiny_sweep import Result

    s = candidate.sampler
    distance = abs((s.start or 999) - 650) / 100 + abs(candidate.guidance - 1.5)
    distance += (s.spacing != "logsnr") + 1 / candidate.calls
    return Result(candidate, distance, None, 0.5)


def test_the_sweep_finds_the_best_within_the_calls():
    from tiny_sweep import MOST_CALLS, choose

    tried = []

    def measure(candidate):
        tried.append(candidate)
        return judged(candidate)

    best = choose(measure, guided=True).candidate
    assert (best.sampler.start, best.sampler.spacing, best.guidance) == (650, "logsnr", 1.5)
    assert max(candidate.calls for candidate in tried) <= MOST_CALLS
    assert best.calls == MOST_CALLS  # 20 steps of two


def test_a_network_without_a_null_class_is_never_guided():
    from tiny_sweep import choose

    tried = []

    def measure(candidate):
        tried.append(candidate)
        return judged(candidate)

    assert choose(measure, guided=False).candidate.sampler.steps == 40
    assert {candidate.guidance for candidate in tried} == {1.0}


def test_a_guided_candidate_counts_both_calls_of_a_step():
    from tiny_sweep import Candidate

    sampler = SamplerConfig("ddim", 20, start=600)
    assert (Candidate(sampler).calls, Candidate(sampler, 2.0).calls) == (20, 40)


@pytest.fixture
def bundled(tmp_path, monkeypatch, unet_folder, labeler_folder):
    """Small networks where the bundled ones lie, two generators and the labeler."""
    import json
    import shutil

    import card_tiny

    from cifar5m.weights import sources
    from tests.cifar5m.tiny_networks import save_unet

    package = tmp_path / "package"
    shutil.copytree(unet_folder, package / "tiny/generator")
    shutil.copytree(labeler_folder, package / "tiny/labeler")
    save_unet(package / "tiny/conditional", num_class_embeds=11)
    facts = {"data": "CIFAR-10", "images_seen": 8, "minutes": 90.0, "parameters": 7}
    for kind in ("generator", "labeler", "conditional"):
        text = json.dumps(facts | {"options": {"batch": "4"}, "torch": "2"})
        (package / "tiny" / kind / "training.json").write_text(text)
    monkeypatch.setattr(sources, "files", lambda name: package)
    monkeypatch.setattr(card_tiny, "TINY", package / "tiny")
    return package


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_card_compares_both_recipes(
    bundled, small_cifar10, tmp_path, labeler_folder, monkeypatch
):
    import card_tiny

    from cifar5m.commands.generate import main as generate

    few = ["--micro-batch", "10", "--steps", "2"]  # the recipes' batches are of 64 images at least
    monkeypatch.setattr(card_tiny, "generate", lambda options: generate([*options, *few]))
    card = tmp_path / "card.md"
    options = ["--data", str(small_cifar10), "--images", "20", "--work", str(tmp_path / "work")]
    more = ["--labeler", str(labeler_folder), "--remark", "Looked at.", "--out", str(card)]
    assert card_tiny.main([*options, *more, "--recipes", "tiny", "tiny-conditional"]) == 0
    text = card.read_text()
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if "|" in line}
    assert rows["images seen"] == "| images seen | 8 | 8 | 8 |"
    assert rows["hours of training"] == "| hours of training | 1.50 | 1.50 | 1.50 |"
    assert "| - | " in rows["requested class found by labeler tiny"]
    assert "the requested class" in rows["label"]
    assert "Frechet distance to train, labeler labeler" in rows
    assert "Looked at." in text


def test_the_sweep_keeps_what_it_has_measured(
    bundled, small_cifar10, tmp_path, capsys, monkeypatch
):
    import tiny_sweep
    from card_tiny import main

    monkeypatch.setattr(tiny_sweep, "STARTS", (None, 600))
    monkeypatch.setattr(tiny_sweep, "SAMPLERS", ())
    monkeypatch.setattr(tiny_sweep, "GUIDANCES", (2.0,))
    monkeypatch.setattr(tiny_sweep, "STEPS", (2,))
    work = tmp_path / "work"
    options = ["--data", str(small_cifar10), "--sweep", "tiny-conditional", "--work", str(work)]
    assert main([*options, "--sweep-images", "8"]) == 0
    first = capsys.readouterr().out
    assert "best within 40 network calls an image: ddim" in first
    kept = (work / "sweep.jsonl").read_text()
    monkeypatch.setattr(tiny_sweep, "_measure", None)
    assert main([*options, "--sweep-images", "8"]) == 0
    assert capsys.readouterr().out == first
    assert (work / "sweep.jsonl").read_text() == kept
