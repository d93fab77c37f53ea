"""ImageNet in tars: as released (a tar of a tar for each class), or as a WebDataset.

Headers are read once to list the photographs, which are then read in place.
"""

import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import IO, Any

from dogbird.pieces import (
    FOLDERS,
    SUFFIXES,
    WNID,
    ClassFilter,
    Piece,
    Span,
    cut_pieces,
    is_photograph,
)
from dogbird.tasks import find_class
from worlds.runtime.errors import reading
from worlds.runtime.files import BoundedReads

_CLS_BYTES = 64  # of a .cls member, more than any class takes


def tars_of(root: Path, split: str) -> list[Path]:
    """Return the released tar of a split, or the tars that name it, in `root` or its directory."""
    # The released tar, tars beside the directory, tars in it.
    for name in FOLDERS[split]:
        released = [root / f"ILSVRC2012_img_{name}.tar"]
        for found in (released, root.glob(f"*{name}*.tar"), (root / name).glob("*.tar")):
            paths = sorted(path for path in found if path.is_file())
            if paths:
                return paths
    return []


def open_tars(tars: Sequence[Path], split: str, wanted: ClassFilter) -> tuple[str, list[Piece]]:
    """Return the form's name and the photographs; ValueError if a tar is damaged or compressed."""
    listed: list[tuple[Span, int]] = []
    forms = set()
    for path in tars:
        with reading(path, "a tar, or it is compressed"), path.open("rb") as stream:
            form, spans = _list_tar(path, stream, wanted)
            forms.add(form)
            changed = path.stat().st_mtime_ns
            listed += [(span, changed) for span in spans]
    return ", ".join(sorted(forms)), cut_pieces(split, listed)


def _list_tar(path: Path, stream: IO[bytes], wanted: ClassFilter) -> tuple[str, list[Span]]:
    # The first member tells which kind of tar it is.
    first = next(_members(stream), None)
    if first is None:
        raise ValueError(f"{path} is empty")
    stream.seek(0)
    if WNID.fullmatch(path.stem):  # one of the released tar's, by itself
        return "class tars", list(_of_class(path, stream, path.stem, wanted))
    if first.name.endswith(".tar"):
        return "nested tars", list(_of_nested(path, stream, wanted))
    return "webdataset", list(_of_files(path, stream, wanted))


def _members(stream: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield the plain files of the tar that begins where the stream is."""
    bounded: Any = BoundedReads(stream)
    with tarfile.open(fileobj=bounded, mode="r:") as tar:
        yield from (member for member in tar if member.isfile())


def _of_nested(path: Path, stream: IO[bytes], wanted: ClassFilter) -> Iterator[Span]:
    for outer in _members(stream):
        wnid = PurePosixPath(outer.name).stem
        if wnid not in wanted.wnids:
            continue
        with path.open("rb") as inner:
            inner.seek(outer.offset_data)
            yield from _of_class(path, inner, wnid, wanted)


def _of_class(path: Path, stream: IO[bytes], wnid: str, wanted: ClassFilter) -> Iterator[Span]:
    if wnid not in wanted.wnids:
        return
    for member in _members(stream):
        wanted.on_file()
        name = PurePosixPath(member.name).stem
        if name.startswith("._"):  # companion files of macOS
            continue
        yield Span(wnid, name, str(path.resolve()), member.offset_data, member.size)


def _of_files(path: Path, stream: IO[bytes], wanted: ClassFilter) -> Iterator[Span]:
    """List the photographs of a tar: classes by `.cls` members, directory, name, or a list."""
    # Members of one sample follow one another and share all but the extension.
    for _, members in groupby(_members(stream), key=lambda member: _split_name(member.name)[0]):
        span, wnid = None, None
        for member in members:
            wanted.on_file()
            base, extension = _split_name(member.name)
            place = PurePosixPath(base)
            if is_photograph(f"{place.name}.{extension}") and f".{extension.lower()}" in SUFFIXES:
                known = wanted.wnid_of(Path(member.name)) or ""
                where = str(path.resolve()), member.offset_data, member.size
                span = Span(known, place.name, *where)
            elif extension == "cls":
                wnid = _read_cls(path, member)
        if span is not None and (wnid or span.wnid) in wanted.wnids:
            yield span._replace(wnid=wnid or span.wnid)


def _split_name(name: str) -> tuple[str, str]:
    """Return the key and the extension of a WebDataset's member: `a/b.x.jpg` is `a/b`, `x.jpg`."""
    place = PurePosixPath(name)
    base, _, extension = place.name.partition(".")
    return str(place.parent / base), extension


def _read_cls(path: Path, member: tarfile.TarInfo) -> str:
    """Return the wnid that a `.cls` member names, by itself or by its class number."""
    with path.open("rb") as stream:
        stream.seek(member.offset_data)
        text = stream.read(min(member.size, _CLS_BYTES)).decode().strip()
    wnid = find_class(text)
    if wnid is None:
        raise ValueError(f"{path}: a .cls holds {text[:20]!r}, expected a wnid or 0 to 999")
    return wnid
