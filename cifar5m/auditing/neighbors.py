"""The nearest neighbors of many images in a reference set, exactly: tiled matrix products with
bounded memory.

    train = pixel_reference(images, torch.device("cuda"))   # uint8 (R, 32, 32, 3)
    found = train.nearest(generated, k=50)                   # uint8 (N, 32, 32, 3)

|q - r|^2 = |q|^2 + |r|^2 - 2 q.r, and q.r is a matrix product. Pixels less 128 are int8 and their
products add up in int32 without rounding, so the squared distance is an exact integer. Where a
device has no exact int8 product, or float32 is faster (processors without VNNI), the product is
float32: it selects somewhat more rows than asked for, whose squared distances are then computed
from integers, so both ways find the same. Features are float32 throughout.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

K = 50  # neighbors whose mean a ratio is taken to (Carlini et al. 2023, section 5)
MEMORY = 256 << 20  # bytes of one tile of scores and what the selection needs beside it
_TILE = 16_384  # reference rows a product
_SCORE_BYTES = 16  # a score, its copy while the nearest are selected, and an int64 index
_LEAST_QUERIES, _ROWS_MULTIPLE = 32, 8  # what an int8 product on CUDA asks for
_SPARE = 16  # rows that a float32 product selects beside the k, whose order it may round


@dataclass(frozen=True)
class Neighbors:
    """For each query its k nearest rows of the reference, nearest first.

    `distance` of pixels is the root mean square difference in gray levels, 0 to 255; of features
    the Euclidean distance of the vectors at unit length, 0 to 2.
    """

    index: np.ndarray  # int64 (N, k)
    distance: np.ndarray  # float32 (N, k)

    @property
    def ratio(self) -> np.ndarray:
        """Float32 (N,): the nearest one's distance as a share of the mean of all k.

        Carlini et al. (2023, section 5) call an image memorized by this share, because a plain
        image is close to many others and its small distance alone means little. Where all k are
        equal to the query the share is 0.
        """
        mean = self.distance.mean(axis=1)
        return self.distance[:, 0] / np.maximum(mean, np.finfo(np.float32).tiny)


def pixel_reference(images: np.ndarray, device: torch.device, memory: int = MEMORY) -> "Reference":
    """Make a reference of uint8 (R, height, width, 3) images."""
    return Reference(_pixels(images, device), memory)


def feature_reference(
    features: np.ndarray, device: torch.device, memory: int = MEMORY
) -> "Reference":
    """Make a reference of float (R, F) feature vectors, which are scaled to unit length."""
    return Reference(_unit_length(features, device), memory)


class Reference:
    """Rows on a device, int8 pixels or float32 features, among which neighbors are looked for."""

    def __init__(self, rows: torch.Tensor, memory: int = MEMORY) -> None:
        if rows.ndim != 2 or not len(rows):
            raise ValueError(f"a reference needs rows of numbers, got {tuple(rows.shape)}")
        self.device, self.count, self.is_pixels = rows.device, len(rows), rows.dtype == torch.int8
        self.width = rows.shape[1]
        self.rows = rows
        self.exact = (
            self.is_pixels
            and _int8_is_exact(rows.device, self.width)
            and _int8_is_faster(rows.device, self.width)
        )
        # Tiles as large as the products take, and queries as many as the memory.
        self.tiles = list(_tiles(rows if self.exact else rows.float(), self.exact))
        widest = max(products.shape[1] for _, products, _ in self.tiles)
        self.batch = max(_LEAST_QUERIES, memory // (_SCORE_BYTES * widest))

    def nearest(self, queries: np.ndarray, k: int = K) -> Neighbors:
        """Return the `k` nearest rows of each query, or all if there are fewer.

        `queries` are images of the reference's size (uint8) or feature vectors (float), as the
        reference is.
        """
        convert = _pixels if self.is_pixels else _unit_length
        rows = convert(queries, self.device)  # (N, values)
        if rows.shape[1] != self.width:
            raise ValueError(f"queries have {rows.shape[1]} values, the reference {self.width}")
        parts = [self._nearest(part, min(k, self.count)) for part in rows.split(self.batch)]
        index = torch.cat([index for index, _ in parts])  # (N, k)
        distance = torch.cat([distance for _, distance in parts])
        if self.is_pixels:
            distance = distance / math.sqrt(self.width)
        return Neighbors(index.cpu().numpy(), distance.float().cpu().numpy())

    def _nearest(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return index (B, k) and distance (B, k), nearest first; of equal ones the lower index."""
        spare = 0 if self.exact or not self.is_pixels else _SPARE
        scores, index = self._best_scores(queries, min(k + spare, self.count))
        if self.exact:
            squares = queries.int().square().sum(1, keepdim=True)
            distance = (scores + squares).double().sqrt()
        else:
            distance = self._by_differences(queries, index)
        # Two stable sorts: by index, then by distance.
        index, order = index.sort(1)
        distance, order = distance.gather(1, order).sort(dim=1, stable=True)
        return index.gather(1, order)[:, :k], distance[:, :k]

    def _best_scores(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the k smallest |r|^2 - 2 q.r of each query, and their rows, in no order."""
        # The best of each tile, then the best of those.
        missing = max(0, _LEAST_QUERIES - len(queries)) if self.exact else 0
        padded = F.pad(queries, (0, 0, 0, missing)) if self.exact else queries.float()
        kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        for start, columns, squares in self.tiles:
            products = torch._int_mm(padded, columns) if self.exact else padded @ columns
            scores = products[: len(queries)].mul_(-2).add_(squares)  # (B, rows)
            best = scores.topk(min(k, scores.shape[1]), largest=False, sorted=False)
            kept.append((best.values, best.indices + start))
        values = torch.cat([values for values, _ in kept], 1)  # (B, tiles * k)
        index = torch.cat([index for _, index in kept], 1)
        best = values.topk(k, largest=False, sorted=False)
        return best.values, index.gather(1, best.indices)

    def _by_differences(self, queries: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Distances (B, k) to the rows at `index`, without the cancellation of the products; of
        pixels the roots of exact integers.
        """
        step = max(1, MEMORY // (8 * self.width * index.shape[1]))
        parts = zip(queries.split(step), index.split(step), strict=True)
        if not self.is_pixels:
            return torch.cat([(q[:, None] - self.rows[at]).norm(dim=2) for q, at in parts])
        squares = [(q[:, None].int() - self.rows[at]).square().sum(2) for q, at in parts]
        return torch.cat(squares).double().sqrt()


def _tiles(rows: torch.Tensor, exact: bool) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yield (first row, rows as columns, their squared lengths), padded with rows never chosen."""
    for start in range(0, len(rows), _TILE):
        part = rows[start : start + _TILE]  # (rows, values)
        missing = -len(part) % _ROWS_MULTIPLE if exact else 0
        squares = (part.int() if exact else part).square().sum(1)
        squares = F.pad(squares, (0, missing), value=torch.iinfo(torch.int32).max)
        yield start, _columns(F.pad(part, (0, 0, 0, missing))), squares


def _columns(rows: torch.Tensor) -> torch.Tensor:
    """Return rows as columns: a CPU's int8 product wants them in memory by rows, CUDA's as is."""
    return rows.T.contiguous() if rows.device.type == "cpu" else rows.T


def _pixels(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return uint8 (N, ...) less 128 as int8 (N, values)."""
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8, got {images.dtype}")
    rows = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(device).flatten(1)
    return (rows ^ 128).view(torch.int8)  # flipping the top bit takes 128 away


def _unit_length(features: np.ndarray, device: torch.device) -> torch.Tensor:
    rows = torch.from_numpy(np.require(features, np.float32, ["C", "W"])).to(device)
    return F.normalize(rows, dim=1)


@cache
def _int8_is_faster(device: torch.device, width: int) -> bool:
    """Return whether int8 products take less time than float32 ones, by a small part of a tile:
    without VNNI they can be two hundred times slower.
    """
    queries = torch.ones(_LEAST_QUERIES, width, dtype=torch.int8, device=device)
    rows = torch.ones(512, width, dtype=torch.int8, device=device)
    columns, floats, float_columns = _columns(rows), queries.float(), _columns(rows.float())
    int8 = _seconds(lambda: torch._int_mm(queries, columns))
    return int8 < _seconds(lambda: floats @ float_columns)


def _seconds(product: Callable[[], torch.Tensor]) -> float:
    """Return the least time of three calls; reading one element waits for the device."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        product()[0, 0].item()
        times.append(time.perf_counter() - start)
    return min(times)


def _int8_is_exact(device: torch.device, width: int) -> bool:
    """Return whether int8 products of extremes are exact: CPUs from before VNNI saturate, some
    devices refuse.
    """
    extremes = torch.tensor([127, -128], dtype=torch.int8, device=device)
    rows = extremes.repeat_interleave(16)[:, None].repeat(1, width)
    try:
        found = torch._int_mm(rows, _columns(rows))
    except RuntimeError:
        return False
    products = extremes.long()[:, None] * extremes.long() * width
    expected = products.repeat_interleave(16, 0).repeat_interleave(16, 1)
    return torch.equal(found.long(), expected)
