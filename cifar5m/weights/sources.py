"""The source of a network's weights: a bundled name, a folder, a file, or a Hugging Face Hub id.

Every source becomes a local folder or file whose weights can be hashed and loaded, so that nothing
after this module knows about networks on the wire.
"""

import re
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from cifar5m.weights import ho_ema as ema_weights
from cifar5m.weights.convert import UNET_FILES
from cifar5m.weights.download import FetchError, cache_folder
from worlds.data.hub import ask_hub
from worlds.formats.plan import Evaluation
from worlds.runtime.errors import first_line
from worlds.runtime.files import sha256_of
from worlds.runtime.json_files import load_json
from worlds.runtime.progress import OnProgress

OFFLINE_HINT = "the bundled `tiny` works offline"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")
# What the package holds in cifar5m/tiny, by kind and name.
_BUNDLED: Final = {
    ("generator", "tiny"): "generator",
    ("generator", "tiny-conditional"): "conditional",
    ("labeler", "tiny"): "labeler",
}
_LABELER_FILES = ("model.safetensors", "pytorch_model.bin")

# The public labeler: timm's ViT-B/16 fine-tuned on CIFAR-10, MIT; test accuracy 0.9896 by its card,
# in timm's evaluation (bicubic to 248, center 224). No hash is published: plans record it.
DEFAULT_LABELER: Final = "edadaltocg/vit_base_patch16_224_in21k_ft_cifar10"
EVALUATION: Final = "evaluation.json"  # what fine-tuning measured, beside the weights


def labeler_folder(source: str) -> Path:
    """Return the directory of the cache in which `bit` or DEFAULT_LABELER is looked for."""
    name = "bit-m-r152x2-cifar10" if source == "bit" else "vit-b16-cifar10"
    return cache_folder() / "labelers" / name


class WeightsError(ValueError):
    """Weights that cannot be found, reached or used; the message says what to do."""


@dataclass(frozen=True)
class Weights:
    """One network's weights on this machine: `file`, and the `folder` with its config.json."""

    source: str  # as the user or the recipe named it
    file: Path
    folder: Path | None

    @property
    def sha256(self) -> str:
        return sha256_of(self.file)

    @property
    def config(self) -> dict[str, Any] | None:
        """The network's config.json, None for a bare file."""
        if self.folder is None:
            return None
        path = self.folder / "config.json"
        try:
            config = load_json(path, dict[str, Any])
        except ValueError as error:
            raise WeightsError(str(error)) from error
        # diffusers notes its own version and where a network came from under such names.
        return {name: value for name, value in config.items() if not name.startswith("_")}


def evaluation_beside(weights: Weights) -> Evaluation | None:
    """Return what cifar5m-finetune-labeler measured of these weights, None if it did not."""
    try:
        found = load_json(weights.file.with_name(EVALUATION), Evaluation)
    except ValueError:
        return None
    return found if found.weights_sha256 == weights.sha256 else None


def find_generator(
    source: str, allow_non_ema: bool = False, on_progress: OnProgress | None = None
) -> Weights:
    """Find the weights of a U-Net that predicts noise: `tiny`, `tiny-conditional`, `ema`, a
    diffusers directory, file or Hub id.

    `ema` is what `cifar5m-weights` has installed, or installs now. Files that are known not to be
    EMA weights are refused unless allowed.
    """
    # A local path of the same name comes before a published file.
    known = ema_weights.DEFAULT if source == "ema" else ema_weights.source_name(source)
    if known and not Path(source).exists():
        try:
            folder = ema_weights.install_known(known, allow_non_ema, on_progress)
        except FetchError as error:
            raise WeightsError(str(error)) from error
        return _in_folder(source, folder, UNET_FILES)
    weights = _find(source, "generator", UNET_FILES)
    ema_weights.refuse_known_non_ema(weights.file, allow_non_ema)
    return weights


def find_labeler(source: str) -> Weights:
    """Find the weights of a ten-class timm classifier: `tiny`, `bit`, a timm directory, BiT file or
    Hub id.

    `bit` is BiT-M-R152x2 fine-tuned on CIFAR-10. Nobody publishes it, so it is looked for in the
    cache, where its fine-tuning leaves it. `auto` takes it if it is there, else the public ViT-B/16
    of DEFAULT_LABELER, from the cache's labelers or the Hub; `source` of the result is its name.
    """
    # Names that this project gives, looked for in the cache first.
    if source == "auto":
        source = "bit" if labeler_folder("bit").is_dir() else DEFAULT_LABELER
    named = source in ("bit", DEFAULT_LABELER)
    if named and (folder := labeler_folder(source)).is_dir():
        return _in_folder(source, folder, _LABELER_FILES)
    if source == "bit":
        raise WeightsError(
            f"the labeler BiT-M-R152x2 fine-tuned on CIFAR-10 is not published anywhere: run "
            f"cifar5m-finetune-labeler, or put a fine-tuned timm folder (config.json, "
            f"model.safetensors) at {folder}, or leave --labeler out for {DEFAULT_LABELER}"
        )
    return _find(source, "labeler", _LABELER_FILES)


def _find(source: str, kind: str, names: tuple[str, ...]) -> Weights:
    if (kind, source) in _BUNDLED:
        bundled = files("cifar5m") / "tiny" / _BUNDLED[kind, source]
        return _in_folder(source, Path(str(bundled)), names)
    # A file, a directory, or a repository on the Hub.
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise WeightsError(f"--{kind}: {path} is not a weights file ({', '.join(_SUFFIXES)})")
        return Weights(source, path, None)
    if path.is_dir():
        return _in_folder(source, path, names)
    if _HUB_ID.fullmatch(source):
        return _in_folder(source, _download(source, kind, names), names)
    raise WeightsError(
        f"--{kind}: {source!r} is not a directory, a file or a Hub id (user/name); {OFFLINE_HINT}"
    )


def _in_folder(source: str, folder: Path, names: tuple[str, ...]) -> Weights:
    if not (folder / "config.json").is_file() and (folder / "unet" / "config.json").is_file():
        folder = folder / "unet"  # a whole pipeline was saved
    for name in names:
        if (folder / name).is_file() and (folder / "config.json").is_file():
            return Weights(source, folder / name, folder)
    raise WeightsError(f"{folder} must hold config.json and one of {', '.join(names)}")


def _download(source: str, kind: str, names: tuple[str, ...]) -> Path:
    """Download config and weights of a Hub repository into the Hub's own cache."""
    import huggingface_hub
    from huggingface_hub.errors import RemoteEntryNotFoundError

    # The config first: a repository without one is not taken.
    name, _, revision = source.partition("@")
    download = partial(huggingface_hub.hf_hub_download, name, revision=revision or None)
    try:
        config = ask_hub(source, partial(download, "config.json"))
        for file in names:
            try:
                ask_hub(source, partial(download, file))
            except RemoteEntryNotFoundError:
                continue
            return Path(config).parent
    except (OSError, ValueError) as error:
        beside = f" or at {labeler_folder(source)}" if source == DEFAULT_LABELER else ""
        raise WeightsError(
            f"--{kind}: {first_line(error)}; download config.json and {' or '.join(names)} of that "
            f"Hub repository elsewhere and pass --{kind} FOLDER{beside}; {OFFLINE_HINT}"
        ) from error
    raise WeightsError(f"--{kind}: {source} holds none of {', '.join(names)}")
