"""Find, fetch and check the generator's published weights.

cifar5m-weights list                          what is known, and what is here
cifar5m-weights fetch                         download and convert Ho et al.'s EMA weights
cifar5m-weights fetch ho-ema --from-file F    the same from a file that was downloaded by hand
cifar5m-weights check PATH                    what a file or folder is: EMA, not EMA, unknown
cifar5m-weights explain                       why EMA, and why the Hub's checkpoint is refused
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser
from worlds.cli.progress import ProgressBars

_KINDS = {"ema": "EMA", "non-ema": "not EMA", "unknown": "unknown"}

_EXPLANATION = """\
CIFAR-5m was sampled from Ho, Jain and Abbeel's DDPM for CIFAR-10. Their training kept two sets of
weights: the raw ones, and an exponential moving average of them with decay 0.9999 (EMA). The paper
samples from the average. Measured with 50,000 images against the training set, FID is

    EMA                    3.17 in the paper; 3.21 for the PyTorch conversion that `fetch` uses
    not EMA               12.14 for the same conversion of the raw weights
    google/ddpm-cifar10-32 12.44 as its users measure it: it is the raw set

Both sets have the same names, shapes and size, so nothing but the bytes tells them apart, and
images made from the raw ones are another distribution than the paper's. So files are known by
hash: the raw ones are refused unless --allow-non-ema says that they are meant, and a file that is
not in `cifar5m-weights list` is called unknown, never EMA.

The variance is the other trap: with the EMA weights, 1000 steps with the small variance give 4.7.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Return exit code 0; 1 if `check` finds anything but the EMA network; 2 on an error."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    return exit_code(parser, lambda: arguments.run(arguments))


def make_parser() -> Parser:
    from cifar5m.weights.download import CACHE_VARIABLE

    parser = Parser(
        "cifar5m-weights",
        "Find, fetch and check the generator's published weights.",
        epilog=f"The cache is ${CACHE_VARIABLE} or ~/.cache/deep-bootstrap.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    # One parser a verb, which knows the function that does it.
    listing = commands.add_parser("list", help="what is known, and what is in the cache")
    listing.set_defaults(run=_list)

    fetching = commands.add_parser("fetch", help="download, verify and convert into the cache")
    fetching.add_argument("name", nargs="?", default="ho-ema", help="as listed (default ho-ema)")
    fetching.add_argument("--from-file", type=Path, help="a file that was downloaded by hand")
    fetching.add_argument(
        "--allow-non-ema", action="store_true", help="the raw weights are meant (FID 12)"
    )
    fetching.set_defaults(run=_fetch)

    checking = commands.add_parser("check", help="what a file is; exit code 0 only for EMA")
    checking.add_argument("path", type=Path, help="a checkpoint file or a diffusers folder")
    checking.set_defaults(run=_check)

    explaining = commands.add_parser("explain", help="why EMA, and why the Hub's file is refused")
    explaining.set_defaults(run=_explain)
    return parser


def _list(_: argparse.Namespace) -> int:
    from cifar5m.weights.download import cache_folder
    from cifar5m.weights.ho_ema import SOURCES

    # Each known file: what it is, where it is, how it is known.
    cache = cache_folder()
    for name, source in SOURCES.items():
        size, state = _state(name, cache)
        known = next((f"{kind} {value}" for kind, value in source.file.hashes.items()), "none")
        print(f"{name}: {_KINDS[source.kind]}, {state}")
        print(f"    {source.about}")
        print(f"    url   {source.file.url}")
        print(f"    file  {source.file.name}, {size}")
        print(f"    hash  {known}")
    print(f"cache: {cache} (downloads/ for files put by hand, weights/ for converted folders)")
    return 0


def _state(name: str, cache: Path) -> tuple[str, str]:
    """Return the size of the source's file if it is known, and what the cache holds of it."""
    from cifar5m.weights.ho_ema import SOURCES, converted_folder, download_folder, read_provenance

    # Converted, downloaded, or begun: the furthest stage counts.
    file = SOURCES[name].file
    target = download_folder(cache) / file.name
    part = target.with_name(f"{file.name}.part")
    shown = f"{target.stat().st_size:,} bytes" if target.is_file() else "size unknown"
    if read_provenance(converted_folder(name, cache)) is not None:
        return shown, "ready"
    if target.is_file():
        return shown, "downloaded, not converted"
    if part.is_file():
        return shown, f"{part.stat().st_size:,} bytes of it downloaded"
    return shown, "not here"


def _fetch(arguments: argparse.Namespace) -> int:
    from cifar5m.weights.convert import UNET_CONFIG
    from cifar5m.weights.download import cache_folder
    from cifar5m.weights.ho_ema import install, read_provenance, source_name

    name = source_name(arguments.name) or arguments.name
    with ProgressBars() as on_progress:
        folder = install(
            name,
            cache_folder(),
            config=UNET_CONFIG,
            from_file=arguments.from_file,
            allow_non_ema=arguments.allow_non_ema,
            on_progress=on_progress,
        )
    # A file without a published hash is identified for the user.
    made = read_provenance(folder)
    if made is not None and made.evidence == "publisher":
        print(f"no hash of this file is published; it has sha256 {made.source_sha256}")
    print(folder)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from cifar5m.weights.convert import PARAMETERS, UNET_CONFIG
    from cifar5m.weights.download import cache_folder
    from cifar5m.weights.ho_ema import identify

    # Another network has another size.
    found = identify(arguments.path, cache_folder(), UNET_CONFIG)
    expected = "as published" if found.parameters == PARAMETERS else f"published: {PARAMETERS:,}"
    print(f"{found.file}: {_KINDS[found.kind]} ({found.why})")
    print(f"    md5         {found.md5}")
    print(f"    sha256      {found.sha256}")
    print(f"    tensors     {found.tensors_sha256}")
    print(f"    parameters  {found.parameters:,} ({expected})")
    return 0 if found.kind == "ema" else 1


def _explain(_: argparse.Namespace) -> int:
    print(_EXPLANATION, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
