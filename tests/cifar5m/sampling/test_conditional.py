"""A conditional recipe end to end: what was requested is stored, checked, and made again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cifar5m.commands.generate import main as generate
from cifar5m.commands.label import main as label
from cifar5m.commands.pack import main as pack
from cifar5m.commands.verify import main as verify
from cifar5m.hub.card import Facts, card_text
from cifar5m.sampling.classes import Conditioning, image_classes
from cifar5m.sampling.generate import make_images, predictor
from cifar5m.sampling.job import (
    GeneratedPlan,
    Options,
    find_sources,
    load_job,
    options_of,
    plan_of,
)
from cifar5m.sampling.noise import image_noise
from tests.cifar5m.tiny_networks import save_labeler, save_unet
from worlds.formats.plan import load_plan
from worlds.formats.shards import load_record, read_arrays, read_samples

SEED = 4  # of `conditional_run`


@pytest.fixture(scope="module")
def made(tmp_path_factory, conditional_run) -> Path:
    """20 images: train in shards of 6, 6, 5 and test in one of 3."""
    folder = tmp_path_factory.mktemp("made") / "set"
    assert generate(["--n", "20", "--out", str(folder), *conditional_run]) == 0
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "set"))


def shards_of(folder):
    return load_plan(folder).shards


def job_of(run, **changes):
    options = Options(
        n=20,
        recipe="tiny",
        generator=run[run.index("--guidance") - 1],
        labeler=run[5],
        steps=2,
        micro_batch=4,
        **changes,
    )
    sources = find_sources(options)
    return load_job(options, sources, plan_of(options, sources), "cpu")


def test_the_side_files_hold_the_requested_class_and_the_labelers_opinion(made):
    plan = load_plan(made, GeneratedPlan)
    assert plan.conditioning == Conditioning(10, guidance=2.0, null_class=10)
    assert plan.labels == "requested"
    assert plan.sampler.start == 600
    requested = np.concatenate([read_arrays(made, shard).requested for shard in shards_of(made)])
    assert requested.tolist() == image_classes(SEED, torch.arange(20), 10).tolist()
    for shard in shards_of(made):
        arrays = read_arrays(made, shard)
        assert [c for _, _, c in read_samples(made / shard.tar)] == arrays.requested.tolist()
        assert arrays.label.tolist() == arrays.requested.tolist()
        agreed = int((arrays.probabilities.argmax(1) == arrays.requested).sum())
        assert load_record(made, shard).agreed == agreed
    assert verify([str(made), "--workers", "1"]) == 0


def test_the_summary_states_how_often_labeler_and_request_agree(made, conditional_run, capsys):
    assert generate(["--n", "20", "--out", str(made), *conditional_run]) == 0
    agreed = sum(load_record(made, shard).agreed for shard in shards_of(made))
    line = f"the labeler finds the requested class in {agreed} of 20 images ({agreed / 20:.1%})"
    assert line in capsys.readouterr().out
    assert verify([str(made), "--workers", "1"]) == 0
    assert line in capsys.readouterr().out


def test_labels_by_argmax_differ_in_label_and_plan_alone(made, conditional_run, tmp_path):
    folder = tmp_path / "set"
    options = [*conditional_run, "--labels", "argmax"]
    assert generate(["--n", "20", "--out", str(folder), *options]) == 0
    assert load_plan(folder).fingerprint != load_plan(made).fingerprint
    for shard in shards_of(folder):
        here, there = read_arrays(folder, shard), read_arrays(made, shard)
        np.testing.assert_array_equal(here.requested, there.requested)
        np.testing.assert_array_equal(here.probabilities, there.probabilities)
        np.testing.assert_array_equal(here.label, here.probabilities.argmax(1))
    assert verify([str(folder), "--workers", "1"]) == 0


def test_the_requested_class_changes_the_image(conditional_run):
    job = job_of(conditional_run)
    x = image_noise(0, torch.arange(4), 1000)
    first, second = (job.generator(x, 500, torch.full((4,), c)) for c in (0, 1))
    assert (first - second).abs().max() > 1e-4


def test_guidance_moves_away_from_the_prediction_without_a_class(conditional_run):
    index, x = torch.arange(4), image_noise(0, torch.arange(4), 1000)
    plain, twice, none = (
        predictor(job_of(conditional_run, guidance=g), index)(x, 500) for g in (None, 2.0, 0.0)
    )
    network = job_of(conditional_run).generator
    null = network(x, 500, torch.full((4,), 10))
    torch.testing.assert_close(none, null, atol=1e-5, rtol=0)
    torch.testing.assert_close(plain, network(x, 500, image_classes(0, index, 10)))
    torch.testing.assert_close(twice, 2 * plain - null, atol=1e-5, rtol=0)


def test_a_guided_step_is_one_call_of_a_doubled_batch(conditional_run, monkeypatch):
    job, sizes = job_of(conditional_run, guidance=2.0), []
    forward = job.generator._call

    def counted(x, *args, **options):
        sizes.append(len(x))
        return forward(x, *args, **options)

    monkeypatch.setattr(job.generator, "_call", counted)
    make_images(job, torch.arange(4))
    assert sizes == [8, 8]


def test_a_plan_gives_its_options_back(made):
    plan = load_plan(made, GeneratedPlan)
    options = options_of(plan)
    assert (options.start, options.guidance, options.labels) == (600, 2.0, "requested")
    assert plan_of(options, find_sources(options)) == plan


@pytest.mark.parametrize("lost", ["tar", "arrays", "record"])
def test_a_lost_file_is_repaired_to_the_same_content(lost, folder, made):
    shard = shards_of(folder)[1]
    (folder / getattr(shard, lost)).unlink()
    options = ["--workers", "1", "--repair", "--device", "cpu"]
    assert verify([str(folder), *options]) == 0
    assert (folder / shard.tar).read_bytes() == (made / shard.tar).read_bytes()
    here, there = read_arrays(folder, shard), read_arrays(made, shard)
    assert here.sha256 == there.sha256 == load_record(folder, shard).arrays_sha256
    np.testing.assert_array_equal(here.requested, there.requested)


def rewritten(**changes):
    def damage(folder, shard):
        arrays = dict(np.load(folder / shard.arrays))
        for name, change in changes.items():
            if change is None:
                del arrays[name]
            else:
                arrays[name] = change(arrays[name])
        np.savez(folder / shard.arrays, **arrays)

    return damage


DAMAGE = {
    "no requested classes": (rewritten(requested=None), "expected int64[6], int64[6], float16"),
    "of another type": (rewritten(requested=np.float32), "float32[6], expected int64[6]"),
    "rolled": (
        rewritten(requested=lambda a: np.roll(a, 1)),
        "requested class is not that of (seed, index)",
    ),
    "labels of the labeler": (
        rewritten(label=lambda a: (a + 1) % 10),
        "label is not the requested class",
    ),
}


@pytest.mark.parametrize("damage, message", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_requests_are_found_and_repaired(damage, message, folder, made, capsys):
    shard = shards_of(folder)[0]
    damage(folder, shard)
    assert verify([str(folder), "--workers", "1"]) == 1
    assert message in capsys.readouterr().out
    assert verify([str(folder), "--workers", "1", "--repair", "--device", "cpu"]) == 0
    assert read_arrays(folder, shard).sha256 == read_arrays(made, shard).sha256


def test_a_second_labeling_is_compared_with_labels_and_requests(folder, tmp_path, capsys):
    other = save_labeler(tmp_path / "other")
    options = ["--labeler", str(other), "--name", "second", "--device", "cpu", "--quiet"]
    assert label([str(folder), *options]) == 0
    assert "requested class found in" in capsys.readouterr().out
    summary = json.loads((folder / "labels/second/summary.json").read_text())
    sides = [(read_arrays(folder, s), read_arrays(folder / "labels/second", s)) for s in
             shards_of(folder)]  # fmt: skip
    hits = [
        np.mean(np.concatenate([pair[k].probabilities.argmax(1) == pair[0].requested
                                for pair in sides]))
        for k in (0, 1)
    ]  # fmt: skip
    assert summary["requested_agreement"] == dict(zip(("first", "second"), hits, strict=True))
    assert verify([str(folder), "--workers", "1"]) == 0


def test_a_pack_of_requested_labels_holds_them(folder, tmp_path):
    assert pack([str(folder), "--out", str(tmp_path / "pack"), "--quiet"]) == 0
    labels = np.load(tmp_path / "pack/labels.npy")
    assert labels.tolist() == image_classes(SEED, torch.arange(20), 10).tolist()


def test_the_card_says_what_the_label_is_and_how_often_both_agree(made):
    shards = shards_of(made)
    agreed = sum(load_record(made, shard).agreed for shard in shards)
    text = card_text(Facts(made, "you/set", shards, duplicates=0))
    assert "The label is the class that the generator was asked for." in text
    assert agreed > 0
    assert f"In {agreed / 20:.2%} of the images the labeler finds the class" in text
    assert "unconditional" not in text


BAD_OPTIONS = {
    "guidance below 0": (["--guidance", "-1"], "--guidance must be a number of at least 0"),
    "start": (["--start", "1000"], "start must be between 0 and 999, got 1000"),
    "labels": (["--labels", "mine"], "--labels must be one of argmax, requested, got 'mine'"),
}


@pytest.mark.parametrize("options, message", BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_bad_options_end_in_one_line(options, message, conditional_run, tmp_path, capsys):
    folder = tmp_path / "set"
    assert generate(["--n", "20", "--out", str(folder), *conditional_run, *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not folder.exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--guidance", "2"], "needs class embeddings"),
        (["--labels", "requested"], "needs a generator with class embeddings"),
    ],
)
def test_an_unconditional_generator_is_not_asked(options, message, small_run, tmp_path, capsys):
    folder = tmp_path / "set"
    assert generate(["--n", "20", "--out", str(folder), *small_run, *options]) == 2
    assert message in capsys.readouterr().err
    assert not folder.exists()


def test_embeddings_of_a_thousand_classes_are_refused(small_run, tmp_path, capsys):
    unet = save_unet(tmp_path / "unet", num_class_embeds=1000)
    options = [*small_run, "--generator", str(unet)]
    assert generate(["--n", "20", "--out", str(tmp_path / "set"), *options]) == 2
    assert "1000 class embeddings, expected 10" in capsys.readouterr().err


def test_the_dry_run_counts_both_calls_of_a_guided_step(conditional_run, tmp_path, capsys):
    options = ["--n", "20", "--out", str(tmp_path / "set"), "--dry-run", *conditional_run]
    assert generate(options) == 0
    out = capsys.readouterr().out
    assert "112 of one image each" in out  # 7 micro-batches of 4, 2 steps of 2 calls
    assert "started at timestep 600, each with and without the class, guidance 2" in out
