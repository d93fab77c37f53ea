"""Pictures of a dataset folder: a contact sheet by class, and the histograms of its labels.

    cifar5m-preview DIR

Both work while the set is still being generated: shards that are not finished are left out.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from worlds.cli.drawing import BLUE, FAINT, PAPER, RED, style
from worlds.cli.sheets import Cell, Row
from worlds.cli.sheets import draw_sheet as draw_rows
from worlds.formats.dataset import DatasetFolder
from worlds.formats.layout import Shard
from worlds.formats.plan import Plan
from worlds.formats.shards import decode_image
from worlds.formats.tar_members import TarMembers
from worlds.rng.philox import words
from worlds.rng.streams import PREVIEW

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image


@dataclass(frozen=True)
class Survey:
    """Labels and confidence (the largest probability) of every image in the finished shards."""

    folder: Path
    plan: Plan
    finished: list[Shard]
    skipped: list[Shard]
    index: np.ndarray  # int64 (N,)
    label: np.ndarray  # int64 (N,)
    confidence: np.ndarray  # float32 (N,)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.plan.class_names

    @property
    def has_confidence(self) -> bool:
        """True if a classifier gave the labels, with probabilities."""
        return self.plan.probabilities != "one-hot"

    @property
    def title(self) -> str:
        parts = [f"{self.folder.resolve().name}: {len(self.index):,} images"]
        if self.skipped:
            planned = len(self.finished) + len(self.skipped)
            parts.append(f"{len(self.finished):,} of {planned:,} shards so far")
        if self.plan.about.recipe:
            parts.append(f"recipe {self.plan.about.recipe}")
        if len({shard.split for shard in self.finished}) < len(self.plan.splits):
            parts.append(f"split {self.finished[0].split} only")
        return ", ".join(parts)


def survey(folder: Path, split: str | None = None) -> Survey:
    """Read the side files of all finished shards; ValueError if there is none."""
    dataset = DatasetFolder.open(Path(folder))
    shards = dataset.plan.layout.shards(split)
    skipped = dataset.unfinished(shards)
    finished = [shard for shard in shards if shard not in set(skipped)]
    if not finished:
        raise ValueError(f"{folder}: none of its {len(shards)} shards is finished yet")
    # Side files alone tell labels and confidence; images are read once they are chosen.
    arrays = [dataset.arrays(shard) for shard in finished]
    confidence = [a.probabilities.max(axis=1).astype(np.float32) for a in arrays]
    return Survey(
        dataset.path,
        dataset.plan,
        finished,
        skipped,
        np.concatenate([a.index for a in arrays]),
        np.concatenate([a.label for a in arrays]),
        np.concatenate(confidence),
    )


def draw_sheet(found: Survey, per_class: int, seed: int = 0) -> "Image":
    """Return a row of images for each class, chosen at random, each with its confidence in %.

    The choice is addressed: an image's place in the draw depends on (seed, index) alone, so a
    growing set changes it only where a new image comes first.
    """
    if per_class < 1:
        raise ValueError(f"images per class must be at least 1, got {per_class}")
    chosen = _choose(found, per_class, seed)
    tars = [found.folder / shard.tar for shard in found.finished]
    members = TarMembers(tars, [len(shard) for shard in found.finished])
    # A row a class, with its share of all images.
    counts = np.bincount(found.label, minlength=len(found.class_names))
    note = "Chosen at random in each class"
    if found.has_confidence:
        note += " as labeled. The labeler's confidence is below; red: < 50%"

    def cell(row: int) -> Cell:
        confidence = found.confidence[row]
        caption = f"{100 * confidence:.0f}%" if found.has_confidence else ""
        return Cell(members.decoded(row, decode_image), caption, bool(confidence < 0.5))

    rows = [
        Row(name, f"{count:,}  ({count / len(found.label):.1%})", [cell(row) for row in mine])
        for name, count, mine in zip(found.class_names, counts, chosen, strict=True)
    ]
    return draw_rows(rows, found.title, note)


def _choose(found: Survey, per_class: int, seed: int) -> list[list[int]]:
    """Return for each class up to `per_class` rows of the survey: those of the smallest words."""
    parts = np.array_split(found.index, len(found.finished))  # bounds the memory of the words
    drawn = [words(seed, PREVIEW, 0, torch.from_numpy(part), 1)[:, 0].numpy() for part in parts]
    word = np.concatenate(drawn)  # (N,)
    rows = [np.flatnonzero(found.label == number) for number in range(len(found.class_names))]
    return [mine[np.argsort(word[mine], kind="stable")][:per_class].tolist() for mine in rows]


def draw_histograms(found: Survey) -> "Figure":
    """Return how many images each class has, and how sure the labeler was of them."""
    from matplotlib.figure import Figure

    # Counts on top; below them one small panel of confidence a class.
    names = found.class_names
    columns = min(5, len(names))
    lines = -(-len(names) // columns) if found.has_confidence else 0
    with style():
        figure = Figure(figsize=(13, 3.6 + 2.1 * lines), layout="constrained")
        grid = figure.add_gridspec(lines + 1, columns, height_ratios=[1.5] + [1] * lines)
        figure.suptitle(found.title, fontsize=16, x=0.01, ha="left")
        _draw_counts(figure.add_subplot(grid[0, :]), found)
        first: Axes | None = None
        for number, name in enumerate(names if found.has_confidence else ()):
            line, column = divmod(number, columns)
            axes = figure.add_subplot(grid[line + 1, column], sharex=first, sharey=first)
            first = first or axes
            _draw_confidence(axes, name, found.confidence[found.label == number])
        if found.has_confidence:
            figure.supylabel("images of the class in %, log scale", fontsize=11, y=0.3)
            text = "confidence of the labeler (its largest probability); orange: below 50 %"
            figure.supxlabel(text, fontsize=11)
    return figure


def _draw_counts(axes: "Axes", found: Survey) -> None:
    names = found.class_names
    counts = np.bincount(found.label, minlength=len(names))
    bars = axes.bar(names, counts, color=BLUE, width=0.7)
    shares = [f"{count:,}\n{count / counts.sum():.1%}" for count in counts]
    back = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}  # hides the line behind a number
    axes.bar_label(bars, shares, padding=2, bbox=back)
    axes.axhline(counts.mean(), color=FAINT, linewidth=1, linestyle="--", label="equal shares")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1))
    axes.set(title="Images of each class", xlim=(-0.6, len(names) - 0.4))
    axes.set_ylim(0, 1.35 * counts.max())  # room for the numbers above the bars
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="x", visible=False)


def _draw_confidence(axes: "Axes", name: str, confidence: np.ndarray) -> None:
    counts, edges = np.histogram(np.minimum(confidence, 1), bins=20, range=(0, 1))
    shares = 100 * counts / max(len(confidence), 1)
    colors = [RED if edge < 0.5 else BLUE for edge in edges[:-1]]
    axes.bar(edges[:-1], shares, width=0.05, align="edge", color=colors)
    axes.set_title(name, fontsize=11)
    if len(confidence):
        facts = f"median {np.median(confidence):.0%}\n< 50%: {np.mean(confidence < 0.5):.1%}"
        axes.set_title(facts, loc="right", fontsize=9, fontweight="normal")
    # Nearly all images are in the last bar, and the doubtful ones matter: a logarithmic axis, whose
    # limits are set before it looks for positive numbers in an empty panel.
    axes.set(xlim=(0, 1), ylim=(0.05, 150))
    axes.set_yscale("log")
    axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axes.set_xticks([0, 0.5, 1], ["0", "50%", "100%"])
    axes.label_outer()
