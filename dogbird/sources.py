"""The photographs of some classes in a copy of ImageNet, whatever its form.

    source = open_source(Path("imagenet"), wnids)
    for piece in source.pieces: ...          # up to 256 photographs each, read on demand

Each split may come in another form (dogbird/tars.py, dogbird/tables.py have the packed ones):

    train/n02087394/*.JPEG                           a folder a class; of val also one flat folder
    ILSVRC/Data/CLS-LOC/{train,val}                  the same, as Kaggle's archive unpacks
    ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar tars of tars, and of files, as released
    *train*.tar, *val*.tar                           a WebDataset
    *train*.parquet, train/*.arrow                   a copy of the Hub's, or of `save_to_disk`

Opening lists and counts photographs without reading one; nothing is unpacked or written.
"""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dogbird.pieces import (
    FOLDERS,
    SPLITS,
    WNID,
    ClassFilter,
    OnFile,
    Piece,
    Span,
    cut_pieces,
    is_photograph,
)
from dogbird.val_labels import KAGGLE, PositionalLabels, find_val_labels, read_val_labels

_SHOWN: Final = 5  # names of what was found instead


@dataclass(frozen=True)
class Source:
    """The photographs of some classes in one copy of ImageNet."""

    root: Path
    forms: dict[str, str]  # of each split
    pieces: tuple[Piece, ...]

    def counts(self, split: str) -> Counter[str]:
        """Count the photographs of each wnid."""
        return Counter(w for piece in self.pieces if piece.split == split for w in piece.wnids)

    def __len__(self) -> int:
        return sum(len(piece.wnids) for piece in self.pieces)


def open_source(
    root: Path,
    wnids: Collection[str],
    splits: Sequence[str] = SPLITS,
    val_labels: Path | None = None,
    on_file: OnFile = lambda: None,
) -> Source:
    """List the photographs of `wnids`; ValueError if `root` is not a copy of ImageNet.

    `val_labels` is a list of dogbird/val_labels.py, by default one in `root`.
    """
    if not root.is_dir():
        wrong = "is not a directory" if root.exists() else "does not exist"
        raise ValueError(f"{root} {wrong}: give the directory that holds the copy of ImageNet")
    inner = (root / KAGGLE, root / "Data/CLS-LOC", root / "CLS-LOC")
    root = next((path for path in inner if path.is_dir()), root).absolute()
    # Classes of validation photographs in one flat directory.
    listed = val_labels or find_val_labels(root)
    labels = {} if listed is None else read_val_labels(listed)
    # Each split in whatever form it is.
    forms, pieces = {}, []
    for split in splits:
        wanted = ClassFilter(frozenset(wnids), labels, on_file)
        form, found = _open_split(root, split, wanted)
        seen = len(wanted.listed)
        if isinstance(labels, PositionalLabels) and split == "val" and seen not in (0, len(labels)):
            raise ValueError(
                f"{listed} has {len(labels):,} lines, but {seen:,} validation photographs were "
                f"found: a list without file names needs one line per photograph, in their order"
            )
        if unknown := sorted(wanted.listed - labels.keys()) if labels and found else []:
            raise ValueError(
                f"{listed} has no class for {len(unknown):,} of the {split} photographs, such as "
                f"{unknown[0]}"
            )
        if not found:
            raise ValueError(
                f"{root}: none of the photographs of {split} ({form}) is known to be of the "
                f"{len(wnids)} classes{_hint(split, labels)}"
            )
        forms[split] = form
        pieces += found
    return Source(root, forms, tuple(pieces))


def _open_split(root: Path, split: str, wanted: ClassFilter) -> tuple[str, list[Piece]]:
    from dogbird.tables import open_tables, tables_of
    from dogbird.tars import open_tars, tars_of

    # Directories of classes before tars before tables.
    folders = [root / name for name in FOLDERS[split] if (root / name).is_dir()]
    for folder in folders:
        if _holds_photographs(folder, wanted):
            return "folder", cut_pieces(split, _list_folder(folder, wanted))
    if tars := tars_of(root, split):
        return open_tars(tars, split, wanted)
    if tables := tables_of(root, split):
        return open_tables(tables, split, wanted)
    # Nothing was found: say why, if it is known.
    for name in FOLDERS[split]:
        if packed := sorted(root.glob(f"*{name}*.tar.*")) + sorted(root.glob(f"*{name}*.tgz")):
            raise ValueError(
                f"{packed[0]} is compressed: photographs are read in place, so decompress it first "
                f"(gunzip, unzstd or unxz)"
            )
    raise ValueError(
        f"{root} holds no {split} split of ImageNet: expected {split}/nXXXXXXXX/*.JPEG, "
        f"ILSVRC2012_img_{split}.tar, a WebDataset's *{split}*.tar or *{split}*.parquet; found "
        f"{_found(root, folders)}{_hint(split, wanted.val_labels)}"
    )


def _hint(split: str, val_labels: Mapping[str, str]) -> str:
    if split != "val" or val_labels:
        return ""
    return "; if they lie flat, name the list of their classes as `val_labels`"


def _found(root: Path, folders: list[Path]) -> str:
    """Name a few files of the split's directory, or of the top."""
    # The first names are enough to see what the directory is.
    place = next(iter(folders), root)
    names = sorted(path.name + "/" * path.is_dir() for path in place.iterdir())
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    inside = f"in {place.name}/ " if place != root else ""
    return inside + (", ".join(names[:_SHOWN]) + more if names else "nothing")


def _holds_photographs(folder: Path, wanted: ClassFilter) -> bool:
    """Return whether a directory has one of a class in it, or a photograph of a known class."""
    for path in folder.iterdir():
        if path.is_dir() and WNID.fullmatch(path.name):
            return True
        if is_photograph(path.name) and not path.is_dir() and wanted.wnid_of(path) is not None:
            return True
    return False


def _list_folder(folder: Path, wanted: ClassFilter) -> list[tuple[Span, int]]:
    """List photographs, with their times of change, of class directories or of one flat directory,
    by name.
    """
    # Class directories if there are any, else one flat directory.
    inner = [folder / w for w in sorted(wanted.wnids) if (folder / w).is_dir()] or [folder]
    found = []
    for place in inner:
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            path = Path(entry.path)
            if (
                not entry.is_file()
                or not is_photograph(path.name)
                or (wnid := wanted.wnid_of(path)) not in wanted.wnids
            ):
                continue
            wanted.on_file()
            state = entry.stat()
            span = Span(wnid, path.stem, str(path.resolve()), 0, state.st_size)
            found.append((span, state.st_mtime_ns))
    return found
