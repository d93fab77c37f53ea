"""The time and cost of a run of the published networks, without a GPU or a download.

cifar5m-generate --n 6000000 --out cifar5m --dry-run
"""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cifar5m.engines.estimate import FLEETS
from cifar5m.sampling.job import Options
from cifar5m.weights.download import FetchError, ask_size, cache_folder
from cifar5m.weights.ho_ema import DEFAULT, SOURCES, converted_folder, download_folder
from cifar5m.weights.sources import DEFAULT_LABELER, WeightsError, find_labeler, labeler_folder
from worlds.cli.tables import columns

_TAR_BYTES: Final = 4_098  # a sample of 32 x 32: two headers, a PNG of some 2,360 bytes, the label

# Calls of Ho's network, of one image each, a second, and how each figure is known.
_CARDS: Final = (
    ("H200", "fp32, eager, batch 256", 1_736, "measured"),
    ("H200", "tf32, eager, batch 512", 7_932, "measured"),
    ("H200", "bf16 weights, eager, batch 1024", 11_769, "measured"),
    ("H200", "bf16 weights, compiled, batch 1024", 27_441, "measured"),
    ("A100", "bf16", 7_600, "estimated: 30 % of its peak"),
    ("RTX 2080 Ti", "fp32", 700, "published: 50,000 images in 20 h"),
)


def without_device(options: Options, device: str) -> bool:
    """Return whether a run of Ho's network has no GPU here to be measured on."""
    import torch

    published = options.resolved.generator == "ema"
    return published and device == "auto" and not torch.cuda.is_available()


def project_published(
    options: Options, price: float | None, command: Sequence[str]
) -> Iterator[str]:
    """Yield lines on downloads, size, calls, hours on common GPUs and commands.

    `price` is of a device hour; `command` holds the arguments of the real run.
    """
    recipe, layout = options.resolved, options.layout
    shards, images = layout.shards(), len(layout)
    # A shard's last batch is padded full.
    batches = sum(-(-len(shard) // recipe.micro_batch) for shard in shards)
    calls = batches * recipe.micro_batch * recipe.sampler.network_calls
    rows = {
        "recipe": f"{options.recipe}: {recipe.distribution}, {recipe.precision}",
        "splits": ", ".join(f"{name} {length:,}" for name, length in layout.splits),
        "shards": f"{len(shards):,} of {layout.shard_size:,} images",
        "size": f"{images * _TAR_BYTES / 1e9:,.3f} GB",
        "network calls": f"{calls:,} of one image each",
        "generator": _generator(),
        "labeler": _labeler(recipe.labeler),
    }
    yield from (f"{name:15} {value}" for name, value in rows.items())
    # What it takes on common GPUs, and how to start it.
    yield from _hours(calls, price)
    yield from _commands(command)


def _hours(calls: int, price: float | None) -> Iterator[str]:
    # One row a card; the cost is that of all its hours.
    head = ("GPU", "networks", "calls/s", *(f"hours on {n}" for n in FLEETS), "known by")
    rows = [head if price is None else (*head, "cost")]
    for card, how, rate, known in _CARDS:
        hours = calls / rate / 3600
        row = (card, how, f"{rate:,}", *(f"{hours / n:,.2f}" for n in FLEETS), known)
        rows.append(row if price is None else (*row, f"{price * hours:,.0f}"))
    yield ""
    yield from columns(rows, left=(0, 1, 6)).splitlines()
    yield "another card: --rate IMAGES_PER_SECOND, or the same dry run on it, which measures"


def _commands(command: Sequence[str]) -> Iterator[str]:
    # The same command for one GPU, a node, several nodes and a cluster.
    run = shlex.join(["cifar5m-generate", *command])
    module = shlex.join(["-m", "--", "cifar5m.commands.generate", *command])
    yield ""
    yield f"one GPU         {run} --workers 1"
    yield f"eight, one node {run}"
    yield f"many            torchrun --nnodes N --nproc-per-node 8 ... {module}"
    yield f"                srun --ntasks N --gpus-per-task 1 {run}"
    yield f"                {run} --ray auto"


def _generator() -> str:
    """Say whether the generator is here, and where else to get it."""
    file, cache = SOURCES[DEFAULT].file, cache_folder()
    of_ema = [name for name, source in SOURCES.items() if source.kind == "ema"]
    if any(converted_folder(name, cache).is_dir() for name in of_ema):
        return f"at hand, in {cache / 'weights'}"
    if (path := download_folder(cache) / file.name).is_file():
        return f"at hand: {path}"
    return _download(file.url, file.name, f"it at {path}")


def _labeler(source: str) -> str:
    """Say which labeler a source is, and what of it is still to be downloaded."""
    # The default labeler: fine-tuned here, in the Hub's cache, or to be downloaded.
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    if source == "auto" and not labeler_folder("bit").is_dir():
        source = DEFAULT_LABELER
    if source == DEFAULT_LABELER and not labeler_folder(source).is_dir():
        name = "pytorch_model.bin"
        if isinstance(try_to_load_from_cache(source, name), str):
            return f"{source}, at hand in the Hub's cache"
        by_hand = f"it and config.json at {labeler_folder(source)}"
        return f"{source}; {_download(hf_hub_url(source, name), name, by_hand)}"
    # Any other source: say where it is, or why it cannot be used.
    if "/" in source and not Path(source).expanduser().exists():
        return f"{source}, from the Hub"
    try:
        weights = find_labeler(source)
    except WeightsError as error:
        return str(error)
    return f"{weights.source}, at hand: {weights.file}"


def _download(url: str, name: str, by_hand: str) -> str:
    """Say that a file will be downloaded, or where to put it if its server does not answer."""
    try:
        size = ask_size(url)
    except FetchError as error:
        return f"{error} and put {by_hand}"
    told = "" if size is None else f" ({size / 1e6:,.0f} MB)"
    return f"to download: {name}{told} from {url}"
