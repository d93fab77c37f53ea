"""Every reader of files that others may have made: how a valid directory is written, and read."""

import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.cifar5m.small_set import make_set
from tests.dogbird.small_imagenet import jpeg
from tests.worlds.made_runs import config, write_pair

_BYTES = "the form carries no hash of its content"
_OPEN = "opening reads sizes and labels, cifar5m-verify hashes"


@dataclass(frozen=True)
class Reader:
    """`make` writes a valid directory, `read` returns all that it holds; `silent` says why another
    content may be read without a word.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    silent: str
    share: float = 1.0  # of the inputs that other readers get


def digest(*values: Any) -> str:
    """One hash of arrays, tensors, text and plain values."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, torch.Tensor):
            value = value.detach().float().numpy()
        if isinstance(value, np.ndarray):
            found.update(f"{value.dtype} {value.shape}".encode())
            value = value.tobytes()
        found.update(value if isinstance(value, bytes) else repr(value).encode(errors="replace"))
    return found.hexdigest()


def pictures(count: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def labels(count: int) -> np.ndarray:
    return np.arange(count) % 10


def encoded(image: np.ndarray, form: str = "png", mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).convert(mode).save(stream, form)
    return stream.getvalue()


# Stores.


def read_store(path: Path, **options: Any) -> str:
    from worlds import open_store

    store, parts = open_store(path, **options), []
    for split in store.splits.values():
        pixels = split.gather(np.arange(len(split)))
        parts += [split.name, split.class_names, split.labels, pixels]
        parts += [] if split.probabilities is None else [np.asarray(split.probabilities)]
    return digest(*parts)


def verify_dataset(folder: Path) -> str:
    import cifar5m

    report = cifar5m.verify(folder, workers=1)
    if not report.ok:
        raise ValueError(" / ".join(str(problem) for problem in report.problems))
    return digest(read_store(folder), json.loads((folder / "plan.json").read_text()))


def make_labeled(folder: Path) -> None:
    import cifar5m

    make_set(folder)
    cifar5m.label(folder, labeler="tiny", batch_size=4)


def make_pack(folder: Path) -> None:
    from worlds import ArrayStore, write_pack

    store = ArrayStore(pictures(12), labels(12), pictures(4), labels(4))
    write_pack(list(store.splits.values()), folder)


def read_pack(folder: Path) -> str:
    from worlds import verify_pack

    verify_pack(folder)
    return read_store(folder)


def make_arrays(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in (0, 1, 5):
        x, y = pictures(6 + number, 32), labels(6 + number)
        np.savez(folder / f"part{number}.npz", X=x, Y=y)


def import_parts(folder: Path) -> str:
    return read_import(sorted(folder.glob("*.npz")))


def read_import(paths: list[Path], **options: Any) -> str:
    from cifar5m.shards.import_sources import open_source
    from cifar5m.shards.importing import plan_of

    source = open_source(paths, **options)
    try:
        images = [np.asarray(image) for image in source.pictures(0, len(source.labels))]
    finally:
        source.close()
    return digest(*images, source.labels, source.class_names, plan_of(source, 10).content())


def make_compressed(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.savez_compressed(folder / "pool.npz", image=pictures(8, 16), label=labels(8))


def make_zip(folder: Path) -> None:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "edm.zip", "w") as archive:
        rows = [[f"00000/img{k:08d}.png", int(k % 10)] for k in range(6)]
        archive.writestr("dataset.json", json.dumps({"labels": rows}))
        for (name, _), image in zip(rows, pictures(6), strict=True):
            archive.writestr(name, encoded(image))


def make_folder(folder: Path) -> None:
    forms = ["png", "jpeg", "gif", "bmp", "webp", "ppm", "tiff"]
    modes = ["RGB", "L", "P", "RGB", "RGB", "RGB", "RGBA"]
    for split in ("train", "val"):
        for k, (form, mode) in enumerate(zip(forms, modes, strict=True)):
            path = folder / "images" / split / f"c{k % 2}" / f"{k}.{form}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(pictures(1)[0], form, mode))


# CIFAR, MNIST, SVHN and their like.


def make_pickles(folder: Path, protocol: int = 2) -> None:
    inside = folder / "cifar-10-batches-py"
    inside.mkdir(parents=True)
    for k, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        pixels = np.random.default_rng(k).integers(0, 256, (3, 3072), dtype=np.uint8)
        batch = {b"data": pixels, b"labels": [k, 1, 9]}
        if protocol == 5:
            batch = {"data": pixels, "labels": list(np.arange(3))}
        (inside / name).write_bytes(pickle.dumps(batch, protocol=protocol))


def make_binary(folder: Path) -> None:
    inside = folder / "cifar-10-batches-bin"
    inside.mkdir(parents=True)
    for k, name in enumerate([*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]):
        rows = np.random.default_rng(k).integers(0, 256, (2, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        (inside / name).write_bytes(rows.tobytes())


def make_archive(folder: Path) -> None:
    make_pickles(folder / "x")
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(folder / "x" / "cifar-10-batches-py", "cifar-10-batches-py")
    shutil.rmtree(folder / "x")


def make_pool(folder: Path) -> None:
    folder.mkdir(parents=True)
    content = {"data": pictures(5, 32), "extrapolated_targets": [0, 1, 2, 3, 9]}
    (folder / "pool.pickle").write_bytes(pickle.dumps(content))


def make_indices(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "a.npy", np.array([3, 1, 2]))
    (folder / "b.txt").write_text("5\n4\n0\n")


def read_indices(folder: Path) -> str:
    from worlds.data.subsets import _rows

    return digest(*(_rows(20, str(folder / name)) for name in ("a.npy", "b.txt")))


def make_hundred(folder: Path) -> None:
    inside = folder / "cifar-100-python"
    inside.mkdir(parents=True)
    for name in ("train", "test"):
        batch = {"data": pictures(3, 32).reshape(3, -1), "fine_labels": [0, 50, 99]}
        (inside / name).write_bytes(pickle.dumps(batch))
    names = {"fine_label_names": [f"name {k}" for k in range(100)]}
    (inside / "meta").write_bytes(pickle.dumps(names))


def make_idx(folder: Path) -> None:
    folder.mkdir(parents=True)
    for stem, pack in (("train", gzip.compress), ("t10k", bytes)):
        x, y = pictures(5, 6)[..., 0], labels(5).astype(np.uint8)
        end = ".gz" if stem == "train" else ""
        head = struct.pack(">HBBIII", 0, 8, 3, *x.shape)
        (folder / f"{stem}-images-idx3-ubyte{end}").write_bytes(pack(head + x.tobytes()))
        head = struct.pack(">HBBI", 0, 8, 1, len(y))
        (folder / f"{stem}-labels-idx1-ubyte{end}").write_bytes(pack(head + y.tobytes()))


def make_svhn(folder: Path) -> None:
    from scipy.io import savemat

    folder.mkdir(parents=True)
    for split in ("train", "test"):
        x = pictures(4, 32).transpose(1, 2, 3, 0)
        savemat(folder / f"{split}_32x32.mat", {"X": x, "y": np.array([[1], [2], [3], [10]])})


def make_class_files(folder: Path) -> None:
    folder.mkdir(parents=True)
    for k in range(3):
        np.save(folder / f"class{k}.npy", pictures(2 + k))


def make_parquet(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True)
    for split in ("train", "test"):
        images = [{"bytes": encoded(image), "path": "x.png"} for image in pictures(4)]
        table = pyarrow.table({"img": images, "label": [0, 1, 2, 1]})
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


# Runs, reports, checkpoints.

REAL = config(steps=12, log=3, n=100)


def make_runs(folder: Path) -> None:
    from worlds.experiments.spec import Experiment, Group, write_experiment

    real, ideal = write_pair(folder, REAL, trials=(0, 1))
    group = Group("a", tuple(r.config for r in real), tuple(r.config for r in ideal))
    write_experiment(Experiment("fig", "A figure", "curves", (group,)), folder)


def read_runs(folder: Path) -> str:
    from worlds import find_runs

    return digest([(r.config, r.description, r.rows, r.summary) for r in find_runs(folder)])


def report_runs(folder: Path) -> str:
    """What a report says of its runs, up to the drawing."""
    from worlds.report.collect import automatic, collect, mixed_folders, read_library
    from worlds.report.measure import judge, measure
    from worlds.report.sentences import sentence

    library = read_library([folder])
    said: list[Any] = [library.problems, mixed_folders(library.runs)]
    for experiment in [*library.experiments, *automatic(library.runs, 0.03)]:
        found = collect(experiment, library.runs)
        try:
            measured = measure(experiment, found)
            said += [sentence(experiment, measured), judge(experiment, measured)]
        except ValueError as error:
            said.append(str(error))
    if library.problems:
        raise ValueError(" / ".join(library.problems))
    return digest(said)


@cache
def toy() -> Any:
    from worlds import ArrayStore
    from worlds.training.build import Data

    return Data.of(ArrayStore(pictures(60, 32), labels(60), pictures(10, 32), labels(10)))


TOY = replace(
    config(arch="mlp_2x4", n=40, steps=6, log=2, batch_size=8), train_eval=8, test_eval=8, unit=1
)


def make_checkpoint(folder: Path) -> None:
    from worlds import train

    class Stop(Exception):
        pass

    def stop(updates: int) -> None:
        if updates == 4:
            raise Stop

    try:
        train(TOY, toy(), folder, on_step=stop)
    except Stop:
        return
    raise AssertionError("the run was not stopped")


def resume_run(folder: Path) -> str:
    from worlds import train

    run = train(TOY, toy(), folder)
    rows = [{k: v for k, v in row.items() if "seconds" not in k} for row in run.rows]
    return digest(rows, run.config)


def make_weights(folder: Path) -> None:
    from safetensors.torch import save_file

    from worlds.models import create

    folder.mkdir(parents=True)
    state = create("mlp_2x4", 10, 32).state_dict()
    save_file(state, folder / "w.safetensors")
    torch.save(state, folder / "w.pt")


def begin_run(folder: Path) -> str:
    from worlds.training.build import make_model

    found = []
    for name in ("w.safetensors", "w.pt"):
        torch.manual_seed(0)
        model = make_model(replace(TOY, initial=str(folder / name)), toy())
        found += [*model.state_dict().values()]
    return digest(*found)


# Networks.


def make_generator(folder: Path) -> None:
    from tests.cifar5m.tiny_networks import save_unet

    save_unet(folder)


def load_generator(folder: Path) -> str:
    from cifar5m.sampling.unet import load_unet
    from cifar5m.weights.sources import find_generator

    network = load_unet(find_generator(str(folder)))
    return digest(repr(network.config), *network.state_dict().values())


def make_labeler(folder: Path) -> None:
    from tests.cifar5m.tiny_networks import save_labeler

    save_labeler(folder)


def load_labeler(folder: Path) -> str:
    from cifar5m.labels.labeler import Labeler, load_classifier
    from cifar5m.weights.sources import find_labeler

    network, preprocessing = load_classifier(find_labeler(str(folder)))
    labeler = Labeler(network, preprocessing, torch.device("cpu"), "fp32", 2)
    return digest(labeler(torch.from_numpy(pictures(2, 32))), preprocessing)


def make_checkpoints(folder: Path) -> None:
    """Weights of a U-Net in each container."""
    folder.mkdir(parents=True)
    state = {"conv_in.weight": torch.arange(24.0).view(2, 3, 4), "conv_in.bias": torch.ones(3)}
    torch.save(state, folder / "a.ckpt")
    torch.save(state, folder / "b.bin", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(folder / "c.zip", "w") as archive:
        archive.write(folder / "a.ckpt", "unet/diffusion_pytorch_model.bin")


def read_checkpoints(folder: Path) -> str:
    from cifar5m.weights.convert import read_state

    states = [read_state(path) for path in (folder / n for n in ("a.ckpt", "b.bin", "c.zip"))]
    return digest(*(v for state in states for _, v in sorted(state.items())))


# ImageNet.

WNIDS = ("n01514668", "n02087394")


def rows_of_imagenet(split: str) -> list[tuple[str, str, bytes]]:
    if split == "train":
        return [(w, f"{w}_{k}", jpeg(k, 40, 30)) for w in WNIDS for k in range(2)]
    return [(w, f"ILSVRC2012_val_{k + 1:08d}", jpeg(k, 30, 40)) for k, w in enumerate(WNIDS)]


def read_imagenet(root: Path) -> str:
    from dogbird.convert import BrokenPhotographError, Format, convert
    from dogbird.sources import open_source

    source, found, form = open_source(root, WNIDS), [], Format(size=32)
    for piece in source.pieces:
        for wnid, name, data in piece.read():
            try:
                found += [wnid, name, convert(data, form)]
            except BrokenPhotographError:
                found += [wnid, name, "broken"]
    return digest(*found)


def make_imagenet_folder(root: Path) -> None:
    for split in ("train", "val"):
        for wnid, name, data in rows_of_imagenet(split):
            path = root / split / (wnid if split == "train" else "") / f"{name}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    lines = [f"{name}.JPEG {wnid}\n" for wnid, name, _ in rows_of_imagenet("val")]
    (root / "val.txt").write_text("".join(lines))


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def make_imagenet_tars(root: Path) -> None:
    root.mkdir(parents=True)
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid in WNIDS:
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w") as inner:
                for w, name, data in rows_of_imagenet("train"):
                    if w == wnid:
                        add(inner, f"{name}.JPEG", data)
            add(outer, f"{wnid}.tar", stream.getvalue())
    with tarfile.open(root / "imagenet-val-0.tar", "w") as tar:  # a WebDataset
        for wnid, name, data in rows_of_imagenet("val"):
            add(tar, f"{name}.jpg", data)
            add(tar, f"{name}.cls", wnid.encode())


def make_imagenet_tables(root: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    from dogbird.tasks import ilsvrc2012

    root.mkdir(parents=True)
    numbers = {wnid: number for number, wnid in enumerate(ilsvrc2012())}
    for split in ("train", "val"):
        rows = rows_of_imagenet(split)
        images = [{"bytes": data, "path": f"{name}.JPEG"} for _, name, data in rows]
        table = pyarrow.table({"image": images, "label": [numbers[w] for w, _, _ in rows]})
        if split == "train":
            parquet.write_table(table, root / "train-0.parquet")
            continue
        (root / "val").mkdir()
        with pyarrow.ipc.new_stream(root / "val" / "data-0.arrow", table.schema) as sink:
            sink.write_table(table)


def make_lists(root: Path) -> None:
    from scipy.io import savemat

    root.mkdir(parents=True)
    (root / "names.txt").write_text("".join(f"val_{k}.JPEG {k}\n" for k in range(6)))
    (root / "kaggle.csv").write_text("ImageId,PredictionString\nval_1,n01514668 1 2 3 4\n")
    (root / "wnids.txt").write_text("n01514668\nn02087394\n")
    (root / "devkit").mkdir()
    (root / "devkit" / "truth.txt").write_text("1\n2\n1\n")
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O")]
    rows = np.array([(1, "n01514668"), (2, "n02087394")], dtype=kind)
    savemat(root / "devkit" / "meta.mat", {"synsets": rows})


def read_lists(root: Path) -> str:
    from dogbird.val_labels import read_val_labels

    names = ("names.txt", "kaggle.csv", "wnids.txt", "devkit/truth.txt")
    return digest([read_val_labels(root / name) for name in names])


def make_wordnet(root: Path) -> None:
    from tests.dogbird.small_wordnet import write_wordnet

    write_wordnet(root)


def read_wordnet(root: Path) -> str:
    import nltk

    from dogbird.wordnet import classes_below, open_wordnet

    before = list(nltk.data.path)
    try:
        return digest(classes_below("hunting_dog.n.01", WNIDS, open_wordnet(root)))
    finally:
        nltk.data.path[:] = before


# Streams, audits, cards, previews.


def make_stream(folder: Path) -> None:
    folder.mkdir(parents=True)
    for k in range(2):
        with tarfile.open(folder / f"train-{k}.tar", "w") as tar:
            for n, image in enumerate(pictures(3)):
                add(tar, f"{n}.png", encoded(image))
                add(tar, f"{n}.cls", str(n).encode())


def read_stream(folder: Path) -> str:
    from worlds.data.remote import find_shards, read_shard

    shards = [read_shard(shard) for shard in find_shards(str(folder)).items]
    return digest(*(array for pair in shards for array in pair))


def make_card(folder: Path) -> None:
    make_labeled(folder)
    plan = json.loads((folder / "plan.json").read_text())
    audit = {"dataset": {"fingerprint": plan["fingerprint"]}, "cifar10": {"name": "CIFAR-10"}}
    audit |= {"summary": {"images": 19, "fid": 1.5}}
    (folder / "audit").mkdir()
    (folder / "audit" / "audit.json").write_text(json.dumps(audit))
    (folder / "NOTES.txt").write_text("notes")
    plan["beside"] = ["NOTES.txt"]
    (folder / "plan.json").write_text(json.dumps(plan))


def read_card(folder: Path) -> str:
    """Card and list of files of a dataset, without the verification before it."""
    from cifar5m.hub.card import Facts
    from cifar5m.hub.run import planned_files
    from worlds.formats.plan import load_plan

    facts = Facts(folder, "user/name", load_plan(folder).shards, 0)
    from cifar5m.hub.card import made_files

    content, files = made_files(facts), planned_files(facts)
    places = [os.path.realpath(folder / file.path) for file in files]
    assert all(place.startswith(str(folder)) for place in places), places
    return digest(content, [(file.path, file.bytes) for file in files])


def read_preview(folder: Path) -> str:
    from cifar5m.preview import draw_sheet, survey

    found = survey(folder)
    return digest(found.title, np.asarray(draw_sheet(found, 1, 0)), found.confidence)


def make_facts(folder: Path) -> None:
    from cifar5m.auditing.shards import IMAGES

    (folder / IMAGES).mkdir(parents=True)
    np.savez(folder / IMAGES / "train-00000.npz", key="x", pixel_ratio=np.ones((5, 2), np.float32))


def read_facts(folder: Path) -> str | None:
    from cifar5m.auditing.shards import read_facts as read
    from worlds.formats.layout import Shard

    found = read(folder, Shard("train", 0, 1, 0, 5))
    if not found:
        raise ValueError("examined again")
    return digest(sorted((k, v.tolist()) for k, v in found.items()))


def make_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    image = pictures(1, 16)[0]
    for mode in ("RGB", "L", "P", "RGBA", "LA", "1", "I;16"):
        if mode == "I;16":
            deep = Image.fromarray(image[..., 0].astype(np.uint16) * 257)
            deep.save(folder / "deep.png")
            continue
        (folder / f"{mode}.png").write_bytes(encoded(image, mode=mode))
    for form in ("jpeg", "gif", "bmp", "webp", "ppm", "tiff"):
        (folder / f"image.{form}").write_bytes(encoded(image, form))
    (folder / "cmyk.jpeg").write_bytes(encoded(image, "jpeg", "CMYK"))


def read_images(folder: Path) -> str:
    """Each file by both decoders; one that is refused is left out by both."""
    from dogbird.convert import BrokenPhotographError, decode
    from worlds.data.photographs import decode_photograph
    from worlds.formats.shards import decode_image

    found, refused = [], []
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        try:
            found.append(decode_image(path.read_bytes()))
        except ValueError as error:
            refused.append(str(error))
        try:
            found.append(decode_photograph(path.read_bytes()))
        except ValueError as error:
            refused.append(str(error))
        try:
            found.append(np.asarray(decode(path.read_bytes())))
        except BrokenPhotographError as error:
            refused.append(str(error))
    if refused:
        raise ValueError(" / ".join(refused))
    return digest(*found)


READERS: dict[str, Reader] = {
    "shards": Reader(make_set, read_store, _OPEN),
    "verify": Reader(make_set, verify_dataset, "a field that says nothing of the content"),
    "verify labelings": Reader(make_labeled, verify_dataset, "a field said for people"),
    "pack": Reader(make_pack, read_store, "opening reads sizes, verify_pack hashes"),
    "pack, import": Reader(make_pack, lambda d: read_import([d]), "names in the manifest"),
    "pickled pool": Reader(make_pool, read_store, _BYTES),
    "indices": Reader(make_indices, read_indices, _BYTES),
    "pack, verified": Reader(make_pack, read_pack, "names in the manifest"),
    "npz": Reader(make_arrays, read_store, _BYTES),
    "npz, import": Reader(make_arrays, import_parts, _BYTES),
    "npz, compressed": Reader(make_compressed, import_parts, _BYTES),
    "zip of EDM": Reader(make_zip, lambda d: read_import([d / "edm.zip"]), _BYTES),
    "image directories": Reader(make_folder, lambda d: read_import([d / "images"]), _BYTES),
    "CIFAR pickles": Reader(make_pickles, read_store, _BYTES),
    "CIFAR pickles 5": Reader(lambda d: make_pickles(d, 5), read_store, _BYTES),
    "CIFAR binary": Reader(make_binary, read_store, _BYTES),
    "CIFAR tar.gz": Reader(make_archive, read_store, _BYTES),
    "CIFAR-100": Reader(make_hundred, read_store, _BYTES),
    "idx": Reader(make_idx, read_store, _BYTES),
    "SVHN": Reader(make_svhn, read_store, _BYTES, 0.1),
    "class files": Reader(make_class_files, read_store, _BYTES),
    "Parquet": Reader(make_parquet, read_store, _BYTES),
    "runs": Reader(make_runs, read_runs, "numbers of a run are whatever the file says"),
    "report": Reader(make_runs, report_runs, "numbers of a run are whatever the file says"),
    "checkpoint": Reader(make_checkpoint, resume_run, "rows before the checkpoint", 0.5),
    "initial weights": Reader(make_weights, begin_run, _BYTES),
    "generator": Reader(make_generator, load_generator, _BYTES, 0.5),
    "labeler": Reader(make_labeler, load_labeler, _BYTES, 0.5),
    "weights files": Reader(make_checkpoints, read_checkpoints, _BYTES),
    "ImageNet files": Reader(make_imagenet_folder, read_imagenet, _BYTES),
    "ImageNet tars": Reader(make_imagenet_tars, read_imagenet, _BYTES),
    "ImageNet tables": Reader(make_imagenet_tables, read_imagenet, _BYTES),
    "validation lists": Reader(make_lists, read_lists, _BYTES, 0.1),
    "WordNet": Reader(make_wordnet, read_wordnet, _BYTES, 0.2),
    "streams": Reader(make_stream, read_stream, _BYTES),
    "card": Reader(make_card, read_card, "the verification comes before it"),
    "preview": Reader(make_set, read_preview, _OPEN),
    "audit facts": Reader(make_facts, read_facts, _BYTES),
    "images": Reader(make_images, read_images, _BYTES),
}


def json_readers() -> dict[str, Reader]:
    """The JSON files of tests/test_json_fuzz.py, each alone in its directory."""
    from tests.test_json_fuzz import FORMATS
    from worlds.runtime.files import json_text, write_json

    def made(content: Callable[[], Any], file: str) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            write_json(folder / file, content())
            if file.endswith("l"):
                (folder / file).write_bytes(json_text(content()))

        return make

    silent = "a value of the same type"
    return {
        f"json: {name}": Reader(made(content, file), read, silent, 0.3)
        for name, (content, file, read) in FORMATS.items()
    }
