"""Other loaders doing the work of this one, for the benchmark: full shuffled epochs of small images
in memory or in the loader's own format, random crop (zero padding 4), flip, float32 NCHW, [-1, 1].

Each peer is used as its documentation would have it used for speed: in batches where it can, with
numpy's vectorized augmentation; without worker processes, which make all of them slower on few
cores, because batches are then copied between processes. (FFCV works in a thread of its own.)
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from worlds.bench.throughput import Batches, augment, torch_batches

_RECORD: Final = 128  # samples in a batched record


@dataclass(frozen=True)
class Peer:
    """`prepare` writes the peer's format into a folder once, `epochs` yields batches for ever."""

    name: str
    package: str
    prepare: Callable[[np.ndarray, np.ndarray, Path], Any]
    epochs: Callable[[Any, int], Batches]
    lingers: bool = False  # goes on working in threads that outlive its iterator

    @property
    def installed(self) -> bool:
        return find_spec(self.package) is not None


def _for_ever(epoch: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from epoch


def _in_memory(images: np.ndarray, labels: np.ndarray, folder: Path) -> Any:
    return images, labels


def _torch_batched(data: Any, batch_size: int) -> Batches:
    return torch_batches(*data, batch_size)


def _torch_each(data: Any, batch_size: int) -> Batches:
    import worlds.runtime.torchvision_ops  # noqa: F401, I001
    from torchvision.transforms import v2

    images, labels = data
    transform = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )

    class Each(Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return transform(torch.from_numpy(images[index]).permute(2, 0, 1)), int(labels[index])

    return _for_ever(DataLoader(Each(), batch_size, shuffle=True, drop_last=True))


def _webdataset_prepare(images: np.ndarray, labels: np.ndarray, folder: Path) -> str:
    import webdataset

    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=200, verbose=0) as writer:
        for start in range(0, len(images) - _RECORD + 1, _RECORD):
            stop = start + _RECORD
            writer.write(
                {
                    "__key__": f"{start:09d}",
                    "x.npy": images[start:stop],
                    "y.npy": labels[start:stop],
                }
            )
    return str(folder)


def _webdataset(folder: Any, batch_size: int) -> Batches:
    import webdataset

    generator = np.random.default_rng(0)
    tars = sorted(str(path) for path in Path(folder).glob("*.tar"))
    records = webdataset.WebDataset(tars, shardshuffle=len(tars)).decode()
    records = records.to_tuple("x.npy", "y.npy").shuffle(50)
    pixels: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for x, y in _for_ever(records):
        pixels.append(x)
        labels.append(y)
        if len(pixels) * _RECORD >= batch_size:
            yield (
                augment(np.concatenate(pixels), generator),
                torch.from_numpy(np.concatenate(labels)),
            )
            pixels, labels = [], []


def _hugging_face_prepare(images: np.ndarray, labels: np.ndarray, folder: Path) -> Any:
    import datasets

    rows = {"image": [image.tobytes() for image in images], "label": labels}
    datasets.Dataset.from_dict(rows).save_to_disk(str(folder))
    return folder, images.shape[1:]


def _hugging_face(prepared: Any, batch_size: int) -> Batches:
    import datasets

    folder, shape = prepared
    generator = np.random.default_rng(0)

    def transform(rows: dict[str, Any]) -> dict[str, Any]:
        pixels = np.frombuffer(b"".join(rows["image"]), dtype=np.uint8).reshape(-1, *shape)
        return {"x": augment(pixels, generator), "y": torch.tensor(rows["label"])}

    rows = datasets.load_from_disk(str(folder)).with_transform(transform)
    while True:
        order = generator.permutation(len(rows))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            batch = rows[order[start : start + batch_size]]
            yield batch["x"], batch["y"]


def _ffcv_prepare(images: np.ndarray, labels: np.ndarray, folder: Path) -> Path:
    import worlds.runtime.torchvision_ops  # noqa: F401, I001
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    path = folder / "images.beton"
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    samples = list(zip(images, labels.tolist(), strict=True))
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(samples)
    return path


@cache  # its pipelines are compiled anew, for seconds, in each loader
def _ffcv_loader(path: Path, batch_size: int) -> Any:
    import worlds.runtime.torchvision_ops  # noqa: F401, I001
    from ffcv import transforms
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    half = np.full(3, 127.5)
    image = [
        SimpleRGBImageDecoder(),
        transforms.RandomHorizontalFlip(),
        transforms.RandomTranslate(padding=4),  # the crop
        transforms.NormalizeImage(half, half, np.dtype(np.float32)),
        transforms.ToTensor(),
        transforms.ToTorchImage(channels_last=False),
    ]
    return Loader(
        str(path),
        batch_size,
        num_workers=1,
        os_cache=True,
        order=OrderOption.RANDOM,
        pipelines={"image": image, "label": [IntDecoder(), transforms.ToTensor()]},
    )


def _ffcv(path: Any, batch_size: int) -> Batches:
    while True:
        epoch = iter(_ffcv_loader(path, batch_size))
        try:
            for images, labels in epoch:
                yield images, labels[:, 0]
        finally:
            epoch.close()


def _stacked(samples: list[dict[str, Any]], shape: Any, generator: np.random.Generator) -> Any:
    pixels = np.frombuffer(b"".join(sample["x"] for sample in samples), dtype=np.uint8)
    labels = torch.tensor([sample["y"] for sample in samples])
    return augment(pixels.reshape(-1, *shape), generator), labels


def _streaming_prepare(images: np.ndarray, labels: np.ndarray, folder: Path) -> Any:
    import worlds.runtime.torchvision_ops  # noqa: F401, I001
    from streaming import MDSWriter  # type: ignore[import-not-found,unused-ignore]

    with MDSWriter(out=str(folder), columns={"x": "bytes", "y": "int"}, exist_ok=True) as writer:
        for image, label in zip(images, labels.tolist(), strict=True):
            writer.write({"x": image.tobytes(), "y": label})
    return folder, images.shape[1:]


def _streaming(prepared: Any, batch_size: int) -> Batches:
    import worlds.runtime.torchvision_ops  # noqa: F401, I001
    from streaming import StreamingDataset

    folder, shape = prepared
    generator = np.random.default_rng(0)
    rows = StreamingDataset(local=str(folder), shuffle=True, batch_size=batch_size)
    return _for_ever(
        DataLoader(
            rows,
            batch_size,
            drop_last=True,
            collate_fn=lambda samples: _stacked(samples, shape, generator),
        )
    )


def _litdata_prepare(images: np.ndarray, labels: np.ndarray, folder: Path) -> Any:
    import worlds.runtime.torchvision_ops  # noqa: F401, I001
    from litdata.streaming import Cache

    os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"  # else its constructors ask PyPI
    cache = Cache(str(folder), chunk_bytes="64MB")
    for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        cache[i] = {"x": image.tobytes(), "y": label}
    cache.done()
    cache.merge()
    return folder, images.shape[1:]


def _litdata(prepared: Any, batch_size: int) -> Batches:
    import worlds.runtime.torchvision_ops  # noqa: F401, I001
    from litdata import StreamingDataLoader, StreamingDataset

    folder, shape = prepared
    generator = np.random.default_rng(0)
    return _for_ever(
        StreamingDataLoader(
            StreamingDataset(str(folder), shuffle=True),
            batch_size=batch_size,
            drop_last=True,
            collate_fn=lambda samples: _stacked(samples, shape, generator),
        )
    )


def _grain(data: Any, batch_size: int) -> Batches:
    import grain  # type: ignore[import-not-found,unused-ignore]

    images, labels = data
    generator = np.random.default_rng(0)

    def batch(indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return augment(images[indices], generator), torch.from_numpy(labels[indices])

    indices = grain.MapDataset.range(len(images)).shuffle(seed=0).repeat()
    batches = indices.batch(batch_size, drop_remainder=True).map(batch)
    in_this_thread = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return iter(batches.to_iter_dataset(in_this_thread))


PEERS: Final = (
    Peer("torch DataLoader, batched numpy", "torch", _in_memory, _torch_batched),
    Peer("torch DataLoader, torchvision v2 per sample", "torchvision", _in_memory, _torch_each),
    Peer("webdataset, batched records", "webdataset", _webdataset_prepare, _webdataset),
    Peer("Hugging Face datasets, vectorized", "datasets", _hugging_face_prepare, _hugging_face),
    Peer("FFCV, numba normalization", "ffcv", _ffcv_prepare, _ffcv),
    Peer("grain, batched", "grain", _in_memory, _grain),
    Peer("litdata, batched collate", "litdata", _litdata_prepare, _litdata, True),
    Peer("mosaicml-streaming, batched collate", "streaming", _streaming_prepare, _streaming, True),
)
