"""The size, time and cost of a run before it starts: `cifar5m-generate --dry-run`.

    cifar5m-generate --n 6000000 --out cifar5m --dry-run --rate 27 --price 4

Shards are made whole by one device each, so the last round may leave devices idle; a device that
fails loses the shard it was making, half of one on average.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from cifar5m.engines.run import count_workers
from cifar5m.sampling.diffusion import SamplerConfig
from cifar5m.sampling.generate import make_images, predictor
from cifar5m.sampling.job import Options, find_sources, load_job, plan_of
from worlds.cli.tables import columns
from worlds.formats.shards import encode_png
from worlds.runtime.device import device_name, pick_device
from worlds.runtime.progress import OnProgress
from worlds.runtime.ranks import rank_of

FLEETS: Final = (1, 8, 64)  # devices
HOURS_BETWEEN_FAILURES: Final = 100.0  # of one device, assumed; preemptible ones fail more often
_PICTURES: Final = 256  # encoded as PNG


def project_run(options: Options, rate: float, price: float | None) -> Iterator[str]:
    """Yield lines on a run with devices of `rate` images/s each; no network is loaded."""
    layout = options.layout
    shards = len(layout.shards())
    yield f"{len(layout):,} images in {shards:,} shards, {rate:g} images/s a device"
    yield from fleet_table(shards, len(layout) / shards / rate / 3600, price)


def fleet_table(shards: int, shard_hours: float, price: float | None) -> Iterator[str]:
    """Yield lines for 1, 8 and 64 devices; `price` is of a device hour."""
    rows = [("devices", "hours", "device hours", "failures", "hours lost", "cost")]
    for devices in FLEETS:
        hours = math.ceil(shards / devices) * shard_hours
        device_hours = hours * devices  # every device is paid for until the last one ends
        failures = device_hours / HOURS_BETWEEN_FAILURES
        lost = failures * shard_hours / 2
        cost = "-" if price is None else f"{price * (device_hours + lost):,.0f}"
        figures = f"{hours:,.2f}", f"{device_hours:,.1f}", f"{failures:,.1f}", f"{lost:,.2f}", cost
        rows.append((str(devices), *figures))
    yield from columns(rows, left=()).splitlines()
    yield (
        f"one shard takes {60 * shard_hours:,.1f} minutes, which is the most that a failure loses; "
        f"failures: one in {HOURS_BETWEEN_FAILURES:g} hours of each device, assumed"
    )


def measure_run(
    options: Options,
    device: str,
    workers: int | None,
    price: float | None,
    on_progress: OnProgress | None = None,
) -> Iterator[str]:
    """Yield lines on a run with devices such as this one, measured for a few seconds.

    `workers` are the processes to share it, by default one a GPU; `price` is of a device hour.
    """
    # Load both networks.
    rank = rank_of(os.environ)
    count = count_workers(workers, device, rank)
    target = pick_device(device, rank.local_rank if rank else 0)
    sources = find_sources(options, on_progress)
    plan, layout = plan_of(options, sources), options.layout
    job = load_job(options, sources, plan, str(target))

    # Measure a network call, a labeled micro-batch and some PNGs.
    index = torch.arange(job.micro_batch, device=target)
    x = torch.randn(job.micro_batch, 3, 32, 32, device=target)
    predict = predictor(job, index)
    step = _seconds(lambda: predict(x, 500), target)
    few_steps = replace(job, sampler=SamplerConfig("dpm_solver_pp_2m", 2))
    pixels = make_images(few_steps, index)  # uint8 (B, 32, 32, 3)
    label = _seconds(lambda: job.labeler(pixels), target) / job.micro_batch
    start = time.perf_counter()
    sizes = [len(encode_png(picture)) for picture in pixels[:_PICTURES].cpu().numpy()]
    written = len(sizes) / (time.perf_counter() - start)

    # Sum up: the last batch of a shard is padded full, and a guided step calls the network twice.
    shards, images = layout.shards(), len(layout)
    batches = sum(-(-len(shard) // job.micro_batch) for shard in shards)
    per_step = job.conditioning.calls_per_step if job.conditioning else 1
    calls = batches * job.micro_batch * job.sampler.network_calls * per_step
    call = step / job.micro_batch / per_step
    hours = (calls * call + images * label) / 3600
    png = float(np.mean(sizes))
    blocks = 3 + -(-png // 512)  # of a sample: two tar headers, the PNG and the label
    rows = {
        "recipe": f"{plan.about.recipe}: {plan.about.distribution}",
        "splits": ", ".join(f"{name} {length:,}" for name, length in layout.splits),
        "shards": f"{len(shards):,} of {layout.shard_size:,} images",
        "size": f"{images * blocks * 512 / 1e9:,.3f} GB (PNGs of {png:,.0f} bytes)",
        "generator": f"{job.generator.parameters:,} parameters, {job.generator.precision}",
        "labeler": f"{job.labeler.parameters:,} parameters",
        "network calls": f"{calls:,} of one image each",
        "operations": f"{calls * flop_per_call(job.generator.network):.3g} floating-point",
        "speed": f"{1 / call:,.1f} calls/s on {device_name(target)}",
        "device time": f"{hours:,.2f} h on one such device, {hours / count:,.2f} h on {count}",
        "writing": f"{written:,.0f} images/s a writer process",
        "fingerprint": plan.fingerprint,
    }
    yield from (f"{name:15} {value}" for name, value in rows.items())
    yield from fleet_table(len(shards), hours / len(shards), price)


def flop_per_call(network: torch.nn.Module) -> float:
    """Return the floating-point operations of one image's forward pass (two a multiply-add)."""
    # One image through the network, classes included if it takes them.
    from torch.utils.flop_counter import FlopCounterMode

    device = next(network.parameters()).device
    x, t = torch.zeros(1, 3, 32, 32, device=device), torch.zeros(1, device=device)
    takes_classes = getattr(network, "class_embedding", None) is not None
    classes = torch.zeros(1, dtype=torch.int64, device=device) if takes_classes else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x, t, classes)
    return float(counter.get_total_flops())


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the wall time of a call, the second of two."""
    for _ in range(2):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - start
