"""The architectures against the tables of the paper's specification (section 3), row by row."""

import functools
import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from worlds.cli.counted import counted
from worlds.commands import models as command
from worlds.models import (
    Architecture,
    architectures,
    create,
    describe,
    find,
    list_models,
    parameter_count,
    register,
    registry,
)

# name: (parameters for 10 classes, millions of multiply-adds if the specification has them)
CIFAR_TABLE = {
    "preresnet18": (11_171_146, 555),
    "preresnet34": (21_279_306, 1_159),
    "resnet18": (11_173_962, 555),
    "resnet34": (21_282_122, 1_160),
    "vgg11_bn": (9_231_114, 153),
    "vgg16": (14_719_818, 313),
    "vgg16_bn": (14_728_266, None),
    "alexnet": (2_472_266, 15),
    "myrtle5": (1_558_026, 228),
    "densenet40_12": (1_059_298, 283),
    "densenet40_32": (7_426_378, 2_009),
    "mlp_3x128": (428_426, 0.43),
    "mlp_3x2048": (14_718_986, 14.7),
    "mlp_5x2048": (23_119_882, 23.1),
    "vit_b4": (87_509_770, 5_603),
    "vit_b8": (87_583_498, None),
    "dconv": (6_563_498, 52),
    "dfc": (1_170_419_722, 1_170),
    "wrn28_10": (36_479_194, 5_243),
    "preresnet50": (23_509_066, None),
    "preresnet101": (42_501_194, None),
    "preresnet152": (58_144_842, None),
    "resnet50": (23_520_842, None),
    "vgg11": (9_225_610, None),
    "vgg13": (9_410_122, None),
    "vgg13_bn": (9_416_010, None),
    "vgg19": (20_029_514, None),
    "vgg19_bn": (20_040_522, None),
    "densenet100_12": (7_083_538, None),
    "densenet100_24": (28_071_706, None),
    "wrn28_4": (5_849_050, None),
    "resnext29_8x64d": (34_426_698, None),
    "sconv9": (402_789_642, None),
    "igpt_s": (76_425_216, None),
}

# name: (parameters for 2 classes, for 1000 or None, millions of multiply-adds)
PHOTOGRAPH_TABLE = {
    "resnet18": (11_177_538, 11_689_512, 1_814),
    "resnet34": (21_285_698, 21_797_672, 3_663),
    "resnet50": (23_512_130, 25_557_032, 4_087),
    "resnext50_32x4d": (22_984_002, 25_028_904, 4_228),
    "densenet121": (6_955_906, 7_978_856, 2_833),
    "mobilenet_v2": (2_226_434, 3_504_872, 300),
    "vgg11": (128_774_530, 132_863_336, 7_605),
    "vgg16": (134_268_738, 138_357_544, 15_466),
    "alexnet": (57_012_034, 61_100_840, 710),
    "bagnet9": (13_643_842, 15_688_744, 15_930),
    "bagnet17": (14_168_130, 16_213_032, 15_652),
    "bagnet33": (16_265_282, 18_310_184, 16_257),
    "sconv9": (693_649_394, None, 840),
    "sconv33": (693_794_546, None, 2_661),
    "mlp_3x2048": (316_692_482, 318_737_384, 317),
}

OPTION_TABLE = [
    *(
        ("preresnet18", 10, 32, {"width": width}, count)
        for width, count in {
            8: 176_050,
            16: 700_762,
            32: 2_796_202,
            64: 11_171_146,
            128: 44_657_290,
        }.items()
    ),
    *(
        ("resnet18", 2, 224, {"width": width}, count)
        for width, count in {
            8: 176_842,
            10: 275_532,
            12: 396_014,
            16: 702_354,
            24: 1_576_538,
            32: 2_799_394,
            64: 11_177_538,
            96: 25_134_434,
        }.items()
    ),
    ("preresnet18", 10, 32, {"final_norm": True}, 11_171_146 + 1_024),
    ("myrtle5", 10, 32, {"batch_norm": False}, 1_556_106),
    ("mlp_3x2048", 10, 32, {"batch_norm": False}, 14_706_698),
    ("vit_b4", 1000, 32, {}, 90_552_040),
    ("vit_b4", 10, 32, {"zero_head": True}, 87_509_760),
    ("igpt_s", 10, 32, {"lm_head": True}, 76_687_360),
    ("igpt_s", 10, 32, {"lm_head": True, "norm": "layer"}, 76_712_448),
]

# The quick walk runs on the CPU what a figure uses and is no larger than this, the rest on the meta
# device; the slow walk runs the rest on the CPU.
LIGHT_MACS, LIGHT_PARAMETERS = 6e9, 50e6


def on_meta(name, num_classes=10, image_size=32, **options):
    with torch.device("meta"):
        return create(name, num_classes, image_size, **options)


def identity(architecture):
    return f"{architecture.name}-{architecture.image_size}"


def walk_options(architecture):
    # All 24 layers of Image GPT are 103 billion multiply-adds an image; two are the same code.
    return {"layers": 2} if architecture.family == "igpt" else {}


def train_step(architecture, device):
    """One forward and backward pass at the smallest batch that the norms take."""
    classes = registry.TABLE_CLASSES[architecture.image_size]
    batch = 1 if architecture.family in ("torchvision", "bagnet", "igpt") else 2
    size = architecture.image_size
    torch.manual_seed(0)
    with torch.device(device):
        model = create(architecture.name, classes, size, **walk_options(architecture))
        logits = model(torch.rand(batch, 3, size, size) * 2 - 1)
        loss = F.cross_entropy(logits, torch.arange(batch) % classes)
    loss.backward()
    assert logits.shape == (batch, classes)
    return model, loss


@functools.cache
def packaged():
    """Parameters and multiply-adds of each architecture, as counted beforehand."""
    found = {(row["name"], row["image_size"]): row for row in counted("models")}
    return {key: (row["parameters"], row["multiply_adds"]) for key, row in found.items()}


def is_light(architecture):
    parameters, macs = packaged()[architecture.name, architecture.image_size]
    small = macs < LIGHT_MACS and parameters < LIGHT_PARAMETERS
    return architecture.name == "igpt_s" or (small and architecture.figure != "")


@pytest.mark.parametrize("architecture", architectures(), ids=identity)
def test_every_architecture_gives_logits_and_a_gradient_for_every_parameter(architecture):
    device = "cpu" if is_light(architecture) else "meta"
    model, loss = train_step(architecture, device)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert device == "meta" or parameter.grad.isfinite().all(), name
    assert device == "meta" or loss.isfinite()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", architectures(), ids=identity)
def test_heavy_architectures_give_finite_loss_and_gradients(architecture):
    parameters, _ = packaged()[architecture.name, architecture.image_size]
    if is_light(architecture) or parameters > 200e6:
        pytest.skip("light ones are in the quick walk, the largest do not fit everywhere")
    model, loss = train_step(architecture, "cpu")
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", CIFAR_TABLE)
def test_cifar_suite_has_the_tables_parameters_and_multiply_adds(name):
    parameters, millions = CIFAR_TABLE[name]
    assert parameter_count(on_meta(name)) == parameters
    if millions is not None:  # the table is rounded; resnet34's 1,160 stands for 1,159.4
        macs = describe(find(name, 32)).multiply_adds
        assert macs / 1e6 == pytest.approx(millions, rel=0.005, abs=0.6)


@pytest.mark.parametrize("name", PHOTOGRAPH_TABLE)
def test_photograph_suite_has_the_tables_parameters_and_multiply_adds(name):
    row = describe(find(name, 224))
    two, thousand, millions = PHOTOGRAPH_TABLE[name]
    assert (row.num_classes, row.parameters) == (2, two)
    assert row.multiply_adds / 1e6 == pytest.approx(millions, abs=0.6)
    if thousand is not None:
        assert parameter_count(on_meta(name, 1000, 224)) == thousand


@pytest.mark.parametrize("name, classes, size, options, parameters", OPTION_TABLE)
def test_options_change_the_parameters_as_the_table_says(name, classes, size, options, parameters):
    assert parameter_count(on_meta(name, classes, size, **options)) == parameters


def test_every_registered_net_but_the_unpublished_sizes_is_in_a_table():
    tabled = {(name, 32) for name in CIFAR_TABLE} | {(name, 224) for name in PHOTOGRAPH_TABLE}
    registered = {(a.name, a.image_size) for a in architectures()}
    assert registered - tabled == {("darts", 32), ("igpt_m", 32), ("igpt_l", 32)}


@pytest.mark.parametrize("name, millions", [("igpt_m", 455.5), ("igpt_l", 1362.9)])
def test_larger_image_gpts_have_the_registered_millions(name, millions):
    assert parameter_count(on_meta(name, lm_head=True)) / 1e6 == pytest.approx(millions, abs=0.05)


# --- registry -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "preresnet81"}, "unknown architecture 'preresnet81'; did you mean preresnet18"),
        ({"name": "zzz"}, r"known: alexnet, .*, mlp_\{depth\}x\{width\}, linear"),
        ({"name": "vit_b4", "image_size": 64}, "vit_b4 takes images of 32 px, got image_size=64"),
        ({"name": "alexnet", "image_size": 28}, "alexnet takes images of 32 or 224 px"),
        ({"name": "timm:resnet1"}, "timm has no 'resnet1'; near it: resnet1"),
        (
            {"name": "no.such:net"},
            "no.such:net cannot be imported .No module named 'no'.: expected",
        ),
        ({"name": "worlds.models:net"}, "worlds.models:net cannot be imported"),
        ({"name": f"{__name__}:not_a_net"}, "must build a torch.nn.Module, got str"),
        ({"name": f"{__name__}:own_net", "num_classes": 7, "odd": True}, "to 7 logits: outputs"),
        ({"name": "vgg16", "num_classes": 0}, "num_classes must be an integer of at least 1"),
        ({"name": "vgg16", "num_classes": 2.0}, "num_classes must be .* got 2.0"),
        ({"name": "vgg16", "width": 8}, "vgg16 at 32 px has no option width; its options: none"),
        ({"name": "vit_b4", "embedding_std": "x"}, "embedding_std must be a number, got 'x'"),
        ({"name": "myrtle5", "batch_norm": "no"}, "batch_norm must be true or false, got 'no'"),
        ({"name": "darts", "sede": 1}, "no option sede; its options: seed, width, cells"),
        ({"name": "preresnet18", "width": 0}, "width must be an integer of at least 1, got 0"),
        ({"name": "resnet18", "image_size": 224, "width": 8.0}, "width must be .* got 8.0"),
        ({"name": "vit_b4", "attention_scale": "x"}, "attention_scale must be one of width, head"),
        ({"name": "igpt_s", "norm": "batch"}, "norm must be one of std, rms, layer"),
        ({"name": "mlp_0x8"}, "depth must be an integer of at least 1, got 0"),
        ({"name": "darts", "seed": -1}, "seed must be in"),
        ({"name": "darts", "genotype": ("skip",) * 5}, "genotype must be 6 of none, skip"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as refusal:
        create(**arguments)
    assert "\n" not in str(refusal.value)


def test_a_second_registration_is_refused():
    with pytest.raises(ValueError, match="vgg16 at 32 px is registered already"):
        register(Architecture("vgg16", "mine", 32, lambda num_classes: torch.nn.Identity()))
    assert find("vgg16").family == "vgg"


def test_a_second_pattern_is_refused():
    pattern = registry.Pattern("mlp_{depth}x{width}", lambda name, image_size: None)
    with pytest.raises(ValueError, match=r"the pattern mlp_\{depth\}x\{width\} is registered"):
        register(pattern)


@pytest.mark.parametrize(
    "name, fixed, message",
    [("ResNet", {}, "lower case"), ("mine", {"depth": 3}, "mine: its builder takes no depth")],
)
def test_an_architecture_is_checked_when_it_is_described(name, fixed, message):
    with pytest.raises(ValueError, match=message):
        Architecture(name, "mine", 32, lambda num_classes: torch.nn.Identity(), fixed)


def test_a_new_architecture_can_be_registered(monkeypatch):
    monkeypatch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))
    register(Architecture("linear", "mine", 32, lambda num_classes, bias=True: torch.nn.Flatten()))
    assert "linear" in list_models(32)
    assert find("linear").options == {"bias": True}


def own_net(num_classes, image_size, channels=3, width=4, odd=False):
    inputs = channels * image_size**2
    last = torch.nn.Linear(width, num_classes + odd)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs, width), last)


def not_a_net(num_classes):
    return "net"


def test_a_decorated_function_is_an_architecture(monkeypatch):
    monkeypatch.setattr(registry, "_OWN", {})
    assert register(own_net) is own_net
    register("another")(own_net)
    for name in ("own_net", "another", f"{__name__}:own_net"):
        model = create(name, 5, image_size=9, channels=2, width=6)
        assert model(torch.rand(3, 2, 9, 9)).shape == (3, 5)
    assert find("own_net").options == {"width": 4, "odd": False}
    with pytest.raises(ValueError, match="own_net is registered already"):
        register(own_net)
    with pytest.raises(ValueError, match="vgg16 is registered already"):
        register("vgg16")(own_net)


def test_a_package_may_bring_architectures(tmp_path, monkeypatch):
    info = tmp_path / "brought-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1\n")
    lines = ["[deep_bootstrap.models]", "brought_net = brought_nets:build"]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (tmp_path / "brought_nets.py").write_text(
        "from torch import nn\n"
        "def build(num_classes):\n"
        "    layers = nn.Conv2d(3, num_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
        "    return nn.Sequential(*layers)"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert create("brought_net", 3, channels=1)(torch.rand(2, 1, 32, 32)).shape == (2, 3)


def test_timms_networks_go_by_their_names():
    assert create("timm:resnet10t", 5, 32, channels=1)(torch.rand(2, 1, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize("name", ["preresnet18", "mlp_1x8", "resnet18", "darts", "dconv"])
def test_networks_of_the_suite_take_other_sizes_and_channels(name):
    for channels in (1, 4):
        model = create(name, 5, image_size=28, channels=channels)
        assert model.eval()(torch.rand(2, channels, 28, 28)).shape == (2, 5)
    plain = create(name, 5, image_size=28)
    assert plain.eval()(torch.rand(2, 3, 28, 28)).shape == (2, 5)


def test_any_depth_width_and_image_size_is_an_mlp():
    assert create("mlp_1x7", 5, image_size=9)(torch.rand(2, 3, 9, 9)).shape == (2, 5)


def test_import_of_the_registry_leaves_torchvision_alone():
    script = "import sys, worlds.models; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# --- the command ----------------------------------------------------------------------------------


def test_command_lists_the_suite_with_costs_and_figures(capsys):
    assert command.main(["--image-size", "224"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(architectures(224))
    row = next(line for line in lines if line.startswith("resnet18")).split()
    assert row == ["resnet18", "torchvision", "224", "2", "11,177,538", "1,813.56", "3a", "3b"]


def test_command_writes_json_of_named_networks(capsys):
    assert command.main(["preresnet18", "mlp_1x9", "--width", "8", "--json"]) == 2
    assert "mlp_1x9 at 32 px has no option width" in capsys.readouterr().err
    assert command.main(["resnet18", "--width", "8", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["image_size"], row["parameters"]) for row in rows] == [
        (32, rows[0]["parameters"]),
        (224, 176_842),
    ]


@pytest.mark.parametrize("arguments", [["nosuch"], ["--image-size", "48"], ["--width", "8"]])
def test_command_explains_bad_input(arguments, capsys):
    assert command.main(arguments) == 2
    assert capsys.readouterr().err.startswith("worlds-models: ")
