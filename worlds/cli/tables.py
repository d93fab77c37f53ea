"""Text in columns, as commands print it."""

from collections.abc import Collection, Sequence


def columns(rows: Sequence[tuple[str, ...]], left: Collection[int]) -> str:
    """Rows of text one below the other, the columns `left` to the left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def duration(seconds: float) -> str:
    """Return hours, minutes or seconds, the largest unit of which it is at least one."""
    units = (("hours", 3600), ("minutes", 60), ("seconds", 1))
    name, size = next((unit for unit in units if seconds >= unit[1]), units[-1])
    value = seconds / size
    return f"{value:,.0f} {name}" if value >= 10 else f"{value:.1f} {name}"
