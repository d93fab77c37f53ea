"""The report as one HTML file that needs no other: templates/report.html.j2, filled in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worlds.cli.pages import render
from worlds.experiments.spec import Experiment, name_of
from worlds.report.measure import Measured, Verdict, number
from worlds.report.sentences import signed
from worlds.training.config import TrainConfig
from worlds.training.recorder import OWN

if TYPE_CHECKING:
    from markupsafe import Markup

SIGNED = ("gap", "generalization", "generalization_error")


@dataclass(frozen=True)
class Entry:
    """Everything that the page shows of one experiment.

    `svgs` are the figure for a wide and for a narrow page, empty where nothing could be drawn.
    """

    experiment: Experiment
    measured: Sequence[Measured]
    verdict: Verdict
    sentence: str
    svgs: Sequence["Markup"]
    missing: Sequence[str]
    duplicates: Sequence[str] = ()

    @property
    def quantities(self) -> dict[str, str]:
        """The columns of the table of numbers: each quantity that was measured, and its name."""
        named = (name for one in self.measured for name, values in one.values.items() if values)
        metric = self.experiment.metric
        return {name: name_of(name, metric) for name in dict.fromkeys(named) if ":" not in name}

    @property
    def setup(self) -> dict[str, str]:
        """The setting of the runs: a row for each setting, with every value that occurs. Of a
        Recorder's runs it has only what the Recorder was told.
        """
        # Settings of Recorder's runs count only where they were given.
        groups = self.experiment.groups
        real = [config for group in groups for config in group.real]
        configs = [*real, *(config for group in groups for config in group.ideal)]
        told = [config for config in configs if _is_told(config)]
        named = [config for config in configs if config.optimizer != OWN]
        usual = TrainConfig("").learning_rate
        rated = [c for c in configs if _is_told(c) or c.learning_rate != usual]
        # All values that occur, of many the first and the last ones.
        rows = {
            "n": _values(f"{config.n:,}" for config in real) or "Ideal World only",
            "batch size": _values(f"{config.batch_size:,}" for config in configs),
            "steps": _values(f"{config.steps:,}" for config in configs),
            "learning rate": _values(f"{config.learning_rate:g}" for config in rated),
            "schedule": _values(_schedule(config) for config in told),
            "optimizer": _values(_optimizer(config) for config in named),
            "T0 read from": _values(map(_train_reading, filter(_is_told, real))),
            "test images": _values(_count(config.test_eval) for config in told),
        }
        return {name: text for name, text in rows.items() if text}


def show(name: str, value: float) -> str:
    """Return the value of a quantity as the table shows it."""
    return signed(value) if name in SIGNED else number(value)


def make_page(
    title: str, facts: Mapping[str, str], problems: Sequence[str], entries: Sequence[Entry]
) -> str:
    """Return the whole page. `facts` are shown below the title, by name."""
    values = {"title": title, "facts": facts, "problems": problems, "entries": entries}
    return render("worlds.report", "report.html.j2", show=show, **values)


def _values(texts: Any) -> str:
    """Return the different texts, of many only the first and the last ones."""
    found = list(dict.fromkeys(texts))
    return "; ".join(found if len(found) <= 8 else [*found[:4], "...", *found[-2:]])


def _is_told(config: TrainConfig) -> bool:
    """Return whether a run's settings are known: a Recorder sees none that it was not given."""
    return config.schedule != OWN


def _count(images: int | None) -> str:
    return "all" if images is None else f"the first {images:,}"


def _train_reading(config: TrainConfig) -> str:
    """Describe which samples the train error is of, and under which crops."""
    # Which samples, and which crops of them.
    limited = config.train_eval is not None and config.train_eval < config.n
    samples = f"the first {config.train_eval:,} samples" if limited else "all n samples"
    if config.augment is None:
        return samples
    return f"{samples}, {'fresh' if config.fresh_crops else 'fixed'} crops"


def _schedule(config: TrainConfig) -> str:
    parts = [config.schedule]
    if config.drops:
        parts.append(f"times {config.factor:g} at {', '.join(map(str, config.drops))}")
    if config.warmup:
        parts.append(f"{config.warmup:,} steps of warmup")
    return ", ".join(parts)


def _optimizer(config: TrainConfig) -> str:
    momentum = f", momentum {config.momentum:g}" if config.momentum else ""
    decay = f", weight decay {config.weight_decay:g}" if config.weight_decay else ""
    plain = config.betas == TrainConfig(config.arch).betas
    betas = "" if plain else f", betas {config.betas[0]:g} and {config.betas[1]:g}"
    return f"{config.optimizer}{momentum}{betas}{decay}"
