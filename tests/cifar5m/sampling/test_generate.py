"""cifar5m-generate end to end, in this process, on tiny networks."""

import hashlib
import os
import shutil
import stat

import numpy as np
import pytest
import torch

from cifar5m.commands.generate import main
from cifar5m.labels.labeler import Labeler, load_classifier
from cifar5m.sampling import job as prepare
from cifar5m.sampling.generate import make_images, make_shard
from cifar5m.sampling.job import Options
from cifar5m.sampling.noise import image_noise
from cifar5m.weights.sources import DEFAULT_LABELER, find_labeler
from tests.cifar5m.tiny_networks import save_labeler, save_unet
from worlds.formats.plan import claim_folder, load_plan
from worlds.formats.shards import decode_image, load_record, read_arrays, read_samples
from worlds.runtime.ranks import Rank, rank_of


def hashes(folder) -> dict[str, str]:
    """sha256 of every tar, and of every side file's content."""
    found = {}
    for shard in load_plan(folder).shards:
        found[shard.name] = hashlib.sha256((folder / shard.tar).read_bytes()).hexdigest()
        found[shard.name + " arrays"] = load_record(folder, shard).arrays_sha256
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory, small_run):
    """20 images: train in shards of 6, 6, 5 and test in one of 3."""
    folder = tmp_path_factory.mktemp("made") / "set"
    assert main(["--n", "20", "--out", str(folder), *small_run]) == 0
    return folder


def job_of(small_run, **changes):
    options = Options(
        n=20,
        recipe="tiny",
        generator=small_run[3],
        labeler=small_run[5],
        steps=2,
        micro_batch=4,
        shard_size=6,
        **changes,
    )
    sources = prepare.find_sources(options)
    return prepare.load_job(options, sources, prepare.plan_of(options, sources), "cpu"), options


def test_a_run_ends_with_complete_labeled_shards(made):
    plan = load_plan(made)
    assert plan.splits == {"train": 17, "test": 3}
    assert [len(shard) for shard in plan.shards] == [6, 6, 5, 3]
    indices, labels = [], []
    for shard in plan.shards:
        arrays, record = read_arrays(made, shard), load_record(made, shard)
        samples = list(read_samples(made / shard.tar))
        assert [index for index, _, _ in samples] == arrays.index.tolist()
        assert [label for _, _, label in samples] == arrays.label.tolist()
        assert all(decode_image(data).shape == (32, 32, 3) for _, data, _ in samples)
        assert arrays.probabilities.dtype == np.float16
        np.testing.assert_allclose(arrays.probabilities.sum(1, dtype=float), 1, atol=2e-3)
        assert record.classes == tuple(np.bincount(arrays.label, minlength=10).tolist())
        assert record.fingerprint == plan.fingerprint
        indices += arrays.index.tolist()
        labels += arrays.label.tolist()
    assert indices == list(range(20))
    assert len(set(labels)) > 1


def test_the_same_command_again_makes_nothing_anew(made, small_run):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    assert main(["--n", "20", "--out", str(made), *small_run]) == 0
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()} == before


def test_lost_and_damaged_shards_are_made_again_to_the_same_bytes(made, small_run, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(made, folder)
    shards = load_plan(folder).shards
    (folder / shards[0].record).unlink()
    (folder / shards[1].tar).write_bytes(b"cut short")
    (folder / shards[2].arrays).unlink()
    assert main(["--n", "20", "--out", str(folder), *small_run]) == 0
    assert hashes(folder) == hashes(made)


@pytest.mark.parametrize("ranks", [2, 5])
def test_any_number_of_ranks_gives_the_same_bytes(made, small_run, tmp_path, monkeypatch, ranks):
    folder = tmp_path / "set"
    for rank in reversed(range(ranks)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        assert main(["--n", "20", "--out", str(folder), *small_run]) == 0
    assert hashes(folder) == hashes(made)


def test_thread_count_does_not_change_the_bytes(made, small_run, tmp_path):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert main(["--n", "20", "--out", str(tmp_path / "set"), *small_run]) == 0
    finally:
        torch.set_num_threads(threads)
    assert hashes(tmp_path / "set") == hashes(made)


def test_an_image_alone_has_its_noise_to_the_bit(small_run):
    together = image_noise(7, torch.arange(100, 110), 999)
    alone = image_noise(7, torch.tensor([104]), 999)
    assert torch.equal(together[4], alone[0])


def test_a_micro_batch_made_alone_equals_its_part_of_the_shard(small_run):
    job, options = job_of(small_run)
    shard = options.layout.shards()[1]  # indices 6 to 11: micro-batches 6-9 and 10-13
    made = make_shard(job, shard)
    alone = make_images(job, torch.arange(10, 14))
    np.testing.assert_array_equal(made.images[4:], alone[:2].numpy())
    np.testing.assert_array_equal(made.probabilities[4:], job.labeler(alone)[:2].numpy())


def test_another_seed_gives_other_images(small_run):
    first, second = (make_images(job_of(small_run, seed=s)[0], torch.arange(4)) for s in (0, 1))
    assert (first != second).float().mean() > 0.3


def test_labels_do_not_depend_on_how_many_images_come_along(labeler_folder):
    classifier, preprocessing = load_classifier(find_labeler(str(labeler_folder)))
    labeler = Labeler(classifier, preprocessing, torch.device("cpu"), "fp32", batch=4)
    images = torch.randint(0, 256, (11, 32, 32, 3), dtype=torch.uint8)
    whole = labeler(images)
    assert whole.shape == (11, 10)
    assert torch.equal(labeler(images[8:9]), whole[8:9])


def test_labeler_input_is_resized_and_in_minus_one_to_one(labeler_folder):
    classifier, preprocessing = load_classifier(find_labeler(str(labeler_folder)))
    labeler = Labeler(classifier, preprocessing, torch.device("cpu"), "fp32", batch=2)
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    images[1] = 255
    x = labeler.prepare(images)
    assert x.shape == (2, 3, 64, 64)
    assert x[0].unique().tolist() == [-1]
    assert x[1].unique().tolist() == [1]


def test_half_precision_changes_the_network_only(small_run):
    full, half = (job_of(small_run, precision=p)[0] for p in ("fp32", "bf16"))
    x = image_noise(0, torch.arange(4), 1000)
    assert half.generator(x, 500).dtype == torch.float32
    difference = (full.generator(x, 500) - half.generator(x, 500)).abs().max().item()
    assert 0 < difference < 0.1
    assert all(p.dtype == torch.float32 for p in half.generator.network.parameters())


def test_dry_run_prints_the_cost_and_writes_nothing(small_run, tmp_path, capsys):
    folder = tmp_path / "set"
    assert main(["--n", "20", "--out", str(folder), "--dry-run", *small_run]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["splits"] == "train 17, test 3"
    assert rows["shards"] == "4 of 6 images"
    assert rows["network"] == "calls   56 of one image each"  # 7 micro-batches of 4, 2 calls
    assert not folder.exists()


def test_a_network_that_returns_nan_stops_the_run(made, unet_folder, small_run, tmp_path, capsys):
    from diffusers import UNet2DModel

    network = UNet2DModel.from_pretrained(unet_folder, low_cpu_mem_usage=False)
    with torch.no_grad():
        network.conv_out.bias[1] = float("nan")
    network.save_pretrained(tmp_path / "bad")
    folder = tmp_path / "set"
    options = [*small_run, "--generator", str(tmp_path / "bad"), "--sampler", "dpm_solver_pp_2m"]
    assert main(["--n", "20", "--out", str(folder), *options]) == 1
    message = capsys.readouterr().err
    assert "shard train-00000" in message
    assert "timestep 999" in message
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["plan.json"]


BAD_OPTIONS = {
    "n": (["--n", "0"], "--n must be at least 1, got 0"),
    "negative": (["--n", "-5"], "--n must be at least 1, got -5"),
    "shard size": (["--shard-size", "0"], "--shard-size must be at least 1"),
    "micro-batch": (["--micro-batch", "0"], "--micro-batch must be at least 1"),
    "recipe": (["--recipe", "huge"], "choose from cifar5m, cifar5m-ddim100, tiny"),
    "precision": (["--precision", "int4"], "--precision must be one of fp32"),
    "sampler": (["--sampler", "magic"], "--sampler must be one of ancestral"),
    "steps": (["--steps", "1001"], "steps must be"),
    "variance": (["--sampler", "ancestral", "--variance", "tiny"], "variance"),
    "split sum": (["--split", "train=10,test=5"], "--split must add up to --n 20, got 15"),
    "seed": (["--seed", "-1"], "seed must be in"),
    "generator": (["--generator", "/nowhere"], "is not a directory, a file or a Hub id"),
    "workers": (["--workers", "0"], "--workers must be at least 1"),
    "writers": (["--writers", "0"], "--writers must be at least 1"),
    "device": (["--device", "tpu"], "got 'tpu'"),
    "no cuda": (["--device", "cuda:77"], "usable GPUs"),
}


@pytest.mark.parametrize("options, message", BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_bad_options_end_in_one_line_and_code_2(options, message, small_run, tmp_path, capsys):
    folder = tmp_path / "set"
    assert main(["--n", "20", "--out", str(folder), *small_run, *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not folder.exists()


def test_a_folder_of_another_plan_is_refused_with_the_difference(made, small_run, capsys):
    before = hashes(made)
    assert main(["--n", "20", "--out", str(made), *small_run, "--seed", "3"]) == 2
    assert "seed is 0 there, 3 here" in capsys.readouterr().err
    assert hashes(made) == before


def test_a_file_or_a_foreign_folder_in_the_way_is_refused(small_run, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["--n", "20", "--out", str(tmp_path / "file"), *small_run]) == 2
    assert "is a file" in capsys.readouterr().err
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("mine")
    assert main(["--n", "20", "--out", str(tmp_path / "thesis"), *small_run]) == 2
    assert "chapter1.tex" in capsys.readouterr().err
    assert os.listdir(tmp_path / "thesis") == ["chapter1.tex"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_one_line(small_run, tmp_path, capsys):
    tmp_path.chmod(stat.S_IREAD | stat.S_IEXEC)
    assert main(["--n", "20", "--out", str(tmp_path / "set"), *small_run]) == 1
    assert "no permission to write" in capsys.readouterr().err


@pytest.mark.parametrize(
    "config, message",
    [
        ({"sample_size": 64}, "must map 3 x 32 x 32"),
        ({"in_channels": 1}, "must map 3 x 32 x 32"),
        ({"out_channels": 6}, "must map 3 x 32 x 32"),
    ],
)
def test_a_generator_of_another_shape_is_refused(config, message, small_run, tmp_path, capsys):
    folder = save_unet(tmp_path / "unet", **config)
    options = [*small_run, "--generator", str(folder)]
    assert main(["--n", "20", "--out", str(tmp_path / "set"), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_labeler_without_ten_classes_is_refused(small_run, tmp_path, capsys):
    folder = save_labeler(tmp_path / "labeler", num_classes=7)
    options = [*small_run, "--labeler", str(folder)]
    assert main(["--n", "20", "--out", str(tmp_path / "set"), *options]) == 2
    assert "ten classes of CIFAR-10" in capsys.readouterr().err


def test_weights_out_of_reach_say_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DEEP_BOOTSTRAP_CACHE", str(tmp_path / "cache"))
    url = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert main(["--n", "20", "--out", str(tmp_path / "set")]) == 2
    error = capsys.readouterr().err
    assert DEFAULT_LABELER in error
    assert "the bundled `tiny` works offline" in error
    assert str(tmp_path / "cache") in error


def test_the_plan_is_a_function_of_content_alone(small_run, tmp_path):
    _, options = job_of(small_run)
    moved = tmp_path / "elsewhere"
    shutil.copytree(small_run[3], moved)
    sources = prepare.find_sources(options)
    there = prepare.find_sources(Options(**(vars(options) | {"generator": str(moved)})))
    plan, plan_there = prepare.plan_of(options, sources), prepare.plan_of(options, there)
    assert plan.fingerprint == plan_there.fingerprint
    claim_folder(tmp_path / "set", plan)
    assert load_plan(tmp_path / "set", prepare.GeneratedPlan) == plan


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, None),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Rank(3, 8, 1)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "7",
                "SLURM_ARRAY_TASK_MIN": "4",
                "SLURM_ARRAY_TASK_COUNT": "10",
            },
            Rank(3, 10, 0),
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "2"},
            Rank(2, 4, 2),
        ),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),  # the shell of an sbatch job
        (
            {
                "SLURM_ARRAY_TASK_ID": "1",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_COUNT": "2",
                "SLURM_STEP_NUM_TASKS": "3",
                "SLURM_PROCID": "2",
                "SLURM_LOCALID": "2",
            },
            Rank(5, 6, 2),
        ),
    ],
)
def test_ranks_come_from_torchrun_or_slurm(environment, expected):
    assert rank_of(environment) == expected


@pytest.mark.parametrize(
    "environment", [{"RANK": "8", "WORLD_SIZE": "8"}, {"RANK": "x", "WORLD_SIZE": "2"}]
)
def test_a_rank_outside_its_world_is_refused(environment):
    with pytest.raises(ValueError, match="RANK"):
        rank_of(environment)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_ranks_share_all_shards_without_overlap(world):
    shards = Options(n=100, recipe="tiny", shard_size=9).layout.shards()
    shares = [Rank(rank, world).share(shards) for rank in range(world)]
    together = sorted((shard for share in shares for shard in share), key=lambda s: s.start)
    assert together == shards
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_help_names_every_recipe_and_sampler_without_loading_them():
    from cifar5m.commands.generate import make_parser
    from cifar5m.sampling.diffusion import SAMPLERS
    from cifar5m.sampling.recipes import DEFAULT, RECIPES

    parser = make_parser()
    assert parser.get_default("recipe") == DEFAULT
    words = parser.format_help().replace(",", " ").split()
    assert {*RECIPES, *SAMPLERS} <= set(words)
