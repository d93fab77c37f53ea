"""Names of the precisions that networks run in, without torch."""

from typing import Final

PRECISIONS: Final = ("fp32", "tf32", "bf16", "fp16")


def check_precision(precision: str) -> str:
    """Return the name of a precision; ValueError if there is none of that name."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return precision
