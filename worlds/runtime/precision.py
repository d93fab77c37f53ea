"""Names of the precisions that networks run in, without torch.

bf16 and fp16 keep float32 weights, which autocast casts at each call; bf16-weights casts the
generator's once (cifar5m/sampling/group_norm.py), and elsewhere is bf16.
"""

from typing import Final

PRECISIONS: Final = ("fp32", "tf32", "bf16", "fp16", "bf16-weights")


def check_precision(precision: str) -> str:
    """Return the name of a precision; ValueError if there is none of that name."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return precision
