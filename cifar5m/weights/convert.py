"""Ho et al.'s CIFAR-10 network: how its published PyTorch checkpoint maps to `UNet2DModel`.

The published layout (`down.1.attn.0.q`, `up.3.block.2.temb_proj`, `temb.dense.0` ...) is that of
the PyTorch conversion of the TensorFlow checkpoint. It holds the same numbers as a `UNet2DModel`
of `UNET_CONFIG` under other names, and differs in three more ways: attention projections are 1x1
convolutions there and linear layers here; `up.i` counts from the finest level there and
`up_blocks.i` from the coarsest here; and what the published code does by hand (zeros at the right
and bottom before a stride-2 convolution, sine before cosine, frequencies over half_dim - 1) is
configuration here.

    state = read_state(Path("model-790000.ckpt"))
    unet = build_unet(unet_state(state))
"""

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from cifar5m.weights.bounds import bounded_by
from worlds.runtime.checkpoints import load_checkpoint
from worlds.runtime.errors import reading
from worlds.runtime.files import zip_members

if TYPE_CHECKING:
    from diffusers import UNet2DModel

State = Mapping[str, torch.Tensor]

UNET_CONFIG: Final[Mapping[str, Any]] = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (128, 256, 256, 256),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,  # one head, as wide as the level
    "downsample_padding": 0,  # the asymmetric padding of TensorFlow's SAME at stride 2
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "act_fn": "silu",
    "center_input_sample": False,
    "mid_block_scale_factor": 1,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
}
PARAMETERS: Final = 35_746_307  # of UNET_CONFIG

_OUTER = {
    "temb.dense.0": "time_embedding.linear_1",
    "temb.dense.1": "time_embedding.linear_2",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
_BLOCK = {
    "norm1": "norm1",
    "conv1": "conv1",
    "temb_proj": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "conv_shortcut",
}
_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}
# Older diffusers folders have these; diffusers' own loader still renames them.
_OLD_ATTENTION = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
UNET_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def name_table(config: Mapping[str, Any] = UNET_CONFIG) -> dict[str, str]:
    """Return `UNet2DModel` module names by published module names.

    Every place has a row, also those that a given network leaves empty: a shortcut where channels
    do not change, attention at the other resolutions, a resampling at the last level.
    """
    # The middle, then each level from both ends.
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    places: list[tuple[str, str, Mapping[str, str]]] = [
        ("mid.block_1", "mid_block.resnets.0", _BLOCK),
        ("mid.attn_1", "mid_block.attentions.0", _ATTENTION),
        ("mid.block_2", "mid_block.resnets.1", _BLOCK),
    ]
    for level in range(levels):
        down, up = f"down_blocks.{level}", f"up_blocks.{levels - 1 - level}"
        for j in range(layers):
            places.append((f"down.{level}.block.{j}", f"{down}.resnets.{j}", _BLOCK))
            places.append((f"down.{level}.attn.{j}", f"{down}.attentions.{j}", _ATTENTION))
        for j in range(layers + 1):
            places.append((f"up.{level}.block.{j}", f"{up}.resnets.{j}", _BLOCK))
            places.append((f"up.{level}.attn.{j}", f"{up}.attentions.{j}", _ATTENTION))
        places.append((f"down.{level}.downsample", f"{down}.downsamplers.0", {"conv": "conv"}))
        places.append((f"up.{level}.upsample", f"{up}.upsamplers.0", {"conv": "conv"}))
    # Modules inside the blocks, then tensors.
    table = dict(_OUTER)
    for published, ours, parts in places:
        table |= {f"{published}.{part}": f"{ours}.{name}" for part, name in parts.items()}
    return table


def convert(state: State, config: Mapping[str, Any] = UNET_CONFIG) -> dict[str, torch.Tensor]:
    """Return a checkpoint in the published layout as `unet_state` does."""
    # Only the places that this network fills.
    wanted = _shapes(config)
    table = {
        f"{published}.{end}": f"{ours}.{end}"
        for published, ours in name_table(config).items()
        for end in ("weight", "bias")
        if f"{ours}.{end}" in wanted
    }
    _refuse_other_names(state, table)
    return {
        ours: _fit(published, state[published], wanted[ours]) for published, ours in table.items()
    }


def unet_state(
    state: State, config: Mapping[str, Any] = UNET_CONFIG, finite: bool = True
) -> dict[str, torch.Tensor]:
    """Return the state dict of `UNet2DModel(**config)`, float32, from the published layout or
    diffusers' own.

    Raises ValueError if a tensor is missing, not used, of another shape or, unless `finite` is
    false, holds a value that is not finite.
    """
    # The layout is known by the name of one tensor.
    if "temb.dense.0.weight" in state:
        return convert(state, config)
    if "time_embedding.linear_1.weight" not in state:
        raise ValueError(
            "the weights are neither in the published layout (temb.dense.0.weight ...) nor in "
            "diffusers' (time_embedding.linear_1.weight ...); their first names are "
            f"{_few(state)}"
        )
    renamed = {_new_name(name): tensor for name, tensor in state.items()}
    with bounded_by(renamed):
        wanted = _shapes(config)
    _refuse_other_names(renamed, wanted)
    return {name: _fit(name, renamed[name], shape, finite) for name, shape in wanted.items()}


def _new_name(name: str) -> str:
    for old, new in _OLD_ATTENTION.items():
        name = name.replace(old, new)
    return name


def build_unet(state: State, config: Mapping[str, Any] = UNET_CONFIG) -> "UNet2DModel":
    """Return the network with these weights (not copied), in evaluation mode, without gradients."""
    unet = _empty_unet(config)
    unet.load_state_dict(dict(state), strict=True, assign=True)
    return unet.eval().requires_grad_(False)


def tensors_sha256(state: State) -> str:
    """Return one hash of all names and float32 values of a `UNet2DModel` state dict.

    It is the same for every file that holds this network, whatever the file's layout.
    """
    # By name, shape and little-endian values.
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().to("cpu", torch.float32).contiguous().numpy()
        digest.update(f"{name} {values.shape}\n".encode())
        digest.update(values.astype("<f4", copy=False).data)
    return digest.hexdigest()


def weights_file(path: Path) -> Path:
    """Return the file that holds the tensors: `path`, or the one in a diffusers directory."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"{path} is neither a file nor a folder")
    # A whole pipeline has its network in unet/.
    for folder in (path, path / "unet"):
        for name in UNET_FILES:
            if (folder / name).is_file():
                return folder / name
    raise ValueError(f"{path} holds no {' or '.join(UNET_FILES)}, nor does its folder unet/")


def read_state(file: Path) -> dict[str, torch.Tensor]:
    """Load the tensors of a file by name: safetensors, torch.save, or a zip of diffusers."""
    import safetensors.torch

    # The suffix says the format; the content must agree.
    with reading(file, "a file of weights"):
        if file.suffix == ".zip":
            state = _read_zip(file)
        elif file.suffix == ".safetensors":
            state = safetensors.torch.load(file.read_bytes())
        else:
            state = load_checkpoint(file)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(
            f"{file} holds a {type(state).__name__}, expected a dict of tensors by name"
        )
    return state


def _read_zip(file: Path) -> Any:
    with zipfile.ZipFile(file) as archive:
        found = [n.filename for n in zip_members(archive)]
        found = [n for n in found if n.rsplit("/", 1)[-1] in UNET_FILES]
        if len(found) != 1:
            raise ValueError(
                f"{file} holds {len(found)} files named {' or '.join(UNET_FILES)}, expected 1"
            )
        # A few bytes may declare more than the memory holds.
        size = archive.getinfo(found[0]).file_size
        if size > 16 * file.stat().st_size:  # weights hardly shrink
            raise ValueError(f"{found[0]} declares {size:,} bytes")
        data = archive.read(found[0])
    if found[0].endswith(".safetensors"):
        import safetensors.torch

        return safetensors.torch.load(data)
    return load_checkpoint(io.BytesIO(data))


def _empty_unet(config: Mapping[str, Any]) -> "UNet2DModel":
    from diffusers import UNet2DModel

    import worlds.runtime.torchvision_ops  # noqa: F401  # diffusers imports torchvision

    with torch.device("meta"):
        return UNet2DModel.from_config(dict(config))


def _shapes(config: Mapping[str, Any]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in _empty_unet(config).state_dict().items()}


def _fit(name: str, tensor: torch.Tensor, shape: torch.Size, finite: bool = True) -> torch.Tensor:
    if tensor.ndim == 4 and len(shape) == 2 and tensor.shape[2:] == (1, 1):
        tensor = tensor.flatten(1)  # a 1x1 convolution is a linear layer
    if tensor.shape != shape or not tensor.is_floating_point():
        raise ValueError(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)}, "
            f"expected floating point {tuple(shape)}"
        )
    if finite and not tensor.isfinite().all():
        raise ValueError(f"{name} holds values that are not finite")
    return tensor.to(torch.float32).contiguous()


def _refuse_other_names(state: State, wanted: Iterable[str]) -> None:
    missing, extra = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or extra:
        raise ValueError(
            f"the weights are of another network: {len(missing)} names missing ({_few(missing)}), "
            f"{len(extra)} not expected ({_few(extra)})"
        )


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (" ..." if len(listed) > 3 else "") if listed else "none"
