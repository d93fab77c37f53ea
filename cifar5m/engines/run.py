"""Generate a dataset: in this process, in several on this machine, as a rank, or on a Ray cluster.

summary = generate("out/tiny", recipe="tiny-conditional", n=1000)
"""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from cifar5m.engines.local import run_workers, worker_arguments
from cifar5m.sampling.generate import Job, generate_shards
from cifar5m.sampling.job import Options, find_sources, keep_earlier_choices, load_job, plan_of
from cifar5m.sampling.recipes import DEFAULT
from worlds.formats.dataset import DatasetFolder
from worlds.formats.layout import Shard
from worlds.formats.plan import claim_folder
from worlds.formats.summary import DatasetSummary, summarize
from worlds.formats.writers import write_job
from worlds.runtime.checks import check_positive
from worlds.runtime.device import pick_device
from worlds.runtime.processes import Workers
from worlds.runtime.progress import OnProgress, Phase
from worlds.runtime.ranks import Rank, rank_of


def generate(
    out: str | Path,
    *,
    n: int,
    recipe: str = DEFAULT,
    seed: int = 0,
    split: dict[str, int] | None = None,
    generator: str | None = None,
    labeler: str | None = None,
    allow_non_ema: bool = False,
    sampler: str | None = None,
    steps: int | None = None,
    variance: str | None = None,
    eta: float | None = None,
    spacing: str | None = None,
    start: int | None = None,
    guidance: float | None = None,
    labels: str | None = None,
    precision: str | None = None,
    micro_batch: int | None = None,
    shard_size: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    streams: int = 1,
    writers: int = 1,
    ray: str | None = None,
    on_progress: OnProgress | None = None,
) -> DatasetSummary:
    """Generate and label images, as WebDataset shards; the same call again resumes.

    Everything from `recipe` to `shard_size` decides the bytes; None takes the recipe's value. The
    rest decides where and how fast they are made. Under torchrun or SLURM this process makes its
    rank's share of the shards.

    Args:
        out: Dataset directory, created if missing. It belongs to one plan.
        n: Images in all, at least 1.
        recipe: "cifar5m" (the published set's way), "cifar5m-ddim100", or "tiny" and
            "tiny-conditional" (offline).
        seed: 0 to 2^64 - 1.
        split: Images by split, adding up to n; by default the last sixth is "test".
        generator: Diffusers directory, file or Hub id of a 3 x 32 x 32 U-Net.
        labeler: timm directory, file or Hub id of a classifier with ten classes; "auto" is "bit" if
            it has been fine-tuned here, else a public ViT-B/16.
        allow_non_ema: Accept generator weights that are known not to be averaged.
        sampler: "ancestral", "ddim" or "dpm_solver_pp_2m".
        steps: Sampler steps, 1 to 1000.
        variance: Of the ancestral sampler, "fixed_large" or "fixed_small".
        eta: Of ddim, 0 (deterministic) to 1.
        spacing: Of the steps, "uniform", "quadratic" (ddim) or "logsnr" (dpm_solver_pp_2m).
        start: Timestep of the first step, 0 to 999.
        guidance: Of a generator with class embeddings, at least 0; 1 leaves its prediction as it
            is, more moves it away from the one without a class.
        labels: "argmax" (the labeler's class) or "requested" (the one the generator was asked for).
        precision: Of both networks, "fp32", "tf32", "bf16", "fp16" or "bf16-weights".
        micro_batch: Images a network call, at least 1.
        shard_size: Images a shard, at least 1; by default that of the plan in `out`, else a
            twentieth of n, from 50 to 10,000, and the micro-batch is no larger.
        device: "auto", "cpu", "cuda" or "cuda:K".
        workers: Processes on this machine, by default one a GPU or 1; with `ray`, most actors.
        streams: Micro-batches at a time on a GPU, at least 1; each keeps its bytes.
        writers: Processes a worker that encode and write, at least 1.
        ray: Address of a Ray cluster, "auto" or "HOST:PORT"; `out` must be on shared storage.
        on_progress: Called with images done; may raise to stop.

    Returns:
        What the directory holds now.

    Raises:
        ValueError: If a parameter is out of range, or `out` holds another plan or other files.
        RuntimeError: If the network's output is not finite, or a worker fails.
    """
    options = Options(
        n=n,
        recipe=recipe,
        seed=seed,
        split=split,
        shard_size=shard_size,
        micro_batch=micro_batch,
        precision=precision,
        sampler=sampler,
        steps=steps,
        variance=variance,
        eta=eta,
        spacing=spacing,
        start=start,
        guidance=guidance,
        labels=labels,
        generator=generator,
        labeler=labeler,
        allow_non_ema=allow_non_ema,
        streams=streams,
    )
    # Where it runs: here, in processes of this machine, or on a cluster.
    check_positive("writers", writers)
    if ray is not None and find_spec("ray") is None:
        raise ValueError("ray: Ray is not installed: pip install 'deep-bootstrap[ray]'")
    rank = rank_of(os.environ)
    count = count_workers(workers, device, rank) if ray is None else workers
    options = keep_earlier_choices(options, Path(out))
    dataset, job = _open(Path(out), options, device, ray is None and count == 1, on_progress)

    # What is left, of all or of this rank's share.
    shards = dataset.shards if job is None else (rank or Rank()).share(dataset.shards)
    waiting = dataset.unfinished(shards)
    phase = Phase.of("generate", shards, waiting, on_progress)
    if job is not None:
        if rank is not None:
            phase.note(rank.describe(len(shards), len(dataset.shards)))
        _run_here(dataset.path, job, waiting, writers, phase)
    elif ray is None:
        arguments = worker_arguments(dataset.path, options, device, writers)
        run_workers(arguments, count or 1, dataset, phase)
    else:
        from cifar5m.engines.ray import generate_on_ray
        from worlds.runtime.ray import connect

        with connect(ray) as cluster:
            generate_on_ray(cluster, dataset, options, phase, workers)
    return summarize(dataset.path, dataset.plan)


def _open(
    out: Path, options: Options, device: str, alone: bool, on_progress: OnProgress | None
) -> tuple[DatasetFolder, Job | None]:
    """Make `out` the plan's; return it, and the networks if this process generates `alone`.

    Networks that do not load are refused before anything is written.
    """
    rank = rank_of(os.environ)
    target = pick_device(device, rank.local_rank if rank else 0)
    sources = find_sources(options, on_progress)
    plan = plan_of(options, sources)
    job = load_job(options, sources, plan, str(target) if alone else "cpu")
    claim_folder(out, plan)
    return DatasetFolder(out, plan), job if alone else None


def count_workers(workers: int | None, device: str, rank: Rank | None) -> int:
    """Return the local processes to start: one for a rank, else as asked, else one a GPU."""
    check_positive("workers", workers)
    if rank is not None:
        return 1
    if workers is None:
        return max(1, torch.cuda.device_count()) if device in ("auto", "cuda") else 1
    return workers


def _run_here(out: Path, job: Job, shards: Sequence[Shard], writers: int, phase: Phase) -> None:
    """Make shards in this process."""
    device, steps, note = job.generator.device, 0, ""

    def on_images(images: float) -> None:
        nonlocal steps, note
        # The memory in use helps to choose the micro-batch.
        if device.type == "cuda" and steps % 50 == 0:  # to ask takes torch 0.1 ms
            note = f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB"
        steps += 1
        phase(images, note)

    with Workers(write_job, writers) as pool:
        generate_shards(out, job, shards, pool.put, on_images)
