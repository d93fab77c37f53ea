"""Training of the bundled networks, for a few steps of small networks: it learns, stops, resumes
and is prolonged as one unbroken run, and what it writes serves the pipeline.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cifar5m.commands.generate import main as generate
from cifar5m.labels.labeler import Labeler, load_classifier
from cifar5m.weights.sources import find_labeler
from tests.cifar5m.tiny_networks import save_labeler, save_unet
from worlds.formats.plan import load_plan

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def _small_probe(scripts, monkeypatch):
    import tiny_generator

    monkeypatch.setattr(tiny_generator, "PROBE_BATCHES", 2)


@pytest.fixture
def run(tmp_path, small_cifar10):
    """A function that trains a small network for some images and returns its directory."""

    def train(what, images, *options, work="work", code=0):
        from train_tiny import main

        common = ["--data", str(small_cifar10), "--device", "cpu", "--mode", "eager-fp32"]
        common += ["--work", str(tmp_path / work), "--out", str(tmp_path / "out" / work)]
        sizes = ["--channels", "8,16"] if what == "generator" else []
        arguments = [what, *common, *sizes, "--images", str(images), "--batch", "4", *options]
        assert main(arguments) == code
        kind = "conditional" if "--conditional" in options else what
        return tmp_path / "out" / work / kind

    return train


def state_of(directory):
    return load_file(directory / WEIGHTS)


def same(first, second) -> bool:
    one, two = state_of(first), state_of(second)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_few_steps_lower_the_loss_of_fixed_batches(optimizer, small_cifar10):
    from train_tiny import Budget, Run, parse

    options = ["generator", "--conditional", "--data", str(small_cifar10), "--mode", "eager-fp32"]
    options += ["--device", "cpu", "--channels", "8,16", "--images", "400", "--batch", "8"]
    args = parse([*options, "--lr", "2e-3", "--ema", "0.5", "--optimizer", optimizer])
    found = Run(args.run(args), Budget(None, args.images, 0.0, args.batch))
    before = found.task.probe()
    for step in range(30):
        for each in found.task.optimizers:
            each.zero_grad()
        found.task.next_loss(step).backward()
        for each in found.task.optimizers:
            each.step()
    assert found.task.probe() < 0.9 * before


@pytest.mark.parametrize("options", [(), ("--conditional",)], ids=["plain", "conditional"])
def test_what_is_written_serves_the_pipeline(options, run, small_run, tmp_path):
    directory = run("generator", 12, *options)
    facts = json.loads((directory / "training.json").read_text())
    assert facts["images_seen"] == 12
    assert facts["data"] == "CIFAR-10, the training images"
    assert all(value.dtype == torch.float16 for value in state_of(directory).values())
    folder = tmp_path / "set"
    arguments = [*small_run, "--generator", str(directory)]
    assert generate(["--n", "6", "--out", str(folder), *arguments]) == 0
    assert (load_plan(folder).conditioning is not None) == bool(options)


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(run):
    options = ("--conditional", "--cooldown", "0")
    unbroken = run("generator", 24, *options, work="unbroken")
    run("generator", 12, *options, work="resumed")
    assert not same(unbroken, run("generator", 12, *options, work="resumed"))
    assert same(unbroken, run("generator", 24, *options, work="resumed"))


def test_a_run_with_a_cooldown_is_prolonged_from_before_it(run, tmp_path):
    options = ("--conditional", "--cooldown", "0.5")
    unbroken = run("generator", 48, *options, work="unbroken")
    run("generator", 24, *options, work="prolonged")
    states = {path.name for path in (tmp_path / "prolonged").glob("*.pt")}
    assert states == {"generator.pt", "generator-cooldown.pt"}
    assert same(unbroken, run("generator", 48, *options, work="prolonged"))


def test_a_finished_run_is_not_trained_further(run, capsys):
    first = state_of(run("generator", 12, "--conditional"))
    capsys.readouterr()
    again = state_of(run("generator", 12, "--conditional"))
    assert "resumed at step 3" in capsys.readouterr().err
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_state_of_five_keys_resumes(run, tmp_path):
    options = ("--conditional", "--cooldown", "0")
    unbroken = run("generator", 24, *options, work="unbroken")
    run("generator", 12, *options, work="resumed")
    path = tmp_path / "resumed/generator.pt"
    state = torch.load(path, weights_only=True)
    del state["budget"]
    assert set(state) == {"model", "average", "optimizers", "step", "seconds"}
    torch.save(state, path)
    assert same(unbroken, run("generator", 24, *options, work="resumed"))


def test_a_state_of_another_optimizer_is_refused_in_a_line(run, capsys):
    run("generator", 8, "--optimizer", "adam", "--cooldown", "0")
    capsys.readouterr()
    run("generator", 12, "--optimizer", "muon", "--cooldown", "0", code=2)
    assert "the state is not of this network and optimizer" in capsys.readouterr().err


def test_an_unconditional_network_made_conditional_predicts_as_before(tmp_path, small_cifar10):
    from tiny_generator import build_network
    from train_tiny import parse

    initial = save_unet(tmp_path / "unet")
    common = ["--data", str(small_cifar10), "--images", "8", "--initial", str(initial)]
    plain = build_network(parse(["generator", *common])).eval()
    asked = build_network(parse(["generator", "--conditional", *common])).eval()
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([3, 700])
    with torch.no_grad():
        before = plain(x, t).sample
        torch.testing.assert_close(asked(x, t, torch.tensor([0, 10])).sample, before)


def test_initial_weights_are_trained_on_and_their_images_counted(run, tmp_path):
    initial = run("generator", 8, "--conditional", work="first")
    later = run("generator", 8, "--conditional", "--initial", str(initial), work="second")
    assert json.loads((later / "training.json").read_text())["images_seen"] == 16
    assert not same(initial, later)


def test_a_conditional_start_needs_the_option(run, tmp_path, capsys):
    initial = save_unet(tmp_path / "unet", num_class_embeds=11)
    run("generator", 8, "--initial", str(initial), code=2)
    assert "has 11 class embeddings, expected none: give --conditional" in capsys.readouterr().err


def test_half_of_the_times_lie_where_structure_forms(small_cifar10):
    from train_tiny import parse

    options = ["generator", "--data", str(small_cifar10), "--images", "8", "--channels", "8,16"]
    args = parse([*options, "--mode", "eager-fp32", "--device", "cpu"])
    task = args.run(args)
    times = task.draw(20_000, 0)[2]
    logs = task.sigmas[times].log()
    # 0.8 of a normal around -0.35 have their median there; the uniform rest lies mostly above.
    assert -0.35 < logs.median() < 0.05
    assert (times // 100).bincount(minlength=10).min() > 300  # 400 of each hundred are uniform
    classes = task.draw(20_000, 1)[1]
    assert (classes == 10).float().mean() == pytest.approx(0.1, abs=0.01)


def test_orthogonalize_brings_singular_values_near_one():
    from tiny_generator import orthogonalize

    generator = torch.Generator().manual_seed(0)
    for shape in ((16, 40), (40, 16)):
        matrix = torch.randn(shape, generator=generator)
        values = torch.linalg.svdvals(orthogonalize(matrix))
        assert 0.5 < values.min() < values.max() < 1.4


def test_the_fastest_mode_leaves_the_model_as_it_was(monkeypatch):
    import tiny_common

    model, sleeps = torch.nn.Linear(2, 2), {"eager-bf16": 0.0}
    before = model.weight.clone()

    def slow(mode):
        import time

        model.weight.data += 1
        time.sleep(sleeps.get(mode, 0.01))

    assert tiny_common.fastest_mode(model, slow, 4, seconds=0.05) == "eager-bf16"
    assert torch.equal(model.weight, before)


def test_a_trained_labeler_serves_the_pipeline(run, tmp_path, monkeypatch):
    import tiny_labeler

    small = {"channels": [8, 8, 16, 16], "stem_chs": 8, "layers": [1, 1, 1, 1]}
    config = tiny_labeler.CONFIG
    changed = config | {"model_args": small}
    monkeypatch.setattr(tiny_labeler, "CONFIG", changed)
    directory = run("labeler", 12, "--cutout", "8")
    classifier, preprocessing = load_classifier(find_labeler(str(directory)))
    labeler = Labeler(classifier, preprocessing, torch.device("cpu"), "fp32", batch=4)
    images = torch.from_numpy(np.zeros((4, 32, 32, 3), np.uint8))
    assert labeler(images).shape == (4, 10)


def test_a_labeler_goes_on_from_its_weights(run, tmp_path):
    initial = save_labeler(tmp_path / "initial")
    directory = run("labeler", 4, "--initial", str(initial), "--lr", "1e-9")
    before, after = (load_file(d / "model.safetensors") for d in (initial, directory))
    torch.testing.assert_close(
        after["head.fc.weight"].float(), before["head.fc.weight"], atol=0.05, rtol=0.01
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "give --hours or --images"),
        (["--hours", "1", "--images", "8"], "and not both"),
        (["--hours", "1", "--cooldown", "2"], "--cooldown must be between 0 and 1"),
    ],
)
def test_bad_usage_is_refused(options, message, small_cifar10, capsys):
    from train_tiny import main

    with pytest.raises(SystemExit) as stopped:
        main(["generator", "--data", str(small_cifar10), *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_the_jpeg_copy_is_read_by_its_own_module(tmp_path, small_cifar10):
    from tiny_common import data_name, load_cifar10

    copy = shutil.copytree(small_cifar10, tmp_path / "copy")
    (copy / "cifar10_jpeg.py").write_text(
        "import numpy as np\ndef load(split):\n    return np.ones((1, 32, 32, 3)), split\n"
    )
    images, split = load_cifar10(copy, "test")
    assert (images.shape, split) == ((1, 32, 32, 3), "test")
    assert data_name(copy) == "CIFAR-10 (JPEG copy), the training images"
