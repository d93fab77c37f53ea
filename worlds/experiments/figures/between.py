"""Between the worlds: each sample K times, and sampling with replacement (Appendix C).

    worlds-experiment run reuse appendix_c --data DIR

At the paper's scale: 200 runs, 5,460,000 steps, about 9 GPU-hours.
"""

from dataclasses import replace

from worlds.experiments.protocol import RESNET18, ideal_of, over_trials, pairs
from worlds.experiments.registry import Recipe, Scope
from worlds.experiments.spec import Check, Group
from worlds.training.config import TrainConfig

TIMES = (1, 2, 5, 10, 20, 50, 100)  # K, the uses of each sample
LENGTHS = {"all steps": 39_000, "a quarter of the steps": 9_750}
_LABEL = "{}, K = {}"
_PLAIN = TrainConfig(RESNET18, augment=None)


def _reusing(scope: Scope) -> list[Group]:
    """Return a group for each K and length, on as many samples as the steps then use."""
    groups = []
    # One Ideal World a length; its samples are used once, as those of K = 1.
    for series, steps in LENGTHS.items():
        config = replace(_PLAIN, steps=steps, train_eval=5_000)  # of up to five million
        ideal = over_trials(ideal_of(config), scope)
        for times in TIMES:
            samples = steps * config.batch_size // times  # n
            runs = over_trials(replace(config, world=f"reuse:{times}", n=samples), scope)
            groups.append(Group(_LABEL.format(series, times), runs, ideal, series=series, x=times))
    return groups


def _of(*times: int, lengths: tuple[str, ...] = tuple(LENGTHS)) -> tuple[str, ...]:
    return tuple(_LABEL.format(series, k) for series in lengths for k in times)


# The Real World takes each sample once a pass; Appendix C's draws are with replacement.
_DRAWS = {
    f"n = {n:,}, {name}": replace(_PLAIN, n=n, world=world)
    for n in (50_000, 10_000)
    for name, world in {"with replacement": "bootstrap", "once a pass": "real"}.items()
}
_REPLACED, _ONCE = tuple(_DRAWS)[::2], tuple(_DRAWS)[1::2]

RECIPES = (
    Recipe(
        "reuse",
        "Each sample K times, in equally many steps",
        "against",
        _reusing,
        "Worlds that use each sample up to ten times are close to the Ideal World; with 100 uses "
        "the gap is larger than with one.",
        (
            Check("final_gap", "within", tolerance=0.02, groups=_of(1)),
            Check("gap", "within", tolerance=0.05, groups=_of(1, 2, 5, 10)),
            Check("final_gap", "above", groups=_of(100), others=_of(1)),
            Check("final_gap", "above", groups=_of(100)[1:], others=_of(100)[:1]),
        ),
        text="ResNet18 without augmentation, K = 1, 2, 5, 10, 20, 50 and 100 uses of each sample "
        "in equally many steps, so n falls as K grows: K = 1 is an Ideal World, K = 100 at 39,000 "
        "steps the Real World of n = 49,920. Beside it a quarter of the steps, where each n is a "
        "fourth. Expected: the gap is larger at K = 100 than at K = 1, and for the smaller n.",
        note="Not of the paper. No augmentation.",
        axis="log uses of each sample, K",
        panels=(("final_real", "final_ideal"), ("final_gap", "gap"), ("final_train",)),
    ),
    Recipe(
        "appendix_c",
        "With replacement against once a pass",
        "curves",
        pairs(_DRAWS),
        "Samples drawn with replacement give the same bootstrap error as samples that are used "
        "once a pass; it is small.",
        (
            Check("gap", "within", tolerance=0.05, groups=tuple(_DRAWS)[:2]),
            Check("final_real", "near", 0.0, 0.02, _REPLACED, others=_ONCE),
            Check("final_gap", "near", 0.0, 0.02, _REPLACED, others=_ONCE),
        ),
        text="The bootstrap error as the appendix defines it: G of samples drawn with replacement "
        "less G of fresh ones, where G is the test soft-error after training on a sequence. Beside "
        "it what the paper's experiments do, each sample once a pass. Expected: hardly a "
        "difference between the two, and at n = 50,000 both are close to the Ideal World.",
        note="Of Appendix C, which has no figure. No augmentation; each n is that of the paper's "
        "scale.",
    ),
)
