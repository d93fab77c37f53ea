"""The classes of ILSVRC-2012's validation images, where they lie flat: one of the known lists.

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

from dogbird.tasks import ilsvrc2012

PLACES: Final = (
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
    "ILSVRC2012_validation_ground_truth.txt",
    "LOC_val_solution.csv",
    "val.txt",
)
_WNID: Final = re.compile(r"n\d{8}")


def find_val_labels(root: Path) -> Path | None:
    """The first of PLACES that lies in `root`."""
    return next((root / place for place in PLACES if (root / place).is_file()), None)


def read_val_labels(path: Path) -> dict[str, str]:
    """The wnid of each validation image by its name without extension."""
    if not path.is_file():
        raise ValueError(f"{path} is no file: give the list of the validation images' classes")
    rows = [
        re.split(r"[,\s]+", line.strip()) for line in path.read_text().splitlines() if line.strip()
    ]
    rows = [row for row in rows if row[0] != "ImageId"]  # the header of Kaggle's list
    if not rows:
        raise ValueError(f"{path} is empty: expected the classes of the validation images")
    if len(rows[0]) > 1:
        return {Path(row[0]).stem: _wnid(row[1], path) for row in rows}
    if _WNID.fullmatch(rows[0][0]):
        wnids = [row[0] for row in rows]
    else:
        of_number = _read_devkit(path.parent / "meta.mat")
        wnids = [of_number.get(row[0], row[0]) for row in rows]
    return {f"ILSVRC2012_val_{k:08d}": _wnid(wnid, path) for k, wnid in enumerate(wnids, 1)}


def _wnid(text: str, path: Path) -> str:
    """A wnid as it is, or that of a class number."""
    wnids = list(ilsvrc2012())
    if text.isdigit() and int(text) < len(wnids):
        return wnids[int(text)]
    if text not in ilsvrc2012():
        raise ValueError(f"{path}: {text!r} is none of ImageNet's 1,000 classes")
    return text


def _read_devkit(path: Path) -> dict[str, str]:
    """The wnid of each of the devkit's numbers, as text."""
    if not path.is_file():
        raise ValueError(
            f"the devkit's numbers of the validation images need its {path.name} beside them: "
            f"{path} is not there"
        )
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ValueError(f"{path} needs scipy to be read: pip install scipy") from error
    rows = loadmat(path, squeeze_me=True)["synsets"]
    numbers, wnids = rows["ILSVRC2012_ID"], rows["WNID"]
    return {str(int(k)): str(wnid) for k, wnid in zip(numbers, wnids, strict=True)}
