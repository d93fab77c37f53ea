"""The classes of ILSVRC-2012's validation images in one flat directory: one of the known lists.

    ILSVRC2012_validation_ground_truth.txt   of the devkit, numbers that its meta.mat explains
    LOC_val_solution.csv                     Kaggle's: `ILSVRC2012_val_00000001,n01751748 ...`
    val.txt                                  Caffe's: `ILSVRC2012_val_00000001.JPEG 65`
    any list of one wnid a line              line k is ILSVRC2012_val_{k:08d}

The devkit numbers the classes otherwise than everybody since (1 to 1000, not in the order of the
wnids): its numbers are only read together with its meta.mat.
"""

import re
from pathlib import Path
from typing import Final

from dogbird.pieces import WNID
from dogbird.tasks import find_class
from worlds.formats.matlab import load_mat
from worlds.runtime.errors import reading

PLACES: Final = (
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
    "ILSVRC2012_validation_ground_truth.txt",
    "LOC_val_solution.csv",
    "val.txt",
)
KAGGLE: Final = "ILSVRC/Data/CLS-LOC"  # where Kaggle's archive has the photographs


class PositionalLabels(dict[str, str]):
    """Classes from a list without file names: line k is photograph k."""


def find_val_labels(root: Path) -> Path | None:
    """Return the first of PLACES in `root`, or beside Kaggle's ILSVRC directory above it."""
    # Kaggle's lists are beside the photographs' directory, three levels up.
    roots = [root, *([root.parents[2]] if root.as_posix().endswith(KAGGLE) else [])]
    places = (top / place for top in roots for place in PLACES)
    return next((place for place in places if place.is_file()), None)


def read_val_labels(path: Path) -> dict[str, str]:
    """Load the wnid of each validation image, by file name without extension.

    Raises ValueError with the path and the line if the list is not of a known form.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file: give the list of the validation images' classes")
    # Lines become rows of words, without Kaggle's header.
    text = path.read_text(encoding="utf-8", errors="replace")
    rows = [re.split(r"[,\s]+", line.strip()) for line in text.splitlines() if line.strip()]
    rows = [row for row in rows if row[0] != "ImageId"]  # the header of Kaggle's list
    if not rows:
        raise ValueError(f"{path} is empty: expected the classes of the validation images")
    # NAME CLASS on each line.
    if len(rows[0]) > 1:
        if short := next((row for row in rows if len(row) < 2), None):
            raise ValueError(f"{path}: {short[0][:40]!r} has no class: expected NAME CLASS")
        return {Path(row[0]).stem: _wnid(row[1], path) for row in rows}
    # A class alone on each line: line k is photograph k.
    if not re.fullmatch(r"n\d{8}|\d{1,4}", rows[0][0], re.ASCII):
        raise ValueError(f"{path}: {rows[0][0][:40]!r} is neither a wnid nor a class number")
    if WNID.fullmatch(rows[0][0]):
        wnids = [row[0] for row in rows]
    else:
        of_number = _read_devkit(path.parent / "meta.mat")
        wnids = [of_number.get(row[0], row[0]) for row in rows]
    names = (f"ILSVRC2012_val_{k:08d}" for k in range(1, len(wnids) + 1))
    return PositionalLabels(zip(names, (_wnid(wnid, path) for wnid in wnids), strict=True))


def _wnid(text: str, path: Path) -> str:
    """Return the wnid of a list's entry."""
    wnid = find_class(text)
    if wnid is None:
        raise ValueError(f"{path}: {text[:40]!r} is none of ImageNet's 1,000 classes")
    return wnid


def _read_devkit(path: Path) -> dict[str, str]:
    """Return the wnid of each of the devkit's numbers, as text."""
    if not path.is_file():
        raise ValueError(
            f"the devkit's numbers of the validation images need its {path.name} beside them: "
            f"{path} is not there"
        )
    numbers, wnids = "synsets.ILSVRC2012_ID", "synsets.WNID"
    found = load_mat(path, "the devkit's meta.mat", numbers, wnids)
    with reading(path, "the devkit's meta.mat"):
        pairs = zip(found[numbers].tolist(), found[wnids].tolist(), strict=True)
        return {str(int(number)): str(wnid) for number, wnid in pairs}
