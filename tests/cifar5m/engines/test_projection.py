"""What is said before a run, how its shards follow n, and what a stopped one keeps."""

import json
import signal
from dataclasses import replace

import pytest

from cifar5m.commands.generate import main
from cifar5m.sampling.job import Options, keep_earlier_choices
from cifar5m.weights.ho_ema import DEFAULT, SOURCES
from cifar5m.weights.sources import DEFAULT_LABELER, labeler_folder
from tests.cifar5m.loopback_hub import Repo, hub_of_this_process
from tests.processes import Forked


@pytest.mark.parametrize(
    "n, size, batch",
    [
        (12, 50, 10),  # of which 10 are in train
        (300, 50, 50),
        (1_000, 50, 50),
        (4_321, 216, 216),
        (60_000, 3_000, 1_000),
        (6_000_000, 10_000, 1_000),
    ],
)
def test_shards_follow_n_so_that_a_stop_loses_little(n, size, batch):
    options = Options(n=n)
    assert options.layout.shard_size == size
    assert len(options.layout.shards()) >= (20 if n >= 1_000 else 1)
    assert options.resolved.micro_batch == batch


def test_a_chosen_shard_size_leaves_the_recipes_micro_batch():
    options = Options(n=200, recipe="tiny", shard_size=50)
    assert (options.layout.shard_size, options.resolved.micro_batch) == (50, 64)


def generate(out, small_run, *options):
    kept = [option for option in small_run if option not in ("--shard-size", "6")]
    return main(["--n", "40", "--out", str(out), *kept, *options])


def test_a_directory_keeps_the_shard_size_that_it_has(tmp_path, small_run, capsys):
    out = tmp_path / "set"
    assert generate(out, small_run, "--shard-size", "7") == 0
    assert generate(out, small_run) == 0
    assert json.loads((out / "plan.json").read_text())["shard_size"] == 7
    assert generate(out, small_run, "--shard-size", "8") == 2
    assert "shard_size is 7 there, 8 here" in capsys.readouterr().err


def test_a_directory_keeps_its_labeler_when_bit_has_been_fine_tuned_since(tmp_path, small_run):
    assert generate(tmp_path / "set", small_run) == 0
    path = tmp_path / "set" / "plan.json"
    plan = json.loads(path.read_text())
    plan["about"] |= {"recipe": "cifar5m", "labeler": DEFAULT_LABELER}
    path.write_text(json.dumps(plan))
    options = keep_earlier_choices(Options(n=40), tmp_path / "set")
    assert (options.labeler, options.shard_size) == (DEFAULT_LABELER, 50)
    assert keep_earlier_choices(Options(n=40, labeler="bit"), tmp_path / "set").labeler == "bit"


def test_a_stopped_run_says_what_it_keeps(tmp_path, small_run):
    out = tmp_path / "set"
    process = Forked("cifar5m.commands.generate", "--n", 3000, "--out", out, *small_run)
    while not list(out.glob("meta/*.json")):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait() == 128 + signal.SIGINT
    kept = len(list(out.glob("meta/*.json")))
    told = f"stopped; {kept} of 501 shards ({6 * kept} images) are kept; run the same"
    assert told in process.error


@pytest.fixture
def away(tmp_path, monkeypatch):
    """A cache of its own, and the generator's server out of reach."""
    monkeypatch.setenv("DEEP_BOOTSTRAP_CACHE", str(tmp_path / "cache"))
    file = replace(SOURCES[DEFAULT].file, url="http://127.0.0.1:9/ema.ckpt")
    sources = {DEFAULT: replace(SOURCES[DEFAULT], file=file)}
    monkeypatch.setattr("cifar5m.engines.projection.SOURCES", sources)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return tmp_path / "cache"


def dry_run(tmp_path, *options):
    assert main(["--n", "6000000", "--out", str(tmp_path / "set"), "--dry-run", *options]) == 0
    assert not (tmp_path / "set").exists()


def test_a_dry_run_without_a_gpu_says_size_hours_and_commands(away, tmp_path, capsys):
    with hub_of_this_process(tmp_path) as hub:
        files = {"config.json": (b"{}", False), "pytorch_model.bin": (b"w" * 3_000_000, False)}
        hub.repos[DEFAULT_LABELER] = Repo(commits=[files])
        dry_run(tmp_path, "--price", "4")
    shown = capsys.readouterr().out
    out = str(tmp_path / "set")
    for part in (
        "600 of 10,000 images",
        "24.588 GB",
        "6,000,000,000 of one image each",
        f"{DEFAULT_LABELER}; to download: pytorch_model.bin (3 MB) from {hub.url}",
        f"ema.ckpt elsewhere and put it at {away / 'downloads'}",
        f"cifar5m-generate --n 6000000 --out {out} --price 4 --workers 1",
        "--ray auto",
    ):
        assert part in shown
    row = next(line for line in shown.splitlines() if line.startswith("H200") and "tf32" in line)
    hours = 6e9 / 7_932 / 3600
    assert f"{hours:,.2f}" in row
    assert f"{hours / 8:,.2f}" in row
    assert f"{4 * hours:,.0f}" in row


def test_an_offline_dry_run_says_where_the_labeler_goes(away, tmp_path, capsys, monkeypatch):
    url = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url)
    dry_run(tmp_path)
    shown = capsys.readouterr().out
    assert f"put it and config.json at {labeler_folder(DEFAULT_LABELER)}" in shown


def test_ray_without_ray_leaves_no_trace(tmp_path, small_run, monkeypatch, capsys):
    monkeypatch.setattr("cifar5m.engines.run.find_spec", lambda name: None)
    assert generate(tmp_path / "set", small_run, "--ray", "auto") == 2
    assert "Ray is not installed" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
