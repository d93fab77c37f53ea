"""What the networks compute: blocks, initialization, DARTS, Image GPT, pretrained weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from worlds.models import create, darts, parameter_count
from worlds.models.igpt import COLORS, color_grid
from worlds.models.preresnet import BasicBlock
from worlds.models.pretrained import (
    load_released_igpt,
    load_weights,
    resize_filters,
    transfer_mlp,
    transfer_vit,
)
from worlds.models.resnet import photograph_resnet18


def on_meta(name, num_classes=10, image_size=32, **options):
    with torch.device("meta"):
        return create(name, num_classes, image_size, **options)


def test_our_width_varying_resnet18_is_torchvisions_at_width_64():
    theirs, ours = create("resnet18", 2, 224).eval(), photograph_resnet18(2, 64).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(ours(x), theirs(x))


def test_pre_activation_shortcut_reads_the_active_tensor():
    block = BasicBlock(3, 4, stride=2).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 3, 8, 8)
    expected = block.shortcut(F.relu(block.bn1(x)))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("name", ["vgg11_bn", "densenet40_12", "wrn28_4"])
def test_convolutions_start_with_the_he_fan_out_deviation(name):
    model = create(name)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 20_000:
            fan_out = module.kernel_size[0] ** 2 * module.out_channels
            # 20,000 normal draws: the deviation is off by 2.5 % (five standard errors) once in a
            # million.
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.025)


def test_vit_patches_are_ordered_by_row_column_channel():
    model = on_meta("vit_b4")
    x = torch.arange(3 * 32 * 32.0).view(1, 3, 32, 32)
    patches = model.patches(x)
    assert patches.shape == (1, 64, 48)
    # The second patch of the second row of patches: pixel (4 + r, 4 + c), channel k.
    expected = [x[0, k, 4 + r, 4 + c].item() for r in range(4) for c in range(4) for k in range(3)]
    assert patches[0, 9].tolist() == expected


@pytest.mark.parametrize("option, scale", [("width", 768**-0.5), ("head", 64**-0.5)])
def test_vit_attention_scale_is_an_option(option, scale):
    model = on_meta("vit_b4", attention_scale=option)
    assert {block.attention.scale for block in model.blocks} == {scale}


@pytest.mark.parametrize("window", [9, 17, 33])
def test_a_bagnet_unit_sees_only_its_window(window):
    features = create(f"bagnet{window}", 2, 224).features.eval()
    x = torch.rand(1, 3, 72, 72, requires_grad=True)
    maps = features(x)
    middle = maps.shape[-1] // 2
    (seen,) = torch.autograd.grad(maps[0, :, middle, middle].sum(), x)
    rows, columns = seen[0].abs().sum(0).nonzero(as_tuple=True)
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (window, window)


def test_dfc_flattens_channel_last():
    flatten = on_meta("dfc", base=1)[0]
    x = torch.rand(2, 3, 4, 5)
    assert flatten(x)[1].tolist() == x[1].permute(1, 2, 0).reshape(-1).tolist()


# --- DARTS ----------------------------------------------------------------------------------------

FROZEN_GENOTYPES = [
    ("skip", "dilated_5x5", "dual_separable_5x5", "skip", "average_pool", "dual_separable_5x5"),
    ("dual_separable_3x3", "dual_separable_3x3", "none", "max_pool", "dual_separable_5x5", "none"),
]
FROZEN_SETTINGS = [(16, 1), (64, 5), (64, 5), (16, 1), (64, 5), (16, 1)]
HEAVIEST, EMPTY = ("dual_separable_5x5",) * 6, ("none",) * 6


@pytest.mark.parametrize(
    "width, cells, genotype, parameters",
    [
        (16, 1, EMPTY, 73_306),
        (16, 1, HEAVIEST, 174_106),
        (16, 5, HEAVIEST, 577_306),
        (64, 1, EMPTY, 1_153_354),
        (64, 1, HEAVIEST, 2_330_698),
        (64, 5, HEAVIEST, 7_040_074),
    ],
)
def test_darts_range_of_parameters_is_the_specifications(width, cells, genotype, parameters):
    model = on_meta("darts", width=width, cells=cells, genotype=genotype)
    assert parameter_count(model) == parameters


def test_darts_genotype_is_a_frozen_function_of_the_seed():
    # These may not change: they are the architectures of everyone's figure 2b.
    assert [darts.draw_genotype(seed) for seed in (0, 1)] == FROZEN_GENOTYPES
    assert [darts.draw_setting(seed) for seed in range(6)] == FROZEN_SETTINGS
    with torch.device("meta"):
        assert create("darts", seed=1).genotype == FROZEN_GENOTYPES[1]


def test_darts_operations_are_drawn_uniformly():
    drawn = [name for seed in range(500) for name in darts.draw_genotype(seed)]
    counts = np.array([drawn.count(name) for name in darts.OPERATIONS])
    assert counts.sum() == 3_000
    # Chi-square with 7 degrees of freedom exceeds 24.3 once in a thousand; the seeds are fixed.
    assert ((counts - 375) ** 2 / 375).sum() < 24.3


def test_darts_cell_adds_its_edges():
    cell = darts.Cell(2, ("skip", "skip", "none", "skip", "skip", "skip"))
    x = torch.randn(1, 2, 4, 4)
    # node 1 = x, node 2 = x, node 3 = x + node 1 + node 2
    torch.testing.assert_close(cell(x), 3 * x)


# --- Image GPT ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_igpt():
    torch.manual_seed(0)
    return create("igpt_s", layers=1, norm="rms", lm_head=True).eval()


def test_igpt_reads_the_nearest_color(small_igpt):
    grid = color_grid()
    image = grid.T.reshape(1, 3, 16, 32).repeat(1, 1, 2, 1) * 0.99
    assert small_igpt.tokens(image).tolist() == [list(range(COLORS)) * 2]


def test_igpt_never_looks_ahead(small_igpt):
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    changed = image.clone()
    changed[0, :, 3, 4] *= -1  # pixel 100
    with torch.no_grad():
        same = (small_igpt.pixel_logits(image) - small_igpt.pixel_logits(changed)).abs().amax(-1)[0]
    assert (same[:101] == 0).all()  # a pixel is seen only by those after it
    assert same[101] > 0


def test_igpt_norms_differ_as_documented():
    x = torch.randn(4, 512) + 1.0
    norm = {
        kind: create("igpt_s", layers=1, norm=kind).ln_f(x).square().mean(-1)
        for kind in ("std", "rms", "layer")
    }
    ones = torch.ones(4)
    torch.testing.assert_close(norm["rms"], ones, atol=1e-3, rtol=0)
    torch.testing.assert_close(norm["layer"], ones, atol=1e-3, rtol=0)
    mean_square, variance = x.square().mean(-1), x.var(-1, unbiased=False)
    torch.testing.assert_close(norm["std"], mean_square / variance, atol=1e-3, rtol=0)


def test_igpt_gains_can_be_frozen_as_in_the_released_code():
    frozen = on_meta("igpt_s", train_gains=False)
    assert parameter_count(frozen) == 76_425_216 - 49 * 512


def released_checkpoint(layers=1, width=512, heads=8):
    """Variables by the names and shapes of OpenAI's model, with what lies beside them."""
    rng = np.random.default_rng(0)
    shapes = {"wpe": (1024, width), "wte": (512, width), "wtet": (512, width), "sos": (width,)}
    shapes["ln_f/g"] = (width,)
    for i in range(layers):
        for part in "qkvc":
            shapes[f"h{i}/attn/{part}_proj"] = (heads, width // heads, width)
        shapes[f"h{i}/ln_1/g"] = shapes[f"h{i}/ln_2/g"] = (width,)
        shapes[f"h{i}/mlp/c_fc/w"] = (width, 4 * width)
        shapes[f"h{i}/mlp/c_proj/w"] = (4 * width, width)
    arrays = {
        f"model/{name}": rng.normal(0, 0.05, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    return {**arrays, "model/wpe/adam_m": arrays["model/wpe"], "global_step": np.int64(131_000)}


def reference_outputs(arrays, tokens):
    """OpenAI's model of one layer, written with numpy in its own layout (float64)."""
    a = {name.removeprefix("model/"): np.float64(value) for name, value in arrays.items()}

    def norm(x, gain):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * gain

    h = np.concatenate([a["sos"][None], a["wte"][tokens[:-1]]]) + a["wpe"]
    x = norm(h, a["h0/ln_1/g"])
    q, k, v = (np.einsum("sf,hef->hse", x, a[f"h0/attn/{part}_proj"]) for part in "qkv")
    weights = np.einsum("hqe,hke->hqk", q, k) / np.sqrt(q.shape[-1])
    weights = np.where(np.tril(np.ones(weights.shape[1:])) > 0, weights, -np.inf)
    weights = np.exp(weights - weights.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    h = h + np.einsum("hqk,hke,hef->qf", weights, v, a["h0/attn/c_proj"], optimize=True)
    hidden = norm(h, a["h0/ln_2/g"]) @ a["h0/mlp/c_fc/w"]
    h = h + (hidden / (1 + np.exp(-1.702 * hidden))) @ a["h0/mlp/c_proj/w"]
    return norm(h, a["ln_f/g"]) @ a["wtet"].T


def test_igpt_loads_a_released_checkpoint_and_computes_the_same(small_igpt):
    arrays = released_checkpoint()
    centers = np.random.default_rng(1).uniform(-1, 1, (COLORS, 3))
    load_released_igpt(small_igpt, arrays, centers)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    expected = reference_outputs(arrays, small_igpt.tokens(image)[0].numpy())
    with torch.no_grad():
        ours = small_igpt.pixel_logits(image)[0]
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model/sos": None}, "misshapen wte.weight"),
        ({"model/h0/attn/k_proj": None}, "missing h.0.c_attn.weight"),
        ({"model/h1/ln_1/g": np.ones(512)}, "unexpected h.1.ln_1.weight"),
        ({"model/h0/mlp/c_fc/w": np.ones((512, 8))}, "misshapen h.0.c_fc.weight"),
        ({"model/h0/attn/q_proj": np.ones(7)}, "h0/attn/q_proj of shape .7,. is not a variable"),
        ({"model/clf": np.ones(7)}, "model/clf .* is not a variable"),
    ],
)
def test_igpt_refuses_another_checkpoint_by_name(small_igpt, change, message):
    arrays = {k: v for k, v in {**released_checkpoint(), **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        load_released_igpt(small_igpt, arrays, color_grid())


# --- pretraining ----------------------------------------------------------------------------------


def test_mlp_filters_are_resized_bilinearly():
    ramp = torch.arange(224.0).expand(3, 224, 224)
    resized = resize_filters(ramp.reshape(1, -1), 32).view(3, 32, 32)
    # Pixel i of 32 has its center at 7 i + 3 of 224.
    torch.testing.assert_close(resized[1, 5], 7 * torch.arange(32.0) + 3)


def test_mlp_pretrained_at_another_size_keeps_its_hidden_layers_and_a_new_head():
    large, small = create("mlp_2x16", 1000, 56), create("mlp_2x16", 10, 32)
    head = small[-1].weight.clone()
    transfer_mlp(small, large.state_dict())
    assert torch.equal(small[4].weight, large[4].weight)
    assert torch.equal(small[1].weight, resize_filters(large[1].weight, 32))
    assert torch.equal(small[-1].weight, head)


def test_vit_transfer_zeroes_the_head():
    shapes = {name: value.shape for name, value in on_meta("vit_b8", 7).state_dict().items()}
    state = {name: torch.full(shape, 0.5) for name, shape in shapes.items()}
    model = create("vit_b8", 3)
    transfer_vit(model, state)
    assert parameter_count(model) == parameter_count(on_meta("vit_b8", 3, zero_head=True))
    assert not model.head[-1].weight.any()
    assert (model.blocks[11].mlp[0].weight == 0.5).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"7.weight": None}, "missing 7.weight"),
        ({"9.bias": torch.ones(1)}, "unexpected 9.bias"),
        ({"1.weight": torch.ones(2, 2)}, r"misshapen 1.weight \(2, 2\) for \(4, 3072\)"),
    ],
)
def test_partial_checkpoints_are_refused_by_name_and_load_nothing(change, message):
    model = create("mlp_2x4")
    state = {name: value + 1 for name, value in model.state_dict().items()}
    before = model[4].weight.clone()
    with pytest.raises(ValueError, match=message):
        load_weights(model, {k: v for k, v in {**state, **change}.items() if v is not None})
    assert torch.equal(model[4].weight, before)


def test_a_convolutional_checkpoint_is_refused_for_an_mlp():
    with pytest.raises(ValueError, match=r"not of an MLP: it has no 1\.weight"):
        transfer_mlp(create("mlp_2x4"), create("preresnet18", width=1).state_dict())
