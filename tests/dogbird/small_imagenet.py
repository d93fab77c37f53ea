"""A small ImageNet in each of its forms: two synthetic photographs for each of DogBird's classes in
train, one in val, and of two classes that must be left out.
"""

import io
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from dogbird.tasks import dogbird_task, ilsvrc2012

OTHERS = ("n02457408", "n07615774")  # a sloth, an ice lolly
Photographs = dict[str, list[tuple[str, str, bytes]]]  # by split: wnid, name, encoded


def jpeg(seed: int, width: int = 60, height: int = 45, mode: str = "RGB", **options) -> bytes:
    """Smooth noise as a JPEG."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


@cache
def photographs() -> Photographs:
    wnids = sorted([*dogbird_task().labels, *OTHERS])
    train = [(w, f"{w}_{k}", jpeg(2 * n + k)) for n, w in enumerate(wnids) for k in range(2)]
    val = [(w, f"ILSVRC2012_val_{n + 1:08d}", jpeg(1000 + n)) for n, w in enumerate(wnids)]
    return {"train": train, "val": val}


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_folder(root: Path, content: Photographs | None = None) -> Path:
    for split, rows in (content or photographs()).items():
        for wnid, name, data in rows:
            path = root / split / wnid / f"{name}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return root


def write_tars(root: Path) -> Path:
    """As released: a tar of tars, a tar of files, and the list of their classes."""
    root.mkdir(parents=True)
    rows = photographs()
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid in sorted({wnid for wnid, _, _ in rows["train"]}):
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w") as inner:
                for _, name, data in (row for row in rows["train"] if row[0] == wnid):
                    add(inner, f"{name}.JPEG", data)
            add(outer, f"{wnid}.tar", stream.getvalue())
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as tar:
        for _, name, data in rows["val"]:
            add(tar, f"{name}.JPEG", data)
    lines = [f"{name}.JPEG {wnid}\n" for wnid, name, _ in rows["val"]]
    (root / "val.txt").write_text("".join(lines))
    return root


def write_webdataset(root: Path) -> Path:
    """With webdataset's own writer: PAX headers, class numbers in .cls."""
    import webdataset

    root.mkdir(parents=True)
    numbers = {wnid: number for number, wnid in enumerate(ilsvrc2012())}
    for split, named in (("train", "train"), ("val", "validation")):
        pattern = str(root / f"imagenet1k-{named}-%04d.tar")
        with webdataset.ShardWriter(pattern, maxcount=40, verbose=0) as writer:
            for k, (wnid, _, data) in enumerate(photographs()[split]):
                writer.write({"__key__": f"{k:06d}", "jpg": data, "cls": numbers[wnid]})
    return root


def write_tables(root: Path, suffix: str) -> Path:
    """Parquet files as the Hub's, or Arrow files as `save_to_disk` writes them."""
    import pyarrow
    from pyarrow import parquet

    numbers = {wnid: number for number, wnid in enumerate(ilsvrc2012())}
    for split, rows in photographs().items():
        images = [{"bytes": data, "path": f"{name}.JPEG"} for _, name, data in rows]
        labels = [numbers[wnid] for wnid, _, _ in rows]
        table = pyarrow.table({"image": images, "label": labels})
        named = {"train": "train", "val": "validation"}[split]
        folder = root / (named if suffix == "arrow" else "data")
        folder.mkdir(parents=True, exist_ok=True)
        if suffix == "parquet":
            parquet.write_table(table, folder / f"{named}-00000-of-00001.parquet")
            continue
        with pyarrow.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as sink:
            sink.write_table(table)
    return root
