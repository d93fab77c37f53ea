"""Ho et al.'s EMA weights: where they are, which file is which, and the network they make.

    folder = install_known("ho-ema")        # from the cache, or downloaded and converted
    found = identify(Path("model.ckpt"))    # found.kind: "ema", "non-ema" or "unknown"

The same training run is published twice: with averaged weights (EMA), which give the paper's FID
(3.17; 3.21 measured on this conversion), and with the raw ones, which give 12.14. The checkpoint
that most tutorials name, google/ddpm-cifar10-32 on the Hub, is the raw one. Nothing but the bytes
tells them apart, so files are known by hash here, and the raw ones are refused until the caller
says that they are meant.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cifar5m.weights.convert import (
    UNET_CONFIG,
    build_unet,
    read_state,
    tensors_sha256,
    unet_state,
    weights_file,
)
from cifar5m.weights.download import (
    FetchError,
    RemoteFile,
    cache_folder,
    check_file,
    fetch,
    hash_file,
)
from worlds.runtime.files import held_lock, sha256_of, sync, write_json
from worlds.runtime.json_files import load_json
from worlds.runtime.progress import OnProgress

Kind = Literal["ema", "non-ema", "unknown"]
DEFAULT: Final = "ho-ema"


@dataclass(frozen=True)
class Source:
    """A published file of these weights. `repository` is its name on the Hub, if it has one."""

    file: RemoteFile
    kind: Kind
    about: str
    repository: str | None = None


# The md5 sums are those of the conversion's own downloader (pesser/pytorch_diffusion, and the same
# in ermongroup/ddim); the sha256 sums are those that the Hub shows for the files.
SOURCES: Final[Mapping[str, Source]] = {
    "ho-ema": Source(
        RemoteFile(
            "ema-cifar10-model-790000.ckpt",
            "https://heibox.uni-heidelberg.de/f/2e4f01e2d9ee49bab1d5/?dl=1",
            md5="1fa350b952534ae442b1d5235cce5cd3",
        ),
        "ema",
        "Ho et al.'s EMA checkpoint, converted to PyTorch (pesser/pytorch_diffusion)",
    ),
    "diff-pruning-ema": Source(
        RemoteFile(
            "ddpm_ema_cifar10.zip",
            "https://github.com/VainF/Diff-Pruning/releases/download/v0.0.1/ddpm_ema_cifar10.zip",
        ),
        "ema",
        "the same as a diffusers folder (VainF/Diff-Pruning); no hash is published",
    ),
    "fusing-ema": Source(
        RemoteFile(
            "fusing-ddpm-cifar10-ema.pt",
            "https://huggingface.co/fusing/ddpm-cifar10-ema/resolve/main/diffusion_model.pt",
        ),
        "ema",
        "the same in an early diffusers layout (Hub); no hash is published",
        "fusing/ddpm-cifar10-ema",
    ),
    "ho-non-ema": Source(
        RemoteFile(
            "cifar10-model-790000.ckpt",
            "https://heibox.uni-heidelberg.de/f/869980b53bf5416c8a28/?dl=1",
            md5="82ed3067fd1002f5cf4c339fb80c4669",
        ),
        "non-ema",
        "the same training run without averaging (pesser/pytorch_diffusion)",
    ),
    "hub-non-ema": Source(
        RemoteFile(
            "google-ddpm-cifar10-32.safetensors",
            "https://huggingface.co/google/ddpm-cifar10-32/resolve/main/"
            "diffusion_pytorch_model.safetensors",
            sha256="1558dbe3fb093b0857d473e376b711eeda1b186c557be5e85b3a56300cd49f0f",
        ),
        "non-ema",
        "google/ddpm-cifar10-32, the Hub's checkpoint without averaging",
        "google/ddpm-cifar10-32",
    ),
}

# diffusion_pytorch_model.bin of google/ddpm-cifar10-32, the present and the first version.
HUB_NON_EMA_BIN: Final = frozenset(
    {
        "ac3416a548879738893e935b42cab9119f51745b62bec4b6d8375e4d86e98ea4",
        "47776d2547f63c91883ce5658f0b04833302fcb47b99bfec450d7ee046395c0b",
    }
)
WHY_EMA: Final = "its images measure FID 12.1 to 12.4 where the EMA weights give 3.2"
CONVERTER: Final = 1  # raised when a conversion gives other files; older ones are then made anew


@dataclass(frozen=True)
class Weights:
    """Identity of a weights file; `tensors_sha256` is the network's, whatever the file's form."""

    kind: Kind
    why: str  # how the kind is known, one phrase
    file: Path
    md5: str
    sha256: str
    tensors_sha256: str
    parameters: int


@dataclass(frozen=True)
class Provenance:
    """provenance.json of a converted folder."""

    name: str
    kind: Kind
    evidence: Literal["hash", "publisher"]  # what says that the source file is of this kind
    url: str
    source_md5: str
    source_sha256: str
    weights_sha256: str  # of diffusion_pytorch_model.safetensors
    tensors_sha256: str
    converter: int


def install_known(
    name: str, allow_non_ema: bool = False, on_progress: OnProgress | None = None
) -> Path:
    """Return the converted directory of a source in the user's cache, installed now unless it is
    there; for DEFAULT, any EMA one that was installed before will do.
    """
    # Several files hold the EMA network: whichever is here is as good.
    cache = cache_folder()
    for other, source in SOURCES.items() if name == DEFAULT else ():
        folder = converted_folder(other, cache)
        if source.kind == "ema" and _is_whole(folder):
            return folder
    return install(name, cache, allow_non_ema=allow_non_ema, on_progress=on_progress)


def refuse_known_non_ema(file: Path, allow_non_ema: bool) -> None:
    """Raise ValueError for a file that is known, by hash or by its config, not to be EMA."""
    kind, why = _kind(file, _hashes(file), "", cache_folder())
    if kind == "non-ema" and not allow_non_ema:
        raise ValueError(_non_ema_line(f"{file} is not the EMA network ({why})"))


def identify(
    path: Path, cache: Path | None = None, config: Mapping[str, Any] = UNET_CONFIG
) -> Weights:
    """Identify a file or diffusers directory of weights; raises ValueError for another network."""
    file = weights_file(path)
    if path.is_dir():
        _refuse_other_settings(file, config)
    state = unet_state(read_state(file), config)
    hashes, tensors = _hashes(file), tensors_sha256(state)
    kind, why = _kind(file, hashes, tensors, cache or cache_folder())
    parameters = sum(tensor.numel() for tensor in state.values())
    return Weights(kind, why, file, hashes["md5"], hashes["sha256"], tensors, parameters)


def source_name(text: str) -> str | None:
    """Return the name in SOURCES of a name or of a repository on the Hub, None if unknown."""
    return next((n for n, source in SOURCES.items() if text in (n, source.repository)), None)


def converted_folder(name: str, cache: Path) -> Path:
    """Return the directory of a source's converted network."""
    return cache / "weights" / name


def download_folder(cache: Path) -> Path:
    """Return the directory for files downloaded by hand, under their source's file names."""
    return cache / "downloads"


def read_provenance(folder: Path) -> Provenance | None:
    """Load the provenance of a directory that this module converted; None if invalid or old."""
    try:
        provenance = load_json(folder / "provenance.json", Provenance)
    except ValueError:
        return None
    return provenance if provenance.converter == CONVERTER else None


def install(
    name: str,
    cache: Path,
    *,
    config: Mapping[str, Any] = UNET_CONFIG,
    from_file: Path | None = None,
    allow_non_ema: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Return the diffusers directory of a source in the cache, downloaded (or read from a file that
    was) and converted unless it exists. Several processes may ask at once.
    """
    # The raw weights are refused until the caller says that they are meant.
    if name not in SOURCES:
        raise ValueError(f"{name!r} is none of the known weights: {', '.join(SOURCES)}")
    source, folder = SOURCES[name], converted_folder(name, cache)
    if source.kind == "non-ema" and not allow_non_ema:
        raise ValueError(_non_ema_line(f"{name} is {source.about}"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held_lock(folder.parent / f".{name}.lock"):
        if _is_whole(folder):
            return folder
        if from_file is None:
            from_file = _download(name, cache, on_progress)
        else:
            check_file(from_file, source.file)
        _convert(name, from_file, folder, config)
    return folder


def _download(name: str, cache: Path, on_progress: OnProgress | None) -> Path:
    try:
        return fetch(SOURCES[name].file, download_folder(cache), on_progress)
    except FetchError as error:
        raise FetchError(
            f"the weights {name} could not be downloaded: {error} (or run `cifar5m-weights fetch "
            f"{name} --from-file FILE`); the bundled `tiny` works offline"
        ) from error


def _convert(name: str, file: Path, folder: Path, config: Mapping[str, Any]) -> None:
    """Write the converted directory under a temporary name and rename it when it is complete."""
    # Converted beside the final place, with what says where it came from.
    source, hashes = SOURCES[name], _hashes(file)
    state = unet_state(read_state(file), config)
    part = folder.with_name(f".{name}.part")
    shutil.rmtree(part, ignore_errors=True)
    build_unet(state, config).save_pretrained(part)
    provenance = Provenance(
        name=name,
        kind=source.kind,
        evidence="hash" if source.file.hashes else "publisher",
        url=source.file.url,
        source_md5=hashes["md5"],
        source_sha256=hashes["sha256"],
        weights_sha256=sha256_of(weights_file(part)),
        tensors_sha256=tensors_sha256(state),
        converter=CONVERTER,
    )
    write_json(part / "provenance.json", provenance)
    # On the disk before it has its name.
    for written in part.iterdir():
        sync(written)
    shutil.rmtree(folder, ignore_errors=True)  # one that was not whole
    part.rename(folder)


def _is_whole(folder: Path) -> bool:
    provenance = read_provenance(folder)
    if provenance is None or not (folder / "config.json").is_file():
        return False
    try:
        return sha256_of(weights_file(folder)) == provenance.weights_sha256
    except (ValueError, OSError):
        return False


def _kind(file: Path, hashes: Mapping[str, str], tensors: str, cache: Path) -> tuple[Kind, str]:
    """Return what a file is and how that is known, by the strongest evidence there is."""
    # A published file.
    for name, source in SOURCES.items():
        if any(hashes[kind] == value for kind, value in source.file.hashes.items()):
            return source.kind, f"the published file {name}"
    if hashes["sha256"] in HUB_NON_EMA_BIN:
        return "non-ema", "the published file google/ddpm-cifar10-32"
    # A file that this module converted, or the same tensors in another form.
    made = read_provenance(file.parent)
    if made is not None and made.weights_sha256 == hashes["sha256"]:
        word = "whose hash is known" if made.evidence == "hash" else "by its publisher's word"
        return made.kind, f"converted from {made.name}, {word}"
    for name in SOURCES:
        made = read_provenance(converted_folder(name, cache))
        if made is not None and made.evidence == "hash" and made.tensors_sha256 == tensors:
            return made.kind, f"the same tensors as {name}"
    # What diffusers noted when it saved the network.
    origin = str(_settings(file).get("_name_or_path", "")).replace("--", "/")
    if "google/ddpm-cifar10-32" in origin:
        return "non-ema", "its config.json says that it comes from google/ddpm-cifar10-32"
    return "unknown", "not in the list of known files"


def _non_ema_line(what: str) -> str:
    return f"{what}: {WHY_EMA}; allow it with --allow-non-ema or use {DEFAULT}"


def _hashes(file: Path) -> dict[str, str]:
    return {kind: hash_file(file, kind) for kind in ("md5", "sha256")}


def _settings(file: Path) -> dict[str, Any]:
    """Load config.json beside the weights; nothing if there is none."""
    path = file.with_name("config.json")
    return load_json(path, dict[str, Any]) if path.is_file() else {}


def _refuse_other_settings(file: Path, config: Mapping[str, Any]) -> None:
    """Raise ValueError if settings that shapes do not show, as padding, are not the published."""
    settings = _settings(file)
    for key, expected in config.items():
        value = settings.get(key, expected)
        if (tuple(value) if isinstance(value, list) else value) != expected:
            raise ValueError(
                f"{file.with_name('config.json')} sets {key} to {value}, "
                f"Ho et al.'s network has {expected}"
            )
