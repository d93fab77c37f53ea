"""How fast cifar5m-audit finds neighbors: 1,000,000 images against 60,000, beside plain loops.

    python benchmarks/audit.py                       # 5 rounds of 1,024 images, projected
    python benchmarks/audit.py --queries 1000000 --rounds 1 --device cuda

The 50 nearest of 60,000 pictures of 3,072 values for every query, on one device, in turns; the
first round is thrown away and medians of the others are compared. The rest is the projection: a
search takes time in proportion to its queries. `torch.cdist` is a loop over batches as one would
write it, with topk; faiss is its IndexFlatL2, on the CPU, where installed. The distances of all are
compared before the clock starts. The pictures are blurred noise. The last line is JSON.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
from packing import pictures

from cifar5m.auditing import neighbors
from cifar5m.auditing.neighbors import K, pixel_reference

REFERENCE, WIDTH, GOAL = 60_000, 3072, 1_000_000
PLAIN_BATCH = 256  # queries a call of the plain loop: 61 MB of distances

Search = Callable[[np.ndarray], np.ndarray]  # images to distances (N, 50), root mean square


def ours(images: np.ndarray, device: torch.device, exact: bool) -> Search:
    probe = neighbors._int8_is_faster
    neighbors._int8_is_faster = lambda device, width: exact
    reference = pixel_reference(images, device)
    neighbors._int8_is_faster = probe
    return lambda queries: reference.nearest(queries).distance


def plain(images: np.ndarray, device: torch.device) -> Search:
    rows = torch.from_numpy(images).to(device).flatten(1).float()

    def search(queries: np.ndarray) -> np.ndarray:
        found = []
        for part in torch.from_numpy(queries).split(PLAIN_BATCH):
            distances = torch.cdist(part.to(device).flatten(1).float(), rows)
            found.append(distances.topk(K, largest=False).values)
        return (torch.cat(found) / WIDTH**0.5).cpu().numpy()

    return search


def with_faiss(images: np.ndarray) -> Search:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(WIDTH)
    index.add(images.reshape(-1, WIDTH).astype(np.float32))

    def search(queries: np.ndarray) -> np.ndarray:
        squares, _ = index.search(queries.reshape(-1, WIDTH).astype(np.float32), K)
        return np.sqrt(squares.clip(0) / WIDTH)

    return search


def contenders(images: np.ndarray, device: torch.device) -> dict[str, Search]:
    exact = neighbors._int8_is_exact(device, WIDTH)
    found = {"ours, int8": ours(images, device, True)} if exact else {}
    found["ours, float32"] = ours(images, device, False)
    found["torch.cdist"] = plain(images, device)
    if device.type == "cpu" and importlib.util.find_spec("faiss"):
        found["faiss flat"] = with_faiss(images)
    return found


def measure(
    searches: dict[str, Search], queries: np.ndarray, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each search, a round after another, the first left out."""
    taken: dict[str, list[float]] = {name: [] for name in searches}
    for turn in range(rounds + 1):
        for name, search in searches.items():
            start = time.perf_counter()
            search(queries)
            if turn:
                taken[name].append(time.perf_counter() - start)
    return taken


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="default: torch's own")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    versions = {"torch": version("torch"), "numpy": version("numpy")}
    if importlib.util.find_spec("faiss"):
        versions["faiss"] = version("faiss-cpu")
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    threads = torch.get_num_threads()
    print(f"{where}, {os.cpu_count()} CPUs, {threads} threads, {versions}")
    searches = contenders(pictures(REFERENCE, 0), device)
    queries = pictures(args.queries, 1)
    first = {name: search(queries[:64]) for name, search in searches.items()}
    reference = next(iter(first.values()))
    for name, distances in first.items():
        np.testing.assert_allclose(distances, reference, rtol=1e-3, err_msg=name)
    taken = measure(searches, queries, args.rounds)
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    best = next(iter(medians.values()))
    print(
        f"\n{'':15}{'images/s':>10}{'least':>10}{'most':>10}{'1 M images':>13}{'ours faster':>13}"
    )
    for name, seconds in taken.items():
        rates = [args.queries / s for s in (medians[name], max(seconds), min(seconds))]
        hours = GOAL / rates[0] / 3600
        print(f"{name:15}{''.join(f'{rate:>10,.0f}' for rate in rates)}", end="")
        print(f"{hours:>11,.2f} h{medians[name] / best:>12.2f}x")
    result = {
        "benchmark": "audit",
        "reference": REFERENCE,
        "queries": args.queries,
        "rounds": args.rounds,
        "device": where,
        "threads": threads,
        "seconds": taken,
        "projected_hours": {n: s * GOAL / args.queries / 3600 for n, s in medians.items()},
        "versions": versions,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
