"""Measure several runs together: agreement, similarity of features, ensembles, calibration.

    agreements(real, ideal)     # trials of both worlds, trained with `compared` test samples

All is measured on the test samples that the runs keep, at the last step. A trial is compared with
the one after it (the last with the first), so that two networks never have weights in common when
they begin.
"""

from collections.abc import Sequence

import numpy as np

from worlds.report.analysis import Ending, curves
from worlds.training.run_folder import Predictions, Run

Values = dict[str, list[float]]


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centered kernel alignment of the features (N, d) and (N, e) of the same samples
    (Kornblith et al., 2019): 1 where they are equal up to rotation and scale.
    """
    x, y = (one - one.mean(0) for one in (x.astype(np.float64), y.astype(np.float64)))
    own = float(np.linalg.norm(x.T @ x)) * float(np.linalg.norm(y.T @ y))
    return float(np.linalg.norm(x.T @ y)) ** 2 / max(own, 1e-300)


def agreements(real: Sequence[Run], ideal: Sequence[Run]) -> Values:
    """Agreement and CKA of two networks of one world and of both, and each world's ensembles."""
    kept = {"real": [r.predictions for r in real], "ideal": [r.predictions for r in ideal]}
    values: Values = {}
    # Pairs of a trial and the next, of one world and of both.
    sides = {"real": ("real", "real"), "ideal": ("ideal", "ideal"), "between": ("real", "ideal")}
    for name, (one, other) in sides.items():
        ours, theirs = kept[one], kept[other]
        if not len(ours) == len(theirs) > 1:
            continue
        pairs = list(zip(ours, theirs[1:] + theirs[:1], strict=True))
        values[f"agreement_{name}"] = [float(np.mean(_called(a) == _called(b))) for a, b in pairs]
        features = [(a.features, b.features) for a, b in pairs]
        if all(x is not None and y is not None for x, y in features):
            values[f"cka_{name}"] = [cka(x, y) for x, y in features]  # type: ignore[arg-type]
    # Less what two networks of the Real World have in common.
    for what in ("agreement", "cka"):
        if {f"{what}_between", f"{what}_real"} <= set(values):
            both = zip(values[f"{what}_between"], values[f"{what}_real"], strict=True)
            values[f"{what}_gap"] = [between - own for between, own in both]
    # Ensembles of each world.
    for world, members in kept.items():
        if len(members) > 1:
            values |= {f"{name}_{world}": v for name, v in _ensembles(members).items()}
    return values


def _called(run: Predictions) -> np.ndarray:
    return np.asarray(run.logits[-1].argmax(1))


def _ensembles(members: Sequence[Predictions]) -> Values:
    """For each network its error, that of the others' mean softmax, and the difference."""
    targets = members[0].targets
    logits = np.stack([run.logits[-1] for run in members]).astype(np.float64)  # (K, N, classes)
    shares = np.exp(logits - logits.max(2, keepdims=True))
    shares /= shares.sum(2, keepdims=True)
    alone = np.mean(shares.argmax(2) != targets, axis=1)  # (K,)
    together = np.mean((shares.sum(0) - shares).argmax(2) != targets, axis=1)
    # What an ensemble gains over its own members, which leave one out.
    gain = (alone.sum() - alone) / (len(alone) - 1) - together
    return {"member": alone.tolist(), "ensemble": together.tolist(), "gain": gain.tolist()}


def matched_calibration(
    real: Sequence[Run], ideal: Sequence[Run], ends: Sequence[Ending]
) -> list[float]:
    """Calibration error of each Real trial less that of its Ideal World at equal soft-error, the
    mean over the log points up to the trial's end whose soft-error both worlds have.
    """
    differences = []
    for run, end in zip(real, ends, strict=True):
        twin = [one for one in ideal if one.config.trial == run.config.trial] or list(ideal)
        ours, theirs = (
            {
                name: curves(runs, f"test_{name}").until(end.step).median
                for name in ("soft_error", "ece")
            }
            for runs in ([run], twin)
        )
        order = np.argsort(theirs["soft_error"])
        at, known = ours["soft_error"], theirs["soft_error"][order]
        inside = (at >= known[0]) & (at <= known[-1])
        expected = np.interp(at, known, theirs["ece"][order])
        if inside.any():
            differences.append(float((ours["ece"] - expected)[inside].mean()))
    return differences
