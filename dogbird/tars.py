"""ImageNet in tars: as released (a tar of a tar for each class), or as a WebDataset.

Headers are read once to list where each photograph lies; the photographs are then read in place.
"""

import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from dogbird.pieces import FOLDERS, SUFFIXES, WNID, ClassFilter, Piece, Span, cut, is_photograph
from dogbird.tasks import ilsvrc2012
from worlds.runtime.errors import reading
from worlds.runtime.files import BoundedReads

Listed = Iterator[tuple[Span, int]]

_CLS_BYTES = 64  # of a .cls member, more than any class takes


def tars_of(root: Path, split: str) -> list[Path]:
    """The released tar of a split, or the tars that name it, in `root` or in its folder."""
    for name in FOLDERS[split]:
        released = [root / f"ILSVRC2012_img_{name}.tar"]
        for found in (released, root.glob(f"*{name}*.tar"), (root / name).glob("*.tar")):
            paths = sorted(path for path in found if path.is_file())
            if paths:
                return paths
    return []


def open_tars(tars: Sequence[Path], split: str, wanted: ClassFilter) -> tuple[str, list[Piece]]:
    """The form's name and the photographs; ValueError where a tar is damaged or compressed."""
    listed: list[tuple[Span, int]] = []
    forms = set()
    for path in tars:
        with reading(path, "a tar, or it is compressed"), path.open("rb") as stream:
            form, spans = _list_tar(path, stream, wanted)
            forms.add(form)
            changed = path.stat().st_mtime_ns
            listed += [(span, changed) for span in spans]
    return ", ".join(sorted(forms)), cut(split, listed)


def _list_tar(path: Path, stream: IO[bytes], wanted: ClassFilter) -> tuple[str, list[Span]]:
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
    """The plain files of the tar that begins where the stream is."""
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
    sample: dict[str, Span | str] = {}
    key = None
    for member in _members(stream):
        wanted.on_file()
        place = PurePosixPath(member.name)
        base, _, extension = place.name.partition(".")
        if str(place.parent / base) != key:
            yield from _wanted(sample, wanted)
            key, sample = str(place.parent / base), {}
        if is_photograph(place.name) and f".{extension.lower()}" in SUFFIXES:
            wnid = wanted.wnid_of(Path(member.name)) or ""
            sample["image"] = Span(wnid, base, str(path.resolve()), member.offset_data, member.size)
        elif extension == "cls":
            with path.open("rb") as again:
                again.seek(member.offset_data)
                content = again.read(min(member.size, _CLS_BYTES))
                sample["wnid"] = _wnid_of_cls(content.decode(), path)
    yield from _wanted(sample, wanted)


def _wanted(sample: dict[str, Span | str], wanted: ClassFilter) -> Iterator[Span]:
    span = sample.get("image")
    if isinstance(span, Span):
        wnid = str(sample.get("wnid", span.wnid))
        if wnid in wanted.wnids:
            yield span._replace(wnid=wnid)


def _wnid_of_cls(text: str, path: Path) -> str:
    """A wnid, or the class number 0 to 999."""
    wnids, text = list(ilsvrc2012()), text.strip()
    if text in ilsvrc2012():
        return text
    if not re.fullmatch(r"\d{1,3}", text):
        raise ValueError(f"{path}: a .cls holds {text[:20]!r}, expected a wnid or 0 to 999")
    return wnids[int(text)]
