"""WebDataset shards wherever they are: on the Hub, on a web server, on disk.

    shards = find_shards("hf://datasets/owner/name", "train")
    shards = find_shards("https://example.org/train-{00000..00599}.tar")
    images, labels = read_shard(shards.items[0])      # uint8 (N, H, W, 3), int64 (N,)

A shard is read in one pass, through webdataset, and is never stored. A cut connection is resumed at
the byte where it was cut; what stays broken raises one StreamError that names the shard.
"""

import glob
import hashlib
import re
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from worlds.data.hub import HUB, ask_hub, parse_hub_address
from worlds.formats.layout import PLAN
from worlds.formats.plan import Plan, load_plan
from worlds.formats.shards import BLOCK, decode_image
from worlds.runtime.errors import first_line, printable
from worlds.runtime.http import Transfer, TransferError

IMAGE_FIELDS: Final = ("png", "jpg", "jpeg", "webp")


class StreamError(OSError):
    """A shard could not be read to its end; the message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = printable(message)  # a shard's names may hold anything

    def __str__(self) -> str:  # webdataset appends to the args of what passes through it
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return StreamError, (self.message,)


@dataclass(frozen=True)
class RemoteShard:
    """One tar: an http(s) address or a path, and its number of samples where that is known."""

    url: str
    count: int | None = None
    on_hub: bool = False  # read with the user's token


@dataclass(frozen=True)
class Shards:
    """The shards of one split, in natural order."""

    items: tuple[RemoteShard, ...]
    fingerprint: str  # of the plan and split, else of the names of the files
    class_names: tuple[str, ...] | None = None

    @property
    def counts(self) -> list[int] | None:
        """Return the samples of each shard, None if they are not known without reading."""
        counts = [shard.count for shard in self.items if shard.count is not None]
        return counts if len(counts) == len(self.items) else None


def find_shards(source: str, split: str = "train") -> Shards:
    """Return the shards of a Hub dataset, a dataset directory, or a pattern with braces or stars.

    `split` chooses among those of a dataset; a pattern names its files itself. Raises ValueError if
    there are none, OSError if the Hub cannot be reached.
    """
    # On the Hub, on a web server, or on this disk.
    if source.startswith(HUB):
        return _on_hub(source, split)
    if re.match("https?://", source):
        from braceexpand import braceexpand

        return _of_files([RemoteShard(url) for url in braceexpand(source)])
    if "://" in source:
        raise ValueError(
            f"expected hf://datasets/OWNER/NAME, an https:// pattern or a local one, got {source}"
        )
    # A folder with a plan knows its shards; otherwise names decide.
    folder = Path(source).expanduser()
    if (folder / PLAN).is_file():
        return _of_plan(load_plan(folder), split, f"{folder}/", on_hub=False)
    pattern = f"{source}/{split}-*.tar" if folder.is_dir() else str(folder)
    return _of_files([RemoteShard(path) for path in _local(pattern)])


def _local(pattern: str) -> list[str]:
    from braceexpand import braceexpand

    found = [path for each in braceexpand(pattern) for path in sorted(glob.glob(each))]
    if not found:
        raise ValueError(f"no file matches {pattern}: expected tars of a WebDataset")
    return found


def _on_hub(source: str, split: str) -> Shards:
    import huggingface_hub

    name, revision = parse_hub_address(source)
    # Pin the commit, so that all shards are read from one version of the dataset.
    info = ask_hub(source, lambda: huggingface_hub.HfApi().dataset_info(name, revision=revision))
    # With a plan in the repository it says all; without one the names of tars do.
    files = sorted(file.rfilename for file in info.siblings or ())
    base = huggingface_hub.hf_hub_url(name, "", repo_type="dataset", revision=info.sha)
    if PLAN in files:
        kind = {"repo_type": "dataset", "revision": info.sha}
        path = ask_hub(source, lambda: huggingface_hub.hf_hub_download(name, PLAN, **kind))
        return _of_plan(load_plan(Path(path).parent), split, base, on_hub=True)
    tars = [file for file in files if file.endswith(".tar")]
    wanted = [file for file in tars if Path(file).name.startswith(f"{split}-")]
    if not wanted:
        listed = ", ".join(tars[:3]) or "no tar at all"
        raise ValueError(f"{source} has no file {split}-*.tar, only {listed}: give another split")
    return _of_files([RemoteShard(base + file, on_hub=True) for file in wanted])


def _of_plan(plan: Plan, split: str, base: str, on_hub: bool) -> Shards:
    items = tuple(
        RemoteShard(f"{base}{shard.tar}", len(shard), on_hub) for shard in plan.layout.shards(split)
    )
    fingerprint = hashlib.sha256(f"{plan.fingerprint} {split}".encode()).hexdigest()
    return Shards(items, fingerprint, plan.class_names)


def _of_files(items: list[RemoteShard]) -> Shards:
    names = [item.url.rpartition("/")[2].partition("?")[0] for item in items]
    return Shards(tuple(items), hashlib.sha256("\n".join(names).encode()).hexdigest())


def read_shard(shard: RemoteShard) -> tuple[np.ndarray, np.ndarray]:
    """Return the decoded images, uint8 (N, H, W, 3), and labels, int64 (N,), of a shard.

    Raises StreamError if it cannot be read to its end, or does not hold images of one size with
    labels.
    """
    images, labels = [], []
    for sample in read_samples(shard):
        # A sample is an image and its class; other fields are left alone.
        key, where = sample["__key__"], f"{shard.url}: sample {sample['__key__']}"
        field = next((name for name in IMAGE_FIELDS if name in sample), None)
        if field is None or "cls" not in sample:
            fields = ", ".join(sorted(name for name in sample if not name.startswith("__")))
            raise StreamError(
                f"{where} has the fields {fields}: expected an image ({', '.join(IMAGE_FIELDS)}) "
                "and cls"
            )
        try:
            images.append(decode_image(sample[field]))
            labels.append(int(sample["cls"]))
        except ValueError as error:
            raise StreamError(f"{where} cannot be decoded: {first_line(error)}") from None
        if images[-1].shape != images[0].shape:
            raise StreamError(
                f"{where} is {images[-1].shape}, the first sample {images[0].shape}: a stream "
                f"holds images of one size (open_store reads photographs), at key {key}"
            )
    # A tar may be whole and still lack samples.
    if not images or shard.count not in (None, len(images)):
        expected = "at least 1" if shard.count is None else f"{shard.count:,}"
        raise StreamError(f"{shard.url} holds {len(images):,} samples, expected {expected}")
    return np.stack(images), np.array(labels, dtype=np.int64)


def read_samples(shard: RemoteShard) -> Generator[dict[str, Any], None, None]:
    """Yield the samples of a tar as webdataset does: `__key__`, and bytes by field name."""
    import tarfile

    from webdataset.tariterators import group_by_keys, tar_file_expander

    with _opened(shard) as stream:
        try:
            source = [{"url": shard.url, "stream": stream}]
            yield from group_by_keys(tar_file_expander(source))
            stream.check_end()
        except (tarfile.TarError, ValueError) as error:
            reason = str(error.args[0] if error.args else error).partition(" @ ")[0]
            raise StreamError(f"{shard.url} is damaged or cut short ({reason})") from None


class _Stream:
    """Blocks of bytes as a file; the last 512 bytes tell whether the tar has its end."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._held, self._tail = blocks, b"", b""

    def read(self, size: int) -> bytes:
        # Collect blocks until there is enough; what is over waits for the next read.
        parts, length = [self._held], len(self._held)
        while length < size and (block := next(self._blocks, b"")):
            parts.append(block)
            length += len(block)
        data = b"".join(parts)
        data, self._held = data[:size], data[size:]
        self._tail = (self._tail + data)[-BLOCK:]
        return data

    def check_end(self) -> None:
        """Read what follows the last member. Raises ValueError unless zeros end the archive."""
        while self.read(1 << 20):
            pass
        if len(self._tail) < BLOCK or self._tail.strip(b"\0"):
            raise ValueError("no end of archive")


@contextmanager
def _opened(shard: RemoteShard) -> Iterator[_Stream]:
    if re.match("https?://", shard.url):
        with closing(_http_blocks(shard)) as blocks:
            yield _Stream(blocks)
        return
    path = Path(shard.url).expanduser()
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise StreamError(f"{shard.url} is not a file")
    try:
        with path.open("rb") as file:
            yield _Stream(iter(partial(file.read, 1 << 16), b""))
    except FileNotFoundError:
        raise StreamError(f"{shard.url} does not exist") from None


def _http_blocks(shard: RemoteShard) -> Generator[bytes, None, None]:
    """Yield the bytes of a web address in order, each once."""
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers() if shard.on_hub else {}
    transfer, done, version = Transfer(shard.url, headers=headers), 0, ""
    try:
        for offset, block in transfer.blocks():
            if done and transfer.version != version:
                raise StreamError(f"{shard.url} has changed while it was read: begin again")
            version = transfer.version
            new = block[max(0, done - offset) :]  # a server that cannot resume sends all again
            done += len(new)
            if new:
                yield new
    except TransferError as error:
        hint = "; a loader's saved state resumes there once the server answers"
        raise StreamError(f"{shard.url}: {first_line(error)}{hint}") from None
