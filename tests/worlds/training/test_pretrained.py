"""Runs that begin from weights that are there."""

import json
from dataclasses import replace

import pytest
import torch

from tests.worlds.small_runs import numbers, small, small_data
from worlds.models import create
from worlds.report.rrm import rrm
from worlds.training.build import make_model
from worlds.training.pretrained import Frozen, head_of, load_initial
from worlds.training.train import train

DATA = small_data()
NET = {"arch": "myrtle5", "options": {"width": 2}, "steps": 6}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "ideal-0"
    train(small(world="ideal", **NET), DATA, folder)
    return folder


def saved(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["stepper"]["model"]


def test_all_weights_but_the_classifiers_are_those_of_the_other_run(first):
    torch.manual_seed(0)
    model = make_model(small(initial=str(first), **NET), DATA)
    name, _ = head_of(model)
    state = saved(first)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]) != key.startswith(f"{name}.")


def test_on_a_frozen_representation_only_the_head_learns(first, tmp_path):
    config = small(initial=str(first), frozen=True, **NET)
    run = train(config, DATA, tmp_path / "run")
    after, before = saved(tmp_path / "run"), saved(first)
    body = [key for key in after if key.startswith("body.")]
    assert body
    assert all(torch.equal(after[key], before[key.removeprefix("body.")]) for key in body)
    model = make_model(config, DATA)
    assert isinstance(model, Frozen)
    learns = [name for name, p in model.named_parameters() if p.requires_grad]
    assert learns == ["head.weight", "head.bias"] or learns == ["head.weight"]
    assert run.description.parameters == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )


def test_a_frozen_run_resumes_to_the_bit(first, tmp_path):
    config = small(initial=str(first), frozen=True, **NET)
    whole = train(config, DATA, tmp_path / "whole")

    def leave(updates):
        if updates == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, DATA, tmp_path / "broken", on_step=leave)
    assert numbers(train(config, DATA, tmp_path / "broken")) == numbers(whole)


def test_an_mlp_may_come_from_another_image_size_and_a_vit_gets_a_zero_head(tmp_path):
    torch.save(create("mlp_3x16", 1000, 64).state_dict(), tmp_path / "mlp.pt")
    config = small(initial=str(tmp_path / "mlp.pt"))
    other = torch.load(tmp_path / "mlp.pt", weights_only=True)
    model = load_initial(create("mlp_3x16", 10, 32), config)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert torch.equal(model.state_dict()["4.weight"], other["4.weight"])


def test_other_weights_at_the_same_path_are_another_run(first, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(saved(first), path)
    config = small(initial=str(path), **NET)
    train(config, DATA, tmp_path / "run")
    torch.save({key: value + 1 for key, value in saved(first).items()}, path)
    with pytest.raises(ValueError, match="weights = "):
        train(config, DATA, tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a run directory"),
        ("text", "not a file of weights"),
        ({"a": 1}, "holds no state dict"),
        ({"state_dict": {"a": torch.zeros(1)}}, "of names to tensors, but state_dict"),
        (torch.nn.Linear(2, 2), "not a file of weights: it holds more"),
        (b"9 bytes!!", "not a file of weights: .*header"),
        ({"a": torch.zeros(1)}, "does not fit the network"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_weights_for_the_network_is_refused(tmp_path, content, message):
    safe = isinstance(content, bytes)
    path = tmp_path / ("weights.safetensors" if safe else "weights.pt")
    if safe:
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message) as caught:
        train(replace(small(**NET), initial=str(path)), DATA, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_head_on_a_frozen_representation_memorises_less_than_the_whole_network(tmp_path):
    """The self-supervised setting of Bansal, Kaplun and Barak, in the reader of their gaps."""
    shared = {"augment": None, "n": 60, "steps": 300, "train_eval": None, "log": 300}
    train(small(world="ideal", arch="mlp_2x64", steps=36), DATA, tmp_path / "ideal")
    gaps = {}
    for name, start in {"whole": {}, "head": {"initial": str(tmp_path / "ideal")}}.items():
        config = small(arch="mlp_2x64", frozen=bool(start), **start, **shared)
        noisy = replace(config, label_noise="symmetric:0.4")
        runs = [train(c, DATA, tmp_path / f"{name}-{c.label_noise}") for c in (config, noisy)]
        gaps[name] = rrm(*runs)
        assert gaps[name].generalization_gap <= gaps[name].bound + 1e-9
    assert gaps["head"].memorization < gaps["whole"].memorization


def hub_names(state):
    """Our Image GPT's weights under the names and layouts of `transformers`."""
    named = {}
    for key, value in state.items():
        if key in ("colors",) or key.startswith("classifier."):
            continue
        linear = ".c_" in key or ".mlp_proj" in key
        name = key.replace(".mlp_proj", ".mlp.c_proj").replace(".c_fc", ".mlp.c_fc")
        if ".c_attn" in key or ".c_proj" in key:
            name = key.replace(".c_", ".attn.c_")
        named[f"transformer.{name}"] = (
            value.T.contiguous() if linear and key.endswith("weight") else value
        )
    mask = torch.ones(1, 1, 1024, 1024).tril().bool()
    return named | {"transformer.h.0.attn.bias": mask, "lm_head.weight": torch.zeros(512, 512)}


def test_image_gpt_begins_from_a_download_of_the_hub(tmp_path):
    torch.manual_seed(0)
    options = {"layers": 1, "train_gains": False}
    made = create("igpt_s", 10, 32, layers=1)
    torch.save(hub_names(made.state_dict()), tmp_path / "pytorch_model.bin")
    config = small(arch="igpt_s", options=options, initial=str(tmp_path))
    with pytest.raises(ValueError, match=r"keep preprocessor_config\.json beside them"):
        make_model(config, DATA)
    clusters = torch.rand(512, 3).tolist()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"clusters": clusters}))
    model = make_model(config, DATA)
    assert torch.equal(model.colors, torch.tensor(clusters))
    own = made.state_dict()
    same = [key for key, value in model.state_dict().items() if torch.equal(value, own[key])]
    assert {"classifier.weight", *same} == {*own} - {"colors"}
    x = torch.rand(1, 3, 32, 32)
    made.colors.copy_(model.colors)
    assert torch.equal(made.outputs(x), model.outputs(x))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_weights_of_timm_are_read_by_a_probe(name, tmp_path):
    """A network of timm with the classes of another task, saved as timm saves it."""
    import worlds.runtime.torchvision_ops  # noqa: F401, I001  (must come before timm)
    import timm

    torch.manual_seed(1)
    fixed = {"img_size": 32} if name == "test_vit" else {}
    given = timm.create_model(name, num_classes=7, **fixed).eval()
    torch.save(given.state_dict(), tmp_path / "timm.pt")
    config = small(
        arch=f"timm:{name}", initial=str(tmp_path / "timm.pt"), frozen=True, compared=40,
        optimizer="logistic", momentum=0.0, steps=1, batch_size=300, augment=None,
    )  # fmt: skip
    run = train(config, DATA, tmp_path / "run")
    assert run.final["test_error"] < 0.6  # chance is 0.9; brightness passes any network
    # The features are timm's own, of pixels in [-1, 1] as these weights take them.
    assert given.default_cfg["mean"] == given.default_cfg["std"] == (0.5, 0.5, 0.5)
    images = torch.tensor(DATA.test.gather(run.predictions.indices)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        features = given.forward_head(given.forward_features(images), pre_logits=True)
    assert run.predictions.features == pytest.approx(features.numpy(), abs=0.02, rel=0.02)


def test_a_state_dict_of_torchvision_goes_under_a_new_head(tmp_path):
    import worlds.runtime.torchvision_ops  # noqa: F401, I001  (must come before torchvision)
    import torchvision

    given = torchvision.models.resnet18(num_classes=7)
    torch.save(given.state_dict(), tmp_path / "given.pt")
    config = small(arch="timm:resnet18", options={}, initial=str(tmp_path / "given.pt"))
    state = make_model(config, DATA).state_dict()
    assert torch.equal(state["layer1.0.conv1.weight"], given.layer1[0].conv1.weight)
    assert state["fc.weight"].shape[0] == len(DATA.train.class_names)
