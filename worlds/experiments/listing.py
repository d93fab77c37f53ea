"""The texts of `worlds-experiment list`, `show` and `status`, and totals for programs."""

from collections.abc import Sequence
from typing import Any, Final

from worlds.cli.tables import columns
from worlds.experiments.costs import ASSUMED, estimate, gpu_hours
from worlds.experiments.plan import Expanded, Job, jobs_of
from worlds.experiments.spec import Experiment, Group
from worlds.experiments.state import STATES, Key, State, tally
from worlds.training.config import TrainConfig

GROUPS: Final = 12  # of an experiment that are shown
_UNSAID: Final = ("arch", "world", "trial", "seed", "options")


def totals(jobs: Sequence[Job]) -> dict[str, Any]:
    """Return runs, steps and GPU-hours."""
    costs = [estimate(job) for job in jobs]
    steps = sum(cost.steps for cost in costs)
    return {"runs": len(jobs), "steps": steps, "gpu_hours": round(gpu_hours(costs), 4)}


def overview(chosen: Sequence[Expanded]) -> tuple[str, dict[str, Any]]:
    """Return a line for each experiment, and the totals after sharing."""
    jobs = jobs_of(chosen)
    rows = [("name", "runs", "shared", "steps", "GPU-hours", "title")]
    for one in chosen:
        # Its runs, and those of them that other experiments have, too.
        mine = [job for job in jobs if one.name in job.experiments]
        shared = sum(len(job.experiments) > 1 for job in mine)
        total = totals(mine)
        numbers = (f"{total['runs']:,}", f"{shared:,}", f"{total['steps']:,}")
        rows.append((one.name, *numbers, hours(total["gpu_hours"]), one.experiment.title))
    # Each run once.
    total = {"experiments": len(chosen), **totals(jobs)}
    said = f"{total['runs']:,} runs after sharing, {hours(total['gpu_hours'])} GPU-hours"
    return f"{table(rows)}\nall: {said}. {ASSUMED}.", total


def description(one: Expanded) -> tuple[str, dict[str, Any]]:
    """Return the text, groups, claim and cost of one experiment, and its totals."""
    # The text, what is missing here, groups, claim and cost.
    total = totals(jobs_of([one]))
    parts = [one.name, one.recipe.text]
    if one.recipe.absent:
        parts.append(f"Not here: {one.recipe.absent}.")
    claims = [f"Claim: {one.experiment.claim}"]
    for check in one.experiment.checks:
        labels = one.experiment.labels_of(check)
        claims.append(f"  {check.describe(one.experiment.metric, labels)}")
    parts += [_groups(one.groups), "\n".join(claims)]
    cost = f"{total['runs']:,} runs, {total['steps']:,} steps, {hours(total['gpu_hours'])} "
    return "\n\n".join([*parts, f"{cost}GPU-hours. {ASSUMED}."]), total


def standing(
    experiments: Sequence[Experiment], states: dict[Key, State]
) -> tuple[str, dict[State, int]]:
    """Return a line for each experiment, its runs by state, and the totals; a run that experiments
    share counts in each.
    """
    rows, total = [("experiment", *STATES, "title")], dict.fromkeys(STATES, 0)
    for one in experiments:
        counts = tally(one, states)
        rows.append((one.name, *(f"{counts[state]:,}" for state in STATES), one.title))
        total = {state: total[state] + counts[state] for state in STATES}
    return table(rows), total


def recipe(config: TrainConfig) -> str:
    """Return the network and all that differs from the main protocol, in a line."""
    # Against the defaults, which are the main protocol.
    plain, own = TrainConfig(config.arch).to_json(), config.to_json()
    options = [f"{key}={value}" for key, value in config.options.items()]
    changed = [f"{k}={v}" for k, v in own.items() if k not in _UNSAID and v != plain[k]]
    return " ".join([config.arch, *options, *changed])


def hours(value: float) -> str:
    """Return hours as text: two digits, or whole hours."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}" if value else "0"


def _groups(groups: Sequence[Group]) -> str:
    lines = []
    for group in groups[:GROUPS]:
        worlds = {"Real": group.real, "Ideal": group.ideal}
        counts = [f"{len(runs)} {world}" for world, runs in worlds.items() if runs]
        first = (*group.real, *group.ideal)[0]
        lines.append(f"  {group.label}: {', '.join(counts)}: {recipe(first)}")
    if len(groups) > GROUPS:
        lines.append(f"  and {len(groups) - GROUPS} more")
    return "\n".join(lines)


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows as columns, the first and the last one left-aligned."""
    return columns(rows, (0, len(rows[0]) - 1))
