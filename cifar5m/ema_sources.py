"""The published files of Ho et al.'s CIFAR-10 network: where they are, and which are averaged.

A row is what a publisher says of a file, with the hashes that tell it apart from its twins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cifar5m.remote_files import RemoteFile

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
            ("https://heibox.uni-heidelberg.de/f/2e4f01e2d9ee49bab1d5/?dl=1",),
            md5="1fa350b952534ae442b1d5235cce5cd3",
        ),
        "ema",
        "Ho et al.'s EMA checkpoint, converted to PyTorch (pesser/pytorch_diffusion)",
    ),
    "diff-pruning-ema": Source(
        RemoteFile(
            "ddpm_ema_cifar10.zip",
            (
                "https://github.com/VainF/Diff-Pruning/releases/download/v0.0.1/"
                "ddpm_ema_cifar10.zip",
            ),
        ),
        "ema",
        "the same as a diffusers folder (VainF/Diff-Pruning); no hash is published",
    ),
    "fusing-ema": Source(
        RemoteFile(
            "fusing-ddpm-cifar10-ema.pt",
            ("https://huggingface.co/fusing/ddpm-cifar10-ema/resolve/main/diffusion_model.pt",),
        ),
        "ema",
        "the same in an early diffusers layout (Hub); no hash is published",
        "fusing/ddpm-cifar10-ema",
    ),
    "ho-non-ema": Source(
        RemoteFile(
            "cifar10-model-790000.ckpt",
            ("https://heibox.uni-heidelberg.de/f/869980b53bf5416c8a28/?dl=1",),
            md5="82ed3067fd1002f5cf4c339fb80c4669",
        ),
        "non-ema",
        "the same training run without averaging (pesser/pytorch_diffusion)",
    ),
    "hub-non-ema": Source(
        RemoteFile(
            "google-ddpm-cifar10-32.safetensors",
            (
                "https://huggingface.co/google/ddpm-cifar10-32/resolve/main/"
                "diffusion_pytorch_model.safetensors",
            ),
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
