"""Label a dataset once more, beside its own labels: in one process, or a rank's share of it.

labeling = label("out/tiny", "edadaltocg/resnet18_cifar10")
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar5m.labels.agreement import Agreement, compare
from cifar5m.labels.labeling import (
    Labeling,
    default_name,
    is_labeled,
    labeling_plan,
    open_labeling,
)
from cifar5m.labels.relabel import label_shards, load_labeler, write_summary
from cifar5m.sampling.recipes import labeling_settings
from cifar5m.weights.sources import find_labeler
from worlds.formats.layout import Shard
from worlds.formats.plan import load_plan
from worlds.formats.shards import is_finished
from worlds.runtime.device import pick_device
from worlds.runtime.progress import OnProgress, Phase
from worlds.runtime.ranks import Rank, rank_of


@dataclass(frozen=True, repr=False)
class LabelingResult:
    """State of a labeling, and its agreement with the dataset's own labels."""

    path: Path
    shards: int
    shards_planned: int
    agreement: Agreement | None  # over the labeled shards; None if there is none yet
    problems: tuple[str, ...]  # why shards were left out

    @property
    def is_complete(self) -> bool:
        """True if every planned shard is labeled."""
        return self.shards == self.shards_planned

    def __repr__(self) -> str:
        shares = "" if self.agreement is None else f", agreement {self.agreement.rate:.4f}"
        return (
            f"LabelingResult({str(self.path)!r}, {self.shards} of {self.shards_planned} shards"
            f"{shares}, {len(self.problems)} problems)"
        )


def label(
    directory: str | Path,
    labeler: str,
    *,
    name: str | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    on_progress: OnProgress | None = None,
) -> LabelingResult:
    """Label the finished shards of a dataset, into labels/NAME; the same call again resumes.

    Under torchrun or SLURM this process labels its rank's share of the shards.

    Args:
        directory: The dataset directory; nothing else in it is touched.
        labeler: timm directory, file or Hub id of a classifier with ten classes, or "tiny".
        name: Of the labeling, by default after the labeler.
        precision: "fp32", "tf32", "bf16" or "fp16", by default as in the dataset's plan.
        batch_size: Images a call, at least 1, by default as in the dataset's plan.
        device: "auto", "cpu", "cuda" or "cuda:K".
        on_progress: Called with images done; may raise to stop.

    Returns:
        What is labeled, and the agreement; written to summary.json once all is.

    Raises:
        ValueError: If a parameter is out of range, the labeler cannot be loaded, or `name` is
            another labeling's.
    """
    folder = Path(directory)
    dataset = load_plan(folder)
    shards, rank = dataset.shards, rank_of(os.environ)
    target = str(pick_device(device, rank.local_rank if rank else 0))
    settings = labeling_settings(dataset, precision, batch_size)

    # A labeler that does not load is refused before anything is written.
    weights = find_labeler(labeler)
    plan = labeling_plan(dataset, labeler, weights.sha256, *settings)
    network = load_labeler(weights, plan, target)
    labeling = open_labeling(folder, name or default_name(labeler), plan)

    # What is left of this process's share.
    mine = (rank or Rank()).share(shards)
    mine = [shard for shard in mine if is_finished(folder, shard, dataset.fingerprint)]
    waiting = [shard for shard in mine if not is_labeled(labeling, shard)]
    phase = Phase.of("label", mine, waiting, on_progress)
    if rank is not None:
        phase.note(rank.describe(len(mine), len(shards)))
    found = label_shards(labeling, network, waiting, phase)
    problems = tuple(f"{shard.tar}: {problem}" for shard, problem in found if problem)
    # What all ranks have labeled so far.
    labeled = [shard for shard in shards if is_labeled(labeling, shard)]
    ends = rank is None or len(labeled) == len(shards)  # else another rank reports it
    agreement = _agreement(labeling, labeled, len(shards)) if ends else None
    return LabelingResult(labeling.place, len(labeled), len(shards), agreement, problems)


def _agreement(labeling: Labeling, labeled: Sequence[Shard], planned: int) -> Agreement | None:
    """Return the agreement over the labeled shards; written too once that is all of them."""
    if not labeled:
        return None
    if len(labeled) == planned:
        return write_summary(labeling, labeled)
    return compare(labeling.folder, labeling.place, labeled, labeling.plan.class_names)
