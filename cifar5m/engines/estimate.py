"""The size, time and cost of a run before it starts: `cifar5m-generate --dry-run`."""

import os
from collections.abc import Iterator

from cifar5m.engines.run import count_workers
from cifar5m.sampling.job import Options, estimate, find_sources, load_job, plan_of
from cifar5m.sampling.scale import table
from worlds.runtime.device import device_name, pick_device
from worlds.runtime.progress import OnProgress
from worlds.runtime.ranks import rank_of


def project_run(options: Options, rate: float, price: float | None) -> Iterator[str]:
    """Yield lines on a run with devices of `rate` images/s each; no network is loaded."""
    layout = options.layout
    shards = len(layout.shards())
    yield f"{len(layout):,} images in {shards:,} shards, {rate:g} images/s a device"
    yield from table(shards, len(layout) / shards / rate / 3600, price)


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
    target = str(pick_device(device, rank.local_rank if rank else 0))
    sources = find_sources(options, on_progress)
    plan, layout = plan_of(options, sources), options.layout
    job = load_job(options, sources, plan, target)

    # Measure, and write down.
    cost, images = estimate(job, layout), len(layout)
    hours = (cost.device_seconds + images * cost.label_seconds) / 3600
    rows = {
        "recipe": f"{plan.about.recipe}: {plan.about.distribution}",
        "splits": ", ".join(f"{name} {length:,}" for name, length in layout.splits),
        "shards": f"{len(layout.shards()):,} of {layout.shard_size:,} images",
        "size": f"{cost.bytes(images) / 1e9:,.3f} GB (PNGs of {cost.png_bytes:,.0f} bytes)",
        "generator": f"{job.generator.parameters:,} parameters, {job.generator.precision}",
        "labeler": f"{job.labeler.parameters:,} parameters",
        "network calls": f"{cost.network_calls:,} of one image each",
        "operations": f"{cost.network_calls * cost.flop_per_call:.3g} floating-point",
        "speed": f"{1 / cost.seconds_per_call:,.1f} calls/s on {device_name(job.generator.device)}",
        "device time": f"{hours:,.2f} h on one such device, {hours / count:,.2f} h on {count}",
        "writing": f"{1 / cost.write_seconds:,.0f} images/s a writer process",
        "fingerprint": plan.fingerprint,
    }
    yield from (f"{name:15} {value}" for name, value in rows.items())
    shards = len(layout.shards())
    yield from table(shards, hours / shards, price)
