"""Sample images of each group's data, side by side (figures 19 to 21)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from worlds.cli.drawing import INK, new_figure
from worlds.experiments.sheets import IMAGES, LABELS
from worlds.experiments.spec import Experiment
from worlds.formats.npz import map_file
from worlds.report.measure import Measured
from worlds.report.plots import Drawn, Point
from worlds.runtime.errors import reading
from worlds.training.run_folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_sheets(experiment: Experiment, measured: Sequence[Measured]) -> Drawn:
    """Draw a panel a group: images in rows, sorted by class."""
    figure, axes, _ = new_figure(len(measured), 2, (5.6, 5.6))
    points: list[Point] = []
    for ax, one in zip(axes, measured, strict=True):
        run = one.found.real[0]
        with reading(run.folder / IMAGES, "images with their labels"):
            _draw_images(ax, run)
        ax.set_title(f"{one.label}: {run.config.n:,} of its training images")
        points += [
            {"panel": "", "group": one.label, "quantity": name, "y": values[0], "trials": 1}
            for name, values in one.values.items()
            if values
        ]
    return Drawn(figure, points)


def _draw_images(ax: "Axes", run: Run) -> None:
    images, labels = map_file(run.folder / IMAGES), map_file(run.folder / LABELS)
    images = images[:, :: max(1, images.shape[1] // 112), :: max(1, images.shape[2] // 112)]
    columns = int(np.ceil(np.sqrt(len(images))))
    height, width = images.shape[1:3]
    sheet = np.full((-(-len(images) // columns) * (height + 2), columns * (width + 2), 3), 255)
    for index, image in enumerate(images):
        y, x = index // columns * (height + 2), index % columns * (width + 2)
        sheet[y : y + height, x : x + width] = image
    ax.imshow(sheet.astype(np.uint8), interpolation="nearest")
    ax.set_axis_off()
    starts = np.flatnonzero(np.diff(labels, prepend=-1)).tolist()
    names = run.description.data.classes or ()
    for index in starts if len(starts) < 20 else ():
        y, x = index // columns * (height + 2), index % columns * (width + 2)
        ax.text(x + 1, y + 1, names[labels[index]], color=INK, fontsize=6, va="top",
                bbox={"facecolor": "white", "alpha": 0.7, "pad": 0.6, "linewidth": 0})  # fmt: skip
