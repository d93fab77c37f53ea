"""Copies of a run's rows for TensorBoard and Weights & Biases; the run directory stays the record.

A mirror opens with its first row, so that a run that is finished already leaves no empty copy.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from worlds.runtime.errors import first_line

Row = Mapping[str, Any]
Mirror = Callable[[Row], None]

_SETS = ("test_", "cifar10_", "train_")
_INSTALL = 'pip install "deep-bootstrap[track]"'


def tensorboard(folder: Path) -> Mirror:
    """Every number of a row as a scalar over the updates, below `folder`/tensorboard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(f"--tensorboard needs tensorboard: {_INSTALL}") from error

    @cache
    def writer() -> Any:
        return SummaryWriter(str(folder / "tensorboard"))

    def mirror(row: Row) -> None:
        for name, value in row.items():
            if value is not None and name not in ("step", "updates"):
                tag = name.replace("_", "/", 1) if name.startswith(_SETS) else name
                writer().add_scalar(tag, value, row["updates"])
        writer().flush()

    return mirror


def wandb(folder: Path, project: str, name: str, group: str, config: Row) -> Mirror:
    """Every row as a step of the W&B run of this name: a resumed run goes on there.

    ValueError, with the first row, where W&B refuses: no key, no network.
    """
    try:
        import wandb as library
    except ImportError as error:
        raise ValueError(f"--wandb needs wandb: {_INSTALL}") from error

    @cache
    def run() -> Any:
        try:
            return library.init(
                project=project,
                id=name[:16],
                name=folder.name,
                group=group[:16],
                config=dict(config),
                resume="allow",
                dir=str(folder),
                reinit="finish_previous",
            )
        except library.Error as error:
            raise ValueError(f"--wandb: {first_line(error)}") from error

    def mirror(row: Row) -> None:
        run().log(dict(row), step=row["updates"])

    return mirror
